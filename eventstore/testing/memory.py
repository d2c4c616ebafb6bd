"""`MemoryStore`: an event store without a server, for unit tests of code that uses one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, NoReturn
from uuid import UUID

from .._operations import read
from .._operations.boundary import Item, Seen, Token
from .._operations.prepare import Limits, PreparedAppend, prepare
from .._operations.read import Filter
from .._operations.statement import Row
from ..context import Context, use_context
from ..errors import InvalidArgument
from ..events import VERSION, Appended, Recorded
from ..schema import DEFAULT_SCHEMA
from ..serialization import EventType, Registry, Unknown
from ..streams import ANY, Expectation, Position, check_name
from ..transaction import check_bounds
from ..turns import Turns
from .memory_log import MemoryLog, Work
from .memory_readers import BATCH, MemoryReader, MemorySubscription

__all__ = ["MemoryStore", "MemoryTransaction"]


class MemoryTransaction:
    """Appends and reads inside one transaction. Made by `MemoryStore.transaction`; see `eventstore.Transaction`."""

    def __init__(self, log: MemoryLog, work: Work, registry: Registry, limits: Limits) -> None:
        self._log, self._work = log, work
        self._registry, self._limits = registry, limits
        self._turns = None

    @property
    def connection(self) -> NoReturn:
        """There is none.

        Raises:
            InvalidArgument: always; what needs SQL needs a server.
        """
        _refuse_sql("tx.connection")

    async def append(
        self, stream_id: str, events: object, *, expect: int | Expectation = ANY, request_id: str | None = None
    ) -> Appended:
        """As `MemoryStore.append`, but committed with the transaction. A conflict leaves the transaction usable."""
        one = prepare(self._registry, stream_id, events, expect=expect, request_id=request_id, limits=self._limits)
        return (await self._append(one))[0]

    async def read_stream(
        self,
        stream_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> list[Recorded[Any]]:
        """Read a stream, this transaction's own appends included, as a list."""
        check_name(stream_id, "a stream id")
        low, high = check_bounds(after, before, limit)
        await self._step()
        rows = _within(self._log.stream(stream_id, self._work), low, high, limit, backwards=backwards)
        return read.decode(self._registry, rows)

    async def stream_version(self, stream_id: str) -> int:
        """Return the version of a stream, this transaction's own appends included; 0 where it has no events."""
        check_name(stream_id, "a stream id")
        await self._step()
        return len(self._log.stream(stream_id, self._work))

    async def _append(self, one: PreparedAppend) -> tuple[Appended, Mapping[str, Seen] | None]:
        await self._step()
        return await self._log.append(self._work, one)

    async def _append_together(self, ones: Sequence[PreparedAppend]) -> list[Appended]:
        await self._step()
        return await self._log.append_together(self._work, ones)

    async def _read_boundary(self, items: tuple[Item, ...]) -> tuple[list[Recorded[Any]], Token]:
        await self._step()
        rows, token = self._log.read_boundary(items, self._work)
        return read.decode(self._registry, rows), token

    async def _step(self) -> None:
        """Let others run, as a round trip does."""
        await asyncio.sleep(0)
        if self._work.over:
            raise InvalidArgument("the transaction has ended; use it inside its `async with` block")


