"""Appends and reads inside one transaction: the store's (`EventStore.transaction`) or the caller's (`EventStore.join`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from ._failpoints import armed, hit, register
from ._operations import boundary, read
from ._operations.boundary import Item, Seen, Token
from ._operations.joined import append_joined, append_joined_together
from ._operations.prepare import Limits, PreparedAppend, prepare
from ._operations.statement import Operation
from .errors import InvalidArgument
from .events import Appended, Recorded
from .serialization import Registry
from .streams import ANY, Expectation, check_name

__all__ = ["Appends", "Transaction", "TransactionConnection", "check_bounds"]

APPENDED: Final = register("transaction.after_append", "events are inserted in an open transaction; nobody sees them")

T = TypeVar("T")

_BEYOND_ALL: Final = 2**63 - 1


class TransactionConnection(Protocol):
    """What a transaction runs on."""

    schema: str
    handle: Any  # the driver's connection, or whatever else the caller sends SQL of his own through

    async def run(self, operation: Operation[T]) -> T:
        """Drive an operation inside the transaction."""

    def note_append(self) -> None:
        """Take notice that something was appended."""


class Appends:
    """What was appended through a transaction so far."""

    def __init__(self) -> None:
        self._done: list[tuple[PreparedAppend, Appended]] = []

    @property
    def appended(self) -> bool:
        """Whether anything was appended through it."""
        return bool(self._done)

    @property
    def appended_ids(self) -> tuple[tuple[str, ...], tuple[UUID, ...]]:
        """The streams and the ids of the events appended so far."""
        ids = tuple(event_id for one, _ in self._done for event_id in one.event_ids)
        return tuple(one.stream_id for one, _ in self._done), ids

    @property
    def last(self) -> tuple[str, Appended]:
        """Stream and result of the last append."""
        one, done = self._done[-1]
        return one.stream_id, done


class Transaction(Appends):
    """Appends and reads inside one transaction. Made by `store.transaction()`, `store.join()` or `eventstore.sqlalchemy.join()`.

    Guarantees: what is appended is committed with the transaction, or never was. Each append is undone by itself when it is
    refused, so that the transaction stays usable. Reads see what the transaction has appended.
    """

    def __init__(self, connection: TransactionConnection, registry: Registry, limits: Limits) -> None:
        super().__init__()
        self._turns = None
        self._connection = connection
        self._registry = registry
        self._limits = limits

    @property
    def connection(self) -> Any:  # asyncpg.Connection, psycopg.AsyncConnection, AsyncSession: named by their owners
        """What the caller sends SQL of his own through: the connection or session that was joined; asyncpg's by default."""
        return self._connection.handle

    async def append(
        self, stream_id: str, events: object, *, expect: int | Expectation = ANY, request_id: str | None = None
    ) -> Appended:
        """As `EventStore.append`, but committed with the transaction.

        Raises:
            VersionConflict: the stream is not where it was expected, as far as the transaction sees.
            Retryable: under REPEATABLE READ or SERIALIZABLE, somebody else has appended to the stream since the
                transaction's snapshot; or a deadlock. Roll back and run the whole transaction again.
            InvalidArgument: no transaction is open on the joined connection.
            ConnectionLost: the connection died, and the transaction with it.
            InvalidEvent, UnknownEventType, IdempotencyMismatch, LockTimeout: as for `EventStore.append`.

        Guarantees: whatever is raised, nothing was written and the transaction is usable (unless the connection died).
        """
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
        """Read a stream, this transaction's own appends included, as a list. Arguments as for `EventStore.read_stream`."""
        check_name(stream_id, "a stream id")
        low, high = check_bounds(after, before, limit)
        most = _BEYOND_ALL if limit is None else limit
        rows = await self._connection.run(read.read_stream("", stream_id, low, high, most, backwards=backwards))
        return read.decode(self._registry, rows)

    async def stream_version(self, stream_id: str) -> int:
        """Return the version of a stream, this transaction's own appends included; 0 where it has no events."""
        return await self._connection.run(read.stream_version("", check_name(stream_id, "a stream id")))

    # -- for decisions, see boundary.Decisions

    async def _append(self, one: PreparedAppend) -> tuple[Appended, Mapping[str, Seen] | None]:
        done, written = await self._connection.run(append_joined(one, self._connection.schema))
        await self._note([(one, done)])
        return done, written

    async def _append_together(self, ones: Sequence[PreparedAppend]) -> list[Appended]:
        done = await self._connection.run(append_joined_together(ones, self._connection.schema))
        await self._note(list(zip(ones, done, strict=True)))
        return done

    async def _read_boundary(self, items: tuple[Item, ...]) -> tuple[list[Recorded[Any]], Token]:
        rows, token = await self._connection.run(boundary.read_boundary("", items))
        return read.decode(self._registry, rows), token

    async def _note(self, done: Sequence[tuple[PreparedAppend, Appended]]) -> None:
        self._done += done
        self._connection.note_append()
        if armed:
            await hit(APPENDED)


def check_bounds(after: int, before: int | None, limit: int | None) -> tuple[int, int]:
    """Return the open interval of versions to read.

    Raises:
        InvalidArgument: a bound that is no int >= 0.
    """
    for what, value in (("after", after), ("before", before), ("limit", limit)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise InvalidArgument(f"{what} must be an int >= 0, got {value!r}")
    return after, _BEYOND_ALL if before is None else before
