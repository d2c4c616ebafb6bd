"""Appends and reads inside one transaction, blocking. See `EventStore.transaction` and `EventStore.join`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from .._operations import boundary, read
from .._operations.boundary import Item, Seen, Token
from .._operations.joined import append_joined, append_joined_together
from .._operations.prepare import Limits, PreparedAppend, prepare
from .._operations.statement import Operation
from ..events import Appended, Recorded
from ..serialization import Registry
from ..streams import ANY, Expectation, check_name
from ..transaction import Appends, check_bounds

__all__ = ["BlockingTransactionConnection", "Transaction"]

T = TypeVar("T")

_BEYOND_ALL = 2**63 - 1


class BlockingTransactionConnection(Protocol):
    """What a transaction runs on."""

    schema: str
    handle: Any  # the driver's connection, or whatever else the caller sends SQL of his own through

    def run(self, operation: Operation[T]) -> T:
        """Drive an operation inside the transaction."""

    def note_append(self) -> None:
        """Take notice that something was appended."""


class Transaction(Appends):
    """Appends and reads inside one transaction. Made by `store.transaction()`, `store.join()` or `eventstore.sqlalchemy.join()`.

    Guarantees: as the async one.
    """

    def __init__(self, connection: BlockingTransactionConnection, registry: Registry, limits: Limits) -> None:
        super().__init__()
        self._turns = None
        self._connection = connection
        self._registry = registry
        self._limits = limits

    @property
    def connection(self) -> Any:  # psycopg.Connection, sqlalchemy.orm.Session: named by their owners
        """What the caller sends SQL of his own through: the psycopg connection, or the session that was joined."""
        return self._connection.handle

    def append(
        self, stream_id: str, events: object, *, expect: int | Expectation = ANY, request_id: str | None = None
    ) -> Appended:
        """As `EventStore.append`, but committed with the transaction. Raises and guarantees as the async one."""
        one = prepare(self._registry, stream_id, events, expect=expect, request_id=request_id, limits=self._limits)
        return self._append(one)[0]

    def read_stream(
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
        rows = self._connection.run(read.read_stream("", stream_id, low, high, most, backwards=backwards))
        return read.decode(self._registry, rows)

    def stream_version(self, stream_id: str) -> int:
        """Return the version of a stream, this transaction's own appends included; 0 where it has no events."""
        return self._connection.run(read.stream_version("", check_name(stream_id, "a stream id")))

    # -- for decisions, see boundary.Decisions

    def _append(self, one: PreparedAppend) -> tuple[Appended, Mapping[str, Seen] | None]:
        done, written = self._connection.run(append_joined(one, self._connection.schema))
        self._note([(one, done)])
        return done, written

    def _append_together(self, ones: Sequence[PreparedAppend]) -> list[Appended]:
        done = self._connection.run(append_joined_together(ones, self._connection.schema))
        self._note(list(zip(ones, done, strict=True)))
        return done

    def _read_boundary(self, items: tuple[Item, ...]) -> tuple[list[Recorded[Any]], Token]:
        rows, token = self._connection.run(boundary.read_boundary("", items))
        return read.decode(self._registry, rows), token

    def _note(self, done: Sequence[tuple[PreparedAppend, Appended]]) -> None:
        self._done += done
        self._connection.note_append()
