"""What `MemoryStore` reads the log with: the twins of `LogReader` and `Subscription`, over rows in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final, Generic, TypeVar

from .. import _details
from .._operations import read
from .._operations.read import Decoded, Filter
from .._operations.statement import Row
from ..errors import InvalidArgument, LogRewound
from ..events import DETAILS, POSITION, STREAM, TYPE, Recorded
from ..feed import Batch
from ..serialization import Registry
from ..streams import category_of
from .memory_log import MemoryLog

__all__ = ["BATCH", "MemoryReader", "MemorySubscription"]

E = TypeVar("E")

BATCH: Final = 100
"""Events that are read at once; others run in between."""


class _Source:
    """Where both get their rows from."""

    def __init__(self, log: MemoryLog, registry: Registry, wanted: Filter) -> None:
        self.log, self.registry, self._wanted = log, registry, wanted

    async def check(self, after: int) -> None:
        """Refuse a closed store, and a position that was never given out.

        Raises:
            StoreClosed, LogRewound: as said.
        """
        self.log.refuse_closed()
        if after > self.log.last_given:
            raise LogRewound(after, self.log.last_given, "nothing that far was ever given out")
        await asyncio.sleep(0)

    def rows(self, after: int, upto: int) -> tuple[Sequence[Row], int]:
        """Return a batch, and how far it covers the log."""
        rows = self.log.between(after, upto)[:BATCH]
        covered = rows[-1][POSITION] if len(rows) == BATCH else upto
        return [row for row in rows if self._wants(row)], covered

    def _wants(self, row: Row) -> bool:
        types, categories = self._wanted.types, self._wanted.categories
        if types is not None and row[TYPE] not in types:
            return False
        if categories is not None and category_of(row[STREAM]) not in categories:
            return False
        return not self._wanted.tags or set(self._wanted.tags) <= set(_details.tags(row[DETAILS]))


class MemoryReader(Generic[E]):
    """The log from a position up to its settled end, as an async iterator; see `eventstore.LogReader`.

    Attributes:
        settled: as there.
    """

    def __init__(
        self,
        log: MemoryLog,
        registry: Registry,
        wanted: Filter,
        *,
        after: int,
        limit: int | None,
        settle_seconds: float,
    ) -> None:
        self._source = _Source(log, registry, wanted)
        self._after, self._limit, self._settle_seconds = after, limit, settle_seconds
        self.settled: bool | None = None

    async def __aiter__(self) -> AsyncIterator[Recorded[E]]:
        self.settled = None
        left = self._limit
        if left == 0:
            return
        async with aclosing(self._rows()) as batches:
            async for rows in batches:
                for recorded in read.decode_each(self._source.registry, rows[:left]):
                    yield recorded
                if left is not None:
                    left -= len(rows)
                    if left <= 0:
                        return

    async def _rows(self) -> AsyncGenerator[Sequence[Row], None]:
        """First what is decided, then up to a fresh mark."""
        source, log = self._source, self._source.log
        await source.check(self._after)
        cursor, upto, complete = self._after, log.decided, None
        while True:
            while cursor < upto:
                rows, cursor = source.rows(cursor, upto)
                yield rows
                await asyncio.sleep(0)
            if complete is not None:
                self.settled = complete
                return
            upto, complete = await log.settled(self._settle_seconds)


class MemorySubscription(Generic[E]):
    """The log from a position on, for ever; see `eventstore.Subscription`."""

    def __init__(self, log: MemoryLog, registry: Registry, wanted: Filter, *, after: int) -> None:
        self._source = _Source(log, registry, wanted)
        self._delivered = after
        self._entered = False

    async def __aenter__(self) -> MemorySubscription[E]:
        """Check the position.

        Raises:
            LogRewound: the log was never given out that far.
        """
        await self._source.check(self._delivered)
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
            StoreClosed: the store was closed.
        """
        async with aclosing(self._read(idle_seconds)) as batches:
            async for batch in batches:
                self._delivered = batch.upto
                yield batch

    async def _read(self, idle_seconds: float | None) -> AsyncGenerator[Batch[E], None]:
        if not self._entered:
            raise InvalidArgument("use `async with store.subscribe(...) as live:` around the loop")
        cursor = self._delivered
        while self._entered:
            decided = await self._beyond(cursor, idle_seconds)
            if decided is None:
                yield Batch((), cursor)
                continue
            rows, cursor = self._source.rows(cursor, decided)
            yield Batch(Decoded(self._source.registry, rows), cursor)

    async def _beyond(self, cursor: int, idle_seconds: float | None) -> int | None:
        try:
            async with asyncio.timeout(idle_seconds):
                return await self._source.log.beyond(cursor)
        except TimeoutError:
            return None
