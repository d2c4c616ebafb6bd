"""What users read the log with: `LogReader` ends at the settled mark, `Subscription` goes on for ever.

Neither passes an event that may still become visible: both read only up to positions that the frontier calls decided,
in a statement after that was known. Neither holds a connection between batches.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Generic, TypeVar
from uuid import UUID

from .. import _details
from .._drivers.asyncpg import AsyncpgDriver
from .._failpoints import armed, hit, register
from .._operations import marks, read
from .._operations.marks import Identity
from .._operations.read import BatchSize, Filter
from .._operations.statement import Row
from ..errors import InvalidArgument, LogReplaced, LogRewound, Transient
from ..events import DETAILS, POSITION, Recorded
from ..serialization import Registry
from .frontier import Frontier
from .rounds import Reached

__all__ = ["Batch", "LogReader", "Subscription"]

E = TypeVar("E")
_log = logging.getLogger("eventstore.feed")

READING: Final = register("feed.before_read", "events are decided; they have not been read")
DELIVERING: Final = register("feed.after_read", "events are read and decoded; whoever follows has not been given them")

FOLLOWED: Final = 2000
"""Most events of a subscription's batch: for a projection it is a transaction, and a commit costs more than a cold cache."""

RETRY_SECONDS: Final = (0.05, 2.0)
"""First and longest pause before a subscription reads again after its connection failed; jittered."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[E]):
    """Some events of the log, in order, and how far they cover it.

    Attributes:
        events: those that the filter lets through; may be empty. Each is decoded when it is looked at: keep the events
            themselves to look at them again, not the batch.
        upto: every event up to this position was delivered by now, or filtered out.
    """

    events: Sequence[Recorded[E]]
    upto: int


class _Source:
    """Where both readers get their batches from."""

    def __init__(self, driver: AsyncpgDriver, frontier: Frontier, registry: Registry, wanted: Filter) -> None:
        self.driver, self.frontier, self.registry, self.wanted = driver, frontier, registry, wanted

    async def refuse_beyond(self, after: int, decided: int) -> None:
        """Refuse a position that this log has never given out: it would wait in silence until the log has caught up.

        Raises:
            LogRewound: it has not.
        """
        if after > decided:
            last = await self.driver.run("read", marks.last_given())
            if after > last:
                raise LogRewound(after, last, "nothing that far was ever given out")

    async def rows(self, after: int, upto: int, limit: int) -> tuple[Sequence[Row], int]:
        """Return one batch, and how far it covers the log."""
        return await self.driver.run("read", read.read_log(after, upto, limit, self.wanted))


class _Ahead:
    """Reads batches, the next one while the last one is worked on: the server computes meanwhile."""

    def __init__(self, source: _Source, size: BatchSize) -> None:
        self._source, self._size = source, size
        self._task: asyncio.Task[tuple[Sequence[Row], int]] | None = None
        self._after = -1

    async def rows(self, after: int, upto: int, *, more: bool = True) -> tuple[Sequence[Row], int]:
        """Return one batch, and how far it covers the log.

        Args:
            after: where the last one ended.
            upto: how far the log is decided.
            more: whether the next batch will be asked for.
        """
        task, self._task = self._task, None
        if task is not None and self._after == after:
            rows, covered = await task
        else:
            rows, covered = await self._source.rows(after, upto, self._size.rows)
        self._size.note(rows)
        if more and covered < upto:
            self._after = covered
            self._task = asyncio.create_task(self._source.rows(covered, upto, self._size.rows), name="eventstore-read-ahead")
            await asyncio.sleep(0)  # the task runs until its request is sent; the server works from there on
        return rows, covered

    def close(self) -> None:
        """Give up what was read ahead. Waits for nothing, so that a loop that is left has nothing to wait for either; the
        task gives its connection back, and `store.close` waits for that.
        """
        task, self._task = self._task, None
        if task is not None:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else will ask
            task.cancel()


class LogReader(Generic[E]):
    """The log from a position up to its settled end, as an async iterator. Made by `store.read_all`.

    Attributes:
        settled: None until the end is reached; then True if everything committed before the end was looked for has
            been delivered, False if a held transaction kept the end open for longer than `settle`, so that reading ended
            before the first hole. Stopping at `limit` leaves it None.
    """

    def __init__(
        self,
        driver: AsyncpgDriver,
        frontier: Frontier,
        registry: Registry,
        wanted: Filter,
        *,
        after: int,
        limit: int | None,
        settle_seconds: float,
    ) -> None:
        self._source = _Source(driver, frontier, registry, wanted)
        self._after, self._limit, self._settle_seconds = after, limit, settle_seconds
        self.settled: bool | None = None

    async def __aiter__(self) -> AsyncIterator[Recorded[E]]:
        self.settled = None
        left = self._limit
        if left == 0:
            return
        async with aclosing(self._rows()) as batches:
            async for rows in batches:
                for recorded in read.decode_each(self._source.registry, rows if left is None else rows[:left]):
                    yield recorded
                if left is not None:
                    left -= len(rows)
                    if left <= 0:
                        return
                del rows  # before the next ones come: memory that is still in the processor's cache is used again

    async def _rows(self) -> AsyncGenerator[Sequence[Row], None]:
        """First what is decided already, then up to a fresh mark: history does not wait for the log's end."""
        source = self._source
        ahead = _Ahead(source, BatchSize(rows=min(100, self._limit or 100)))
        cursor, complete, upto = self._after, None, (await source.frontier.decided()).position
        await source.refuse_beyond(cursor, upto)
        try:
            while True:
                while cursor < upto:
                    rows, cursor = await ahead.rows(cursor, upto, more=self._limit is None)
                    yield rows
                    del rows  # as above
                if complete is not None:
                    self.settled = complete
                    return
                settled = await source.frontier.settled(self._settle_seconds)
                upto, complete = settled.mark.position, settled.complete
        finally:
            ahead.close()


