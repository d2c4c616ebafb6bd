"""What users read the log with: `LogReader` ends at the settled mark, `Subscription` goes on for ever. Both block.

As in `eventstore.feed.readers`, neither passes an event that may still become visible, and neither holds a connection
between batches. A reader belongs to the thread that iterates over it; only `Subscription.close` may come from another.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Generic, TypeVar
from uuid import UUID

from .. import _details
from .._drivers.psycopg_pools import PsycopgDriver
from .._operations import marks, read
from .._operations.read import BatchSize, Filter
from ..errors import InvalidArgument, LogRewound, StoreClosed, Transient
from ..events import DETAILS, POSITION, Recorded
from ..feed.readers import FOLLOWED, RETRY_SECONDS, Batch
from ..serialization import Registry
from ..telemetry import Telemetry
from .frontier import Frontier
from .waking import Waker

__all__ = ["LogReader", "Source", "Subscription"]

E = TypeVar("E")
_log = logging.getLogger("eventstore.sync")

SHORTEST_PAUSE: Final = 0.002
"""The first pause of the poll, after something has happened; it grows from there."""


class Source:
    """Where both readers get their events from."""

    def __init__(
        self, driver: PsycopgDriver, waker: Waker, registry: Registry, wanted: Filter, telemetry: Telemetry | None
    ) -> None:
        self.driver, self.waker, self.registry, self.wanted = driver, waker, registry, wanted
        self.frontier = Frontier(driver, telemetry)

    def refuse_beyond(self, after: int) -> None:
        """Refuse a position that this log has never given out: it would wait in silence until the log has caught up.

        Raises:
            LogRewound: it has not.
        """
        if after > self.frontier.decided:
            last = self.driver.run("read", marks.last_given())
            if after > last:
                raise LogRewound(after, last, "nothing that far was ever given out")


class LogReader(Generic[E]):
    """The log from a position up to its settled end, as an iterator. Made by `store.read_all`.

    Attributes:
        settled: None until the end is reached; then True if everything committed before the end was looked for has
            been delivered, False if a held transaction kept the end open for longer than `settle`, so that reading ended
            before the first hole. Stopping at `limit` leaves it None.
    """

    def __init__(self, source: Source, *, after: int, limit: int | None, settle_seconds: float) -> None:
        self._source = source
        self._after, self._limit, self._settle_seconds = after, limit, settle_seconds
        self.settled: bool | None = None

    def __iter__(self) -> Iterator[Recorded[E]]:
        """Yield events: first what is decided already, then up to a fresh mark, so that history waits for nobody."""
        self.settled = None
        source, left, size = self._source, self._limit, BatchSize(rows=min(100, self._limit or 100))
        if left == 0:
            return
        cursor, complete, upto = self._after, None, source.frontier.look()
        source.refuse_beyond(cursor)
        while True:
            while cursor < upto:
                ask = size.rows if left is None else min(size.rows, left)
                rows, cursor = source.driver.run("read", read.read_log(cursor, upto, ask, source.wanted))
                yield from read.decode_each(source.registry, rows)
                size.note(rows)
                left = None if left is None else left - len(rows)
                if left == 0:
                    return
            if complete is not None:
                self.settled = complete
                return
            upto, complete = source.frontier.settle(self._settle_seconds, self._wait)

    def _wait(self, seconds: float) -> None:
        waker = self._source.waker
        waker.wait(waker.count, seconds)
        if waker.closed:
            raise StoreClosed("the store was closed while somebody was reading from it")


class Subscription(Generic[E]):
    """The log from a position on, for ever. A context manager, and an iterator inside. Made by `store.subscribe`.

    A lost connection is made again; the subscription goes on where it was, after checking that the last event that it
    delivered still stands where it stood.
    """

    def __init__(self, source: Source, *, after: int, poll_seconds: float) -> None:
        self._source = source
        self._poll_seconds = poll_seconds
        self._delivered = after
        self._last: tuple[int, UUID] | None = None
        self._generation = 0
        self._entered = False
        self._ended = False

    def __enter__(self) -> Subscription[E]:
        """Check the position.

        Raises:
            LogRewound: the log was never given out that far: the position belongs to another log.
        """
        source = self._source
        source.frontier.look()
        source.refuse_beyond(self._delivered)
        self._last = source.driver.run("read", read.newest_upto(self._delivered))
        self._generation = source.frontier.generation
        self._entered, self._ended = True, False
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._entered = False

    def close(self) -> None:
        """End the loop, from whichever thread: after the events of the batch that it is at. It does not wait for that."""
        self._ended = True
        self._source.waker.stir()

    @property
    def position(self) -> int:
        """Everything up to here was delivered, the event that the loop is at included."""
        return self._delivered

    def __iter__(self) -> Iterator[Recorded[E]]:
        """Yield events. A loop that is left and begun again goes on with the next event.

        Raises:
            As `batches`.
        """
        for batch in self._read(None):
            for recorded in batch.events:
                self._delivered = recorded.position
                yield recorded
                if self._ended:
                    return
            self._delivered = batch.upto

    def batches(self, *, idle_seconds: float | None = None) -> Iterator[Batch[E]]:
        """Yield batches; also empty ones, which say how far the log was looked through.

        Args:
            idle_seconds: yield an empty batch when nothing has come for so long; None: wait.

        Raises:
            LogRewound, LogReplaced: after a reconnect the log is not the one that was read.
            StoreClosed: the store was closed.
            EventCorrupt, UnknownEventType: from the batch, at the event that they are about.
        """
        for batch in self._read(idle_seconds):
            self._delivered = batch.upto
            yield batch

    def _read(self, idle_seconds: float | None) -> Iterator[Batch[E]]:
        if not self._entered:
            raise InvalidArgument("use `with store.subscribe(...) as live:` around the loop")
        source, size = self._source, BatchSize(most=FOLLOWED)
        cursor, pause = self._delivered, RETRY_SECONDS[0]
        if self._last is not None and self._last[0] > cursor:  # a loop was left in the middle of a batch
            self._last = source.driver.run("read", read.newest_upto(cursor))
        while not self._ended:
            try:
                if not self._reached(cursor, idle_seconds):
                    if not self._ended:
                        yield Batch((), cursor)
                    continue
                upto = source.frontier.decided
                rows, upto = source.driver.run("read", read.read_log(cursor, upto, size.rows, source.wanted))
                if not source.frontier.stands(self._generation):
                    continue  # it was read from what may be another log
            except Transient as error:
                _log.warning("a subscription at position %d reads again: %s", cursor, error)
                self._wait(source.waker.count, pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, RETRY_SECONDS[1])
                continue
            pause = RETRY_SECONDS[0]
            size.note(rows)
            if rows:
                self._last = (rows[-1][POSITION], _details.event_id(rows[-1][DETAILS]))
            cursor = upto
            yield Batch(read.Decoded(source.registry, rows), upto)

    def _reached(self, cursor: int, idle_seconds: float | None) -> bool:
        """Look until something behind `cursor` is decided; False: nothing has come for so long, or this has ended."""
        frontier, waker = self._source.frontier, self._source.waker
        deadline = None if idle_seconds is None else time.monotonic() + idle_seconds
        pause = SHORTEST_PAUSE
        while not self._ended:
            seen = waker.count
            decided = frontier.look()
            self._verify(decided)
            if decided > cursor:
                return True
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            soon = frontier.next_look()
            seconds = pause if soon is None else soon
            if self._wait(seen, seconds if left is None else min(seconds, left)):
                pause = SHORTEST_PAUSE
            elif soon is None:
                pause = min(pause * 1.5, self._poll_seconds)
        return False

    def _wait(self, seen: int, seconds: float) -> bool:
        waker = self._source.waker
        woken = not self._ended and waker.wait(seen, seconds)
        if waker.closed and not self._ended:
            raise StoreClosed("the store was closed while somebody was reading from it")
        return woken

    def _verify(self, decided: int) -> None:
        """After a reconnect: does the last event known still stand where it stood?"""
        frontier = self._source.frontier
        if frontier.generation == self._generation:
            return
        if self._last is not None:
            position, event_id = self._last
            now = self._source.driver.run("read", read.event_id_at(position))
            if now != event_id:
                why = f"position {position} held event {event_id} and now holds {now or 'none'}"
                raise LogRewound(self._delivered, decided, why)
        self._source.refuse_beyond(self._delivered)
        self._generation = frontier.generation