class MemoryStore:
    """An in-memory twin of `EventStore`: the same names, the same checks, the same errors.

    Everything that is appended goes through the real validation and the real JSON codec and is decoded again, each event
    (the real store verifies the first of a type), so that what would not come back from PostgreSQL fails here too; keys
    of objects come back in jsonb's order. It lives in one event loop and one process, and lasts as long as the object:
    closing it and opening it again keeps the events. Every call lets other tasks run, as a round trip does.

    Transactions are as isolated as the real ones (READ COMMITTED): what they append is invisible to others until they
    commit. Whoever appends to a stream that an open transaction has appended to waits for its end, and then compares
    the expectation with what the stream has become: an exact version loses with `VersionConflict` if the other has
    committed, `ANY` lands behind it. An expectation that fails already is refused without waiting. Readers of the log stop
    in front of open transactions.

    Args:
        events: the event classes that count; default: every `Event` subclass seen so far.
        unknown_events: what a read makes of a type without a class: "keep" or "error".
        limits: the largest events and appends that are taken.
        lock_seconds: how long an append waits for another transaction until `LockTimeout`. Default 5, as the real one.
        clock: says when an event is recorded, with a time zone; default: this machine's clock.

    It has no SQL: `tx.connection` and `join` refuse.
    """

    def __init__(
        self,
        *,
        events: Iterable[type | EventType] | None = None,
        unknown_events: Unknown = "keep",
        limits: Limits | None = None,
        lock_seconds: float = 5.0,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._registry = Registry(events, unknown=unknown_events, verify="always")
        self._limits = limits or Limits()
        self._turns = Turns()
        self._log = MemoryLog(lock_seconds, clock)

    async def open(self) -> MemoryStore:
        """Be ready.

        Raises:
            InvalidArgument: it is open already.
        """
        if self._log.is_open:
            raise InvalidArgument("the store is open already; make another MemoryStore for another event loop or use")
        self._log.is_open = True
        return self

    async def close(self) -> None:
        """Refuse new calls, and fail who waits for events. Safe to repeat. The events are kept."""
        self._log.is_open = False
        self._log.announce()

    async def __aenter__(self) -> MemoryStore:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def dsn(self) -> str:
        """Empty: there is no database."""
        return ""

    @property
    def schema(self) -> str:
        """The schema that a real store would use by default."""
        return DEFAULT_SCHEMA

    async def append(
        self, stream_id: str, events: object, *, expect: int | Expectation = ANY, request_id: str | None = None
    ) -> Appended:
        """Append one event or several to a stream; arguments as for `EventStore.append`.

        Args:
            stream_id: text of 1 to 255 bytes.
            events: one event, one `NewEvent`, or a sequence of them.
            expect: the stream's version before the append: a number, `NO_STREAM`, `EXISTS`, or `ANY`.
            request_id: names the request: the same again, with the same stream and events, returns the first result.

        Raises:
            VersionConflict: the stream is not where it was expected; nothing was written.
            IdempotencyMismatch: the request id was used for other content; nothing was written.
            InvalidEvent, InvalidArgument, UnknownEventType: it cannot be stored.
            LockTimeout: a transaction held the stream for too long.

        Guarantees: all of the events or none, also when it is cancelled; versions without a hole. The same event ids
        again at the same exact version return the first result.
        """
        one = prepare(self._registry, stream_id, events, expect=expect, request_id=request_id, limits=self._limits)
        return (await self._append(one))[0]

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        """A transaction for appends to several streams, all or none."""
        self._log.refuse_closed()
        await asyncio.sleep(0)
        work = self._log.begin()
        try:
            yield MemoryTransaction(self._log, work, self._registry, self._limits)
        except BaseException:
            self._log.roll_back(work)
            raise
        self._log.commit(work)
        await asyncio.sleep(0)

    def join(self, connection: object) -> NoReturn:
        """There is no connection to join.

        Raises:
            InvalidArgument: always; what needs SQL needs a server.
        """
        _refuse_sql("store.join")

    def context(
        self,
        *,
        correlation_id: str | None = None,
        causation_id: UUID | None = None,
        actor: str | None = None,
        **metadata: Any,
    ) -> AbstractContextManager[Context]:
        """Set correlation, causation, actor and metadata for every append inside a ``with`` block."""
        return use_context(correlation_id=correlation_id, causation_id=causation_id, actor=actor, **metadata)

    def wake(self) -> None:
        """Let subscribers look at once. They do so by themselves after every append."""
        self._log.announce()

    async def read_stream(
        self,
        stream_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[Recorded[Any]]:
        """Read a stream in order of version; arguments as for `EventStore.read_stream`."""
        check_name(stream_id, "a stream id")
        low, high = check_bounds(after, before, limit)
        left = limit
        while high - low > 1 and left != 0:
            self._log.refuse_closed()
            await asyncio.sleep(0)
            ask = BATCH if left is None else min(BATCH, left)
            rows = _within(self._log.stream(stream_id), low, high, ask, backwards=backwards)
            for recorded in read.decode(self._registry, rows):
                yield recorded
            if len(rows) < ask:
                return
            left = None if left is None else left - len(rows)
            low, high = (low, rows[-1][VERSION]) if backwards else (rows[-1][VERSION], high)

    def read_all(
        self,
        *,
        after: int = 0,
        limit: int | None = None,
        types: Sequence[type | str] | None = None,
        categories: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        settle: float = 1.0,
    ) -> MemoryReader[Any]:
        """Read the log in order of position, up to its settled end; arguments as for `EventStore.read_all`."""
        check_bounds(after, None, limit)
        wanted = Filter.of(self._registry, types=types, categories=categories, tags=tags)
        return MemoryReader(self._log, self._registry, wanted, after=after, limit=limit, settle_seconds=settle)

    def subscribe(
        self,
        *,
        after: int = 0,
        types: Sequence[type | str] | None = None,
        categories: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
    ) -> MemorySubscription[Any]:
        """Follow the log for ever; arguments as for `read_all`."""
        check_bounds(after, None, None)
        wanted = Filter.of(self._registry, types=types, categories=categories, tags=tags)
        return MemorySubscription(self._log, self._registry, wanted, after=after)

    async def head(self) -> Position:
        """Return the highest committed position; 0 for an empty log."""
        self._log.refuse_closed()
        await asyncio.sleep(0)
        return Position(self._log.head)

    async def stream_version(self, stream_id: str) -> int:
        """Return the version of a stream; 0 where it has no events."""
        check_name(stream_id, "a stream id")
        self._log.refuse_closed()
        await asyncio.sleep(0)
        return len(self._log.stream(stream_id))

    # -- for decisions, see boundary.Decisions

    async def _append(self, one: PreparedAppend) -> tuple[Appended, Mapping[str, Seen] | None]:
        self._log.refuse_closed()
        await asyncio.sleep(0)
        work = self._log.begin()
        try:
            done = await self._log.append(work, one)
        except BaseException:
            self._log.roll_back(work)
            raise
        self._log.commit(work)
        await asyncio.sleep(0)  # the answer is on its way: who is cancelled here is not told, as on a network
        return done

    async def _append_together(self, ones: Sequence[PreparedAppend]) -> list[Appended]:
        async with self.transaction() as tx:
            return await tx._append_together(ones)

    async def _read_boundary(self, items: tuple[Item, ...]) -> tuple[list[Recorded[Any]], Token]:
        self._log.refuse_closed()
        await asyncio.sleep(0)
        rows, token = self._log.read_boundary(items)
        return read.decode(self._registry, rows), token


def _within(rows: Sequence[Row], low: int, high: int, limit: int | None, *, backwards: bool) -> Sequence[Row]:
    """Return at most `limit` rows of a stream with versions in the open interval (low, high)."""
    found = rows[low : max(low, high - 1)]
    return found[::-1][:limit] if backwards else found[:limit]


def _refuse_sql(what: str) -> NoReturn:
    raise InvalidArgument(
        f"{what} needs SQL, and a MemoryStore has none; test this on a real server: EventStore('embedded:') starts one"
    )