class Subscription(Generic[E]):
    """The log from a position on, for ever. An async context manager, and an async iterator inside. Made by
    `store.subscribe`.

    A lost connection is made again; the subscription goes on where it was, after checking that the last event that it
    delivered still stands where it stood.
    """

    def __init__(self, driver: AsyncpgDriver, frontier: Frontier, registry: Registry, wanted: Filter, *, after: int) -> None:
        self._source = _Source(driver, frontier, registry, wanted)
        self._delivered = after
        self._last: tuple[int, UUID] | None = None
        self._identity: Identity | None = None
        self._generation = 0
        self._entered = False

    async def __aenter__(self) -> Subscription[E]:
        """Check the position.

        Raises:
            LogRewound: the log was never given out that far: the position belongs to another log.
        """
        source = self._source
        reached = await source.frontier.decided()
        await source.refuse_beyond(self._delivered, reached.position)
        self._last = await source.driver.run("read", read.newest_upto(self._delivered))
        self._identity = source.frontier.identity
        self._generation = reached.generation
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False

    @property
    def position(self) -> int:
        """Everything up to here was delivered, the event that the loop is at included."""
        return self._delivered

    async def __aiter__(self) -> AsyncIterator[Recorded[E]]:
        """Yield events. A loop that is left and begun again goes on with the next event."""
        async with aclosing(self._read(None)) as batches:
            async for batch in batches:
                for recorded in batch.events:
                    self._delivered = recorded.position
                    yield recorded
                self._delivered = batch.upto

    async def batches(self, *, idle_seconds: float | None = None) -> AsyncGenerator[Batch[E], None]:
        """Yield batches; also empty ones, which say how far the log was looked through.

        Args:
            idle_seconds: yield an empty batch when nothing has come for so long; None: wait.

        Raises:
            LogRewound, LogReplaced: after a reconnect the log is not the one that was read.
            StoreClosed: the store was closed.
            EventCorrupt, UnknownEventType: from the batch, at the event that they are about.
        """
        async with aclosing(self._read(idle_seconds)) as batches:
            async for batch in batches:
                self._delivered = batch.upto
                yield batch

    async def _read(self, idle_seconds: float | None) -> AsyncGenerator[Batch[E], None]:
        if not self._entered:
            raise InvalidArgument("use `async with store.subscribe(...) as live:` around the loop")
        if self._last is not None and self._last[0] > self._delivered:  # a loop was left in the middle of a batch
            self._last = await self._source.driver.run("read", read.newest_upto(self._delivered))
        ahead = _Ahead(self._source, BatchSize(most=FOLLOWED))
        try:
            async for batch in self._read_on(ahead, idle_seconds):
                yield batch
        finally:
            ahead.close()

    async def _read_on(self, ahead: _Ahead, idle_seconds: float | None) -> AsyncGenerator[Batch[E], None]:
        cursor, pause = self._delivered, RETRY_SECONDS[0]
        while self._entered:
            try:
                reached = await self._beyond(cursor, idle_seconds)
                if reached is None:
                    yield Batch((), cursor)
                    continue
                if reached.generation != self._generation:
                    ahead.close()  # it was read from what may be another log
                await self._verify(reached)
                if reached.position <= cursor:
                    continue
                if armed:
                    await hit(READING)
                rows, upto = await ahead.rows(cursor, reached.position)
                if not self._source.frontier.stands(self._generation):
                    ahead.close()
                    continue
            except Transient as error:
                _log.warning("a subscription at position %d reads again: %s", cursor, error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, RETRY_SECONDS[1])
                continue
            pause = RETRY_SECONDS[0]
            if rows:
                self._last = (rows[-1][POSITION], _details.event_id(rows[-1][DETAILS]))
            cursor = upto
            if armed:
                await hit(DELIVERING)
            yield Batch(read.Decoded(self._source.registry, rows), upto)

    async def _beyond(self, cursor: int, idle_seconds: float | None) -> Reached | None:
        """Wait for something behind `cursor`; None when nothing has come for so long."""
        waiting = asyncio.timeout(idle_seconds)
        try:
            async with waiting:
                return await self._source.frontier.beyond(cursor, self._generation)
        except TimeoutError:
            if waiting.expired():
                return None
            raise

    async def _verify(self, reached: Reached) -> None:
        """After a reconnect: is it the same log, and does the last event known still stand where it stood?"""
        if reached.generation == self._generation:
            return
        known, found = self._identity, self._source.frontier.identity
        if known and found and (known.system_identifier, known.log_epoch) != (found.system_identifier, found.log_epoch):
            raise LogReplaced(str(known), str(found))
        if self._last is not None:
            position, event_id = self._last
            now = await self._source.driver.run("read", read.event_id_at(position))
            if now != event_id:
                why = f"position {position} held event {event_id} and now holds {now or 'none'}"
                raise LogRewound(self._delivered, reached.position, why)
        self._generation = reached.generation
