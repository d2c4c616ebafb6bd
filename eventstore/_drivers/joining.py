"""Connections that are not ours: which driver's they are, and whether a transaction is open on them.

psycopg begins a transaction by itself with the first statement, unless the connection is in autocommit mode: there an append
may come first.
"""

from __future__ import annotations

import contextlib
from typing import Any, TypeVar

from .._operations.statement import Operation
from ..errors import ConnectionLost, InvalidArgument
from .asyncpg import AsyncpgConnection, is_asyncpg
from .connection import AsyncConnection, BlockingConnection
from .psycopg import AsyncPsycopgConnection, PsycopgConnection, is_async, is_blocking

__all__ = ["Joined", "JoinedBlocking", "wrap", "wrap_blocking"]

T = TypeVar("T")


class Joined:
    """A connection with an open transaction that somebody else ends; each use makes sure that it is still open.

    Args:
        connection: the connection, and what runs operations on it.

    Raises:
        InvalidArgument: no transaction is open on it.
        ConnectionLost: it is closed.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        _check_in_transaction(connection)
        self._connection = connection
        self.schema = connection.schema
        self.handle = connection.raw

    async def run(self, operation: Operation[T]) -> T:
        """Drive an operation inside the transaction.

        Raises:
            InvalidArgument: no transaction is open; what the operation writes would be committed by itself.
            ConnectionLost: the connection is closed.
        """
        with contextlib.closing(operation):
            _check_in_transaction(self._connection)
            return await self._connection.run(operation)

    def note_append(self) -> None:
        """Nobody tells us when the transaction is committed: `EventStore.wake` is its owner's to call."""


class JoinedBlocking:
    """As `Joined`, in the caller's thread."""

    def __init__(self, connection: BlockingConnection) -> None:
        _check_in_transaction(connection)
        self._connection = connection
        self.schema = connection.schema
        self.handle = connection.raw

    def run(self, operation: Operation[T]) -> T:
        """As `Joined.run`."""
        with contextlib.closing(operation):
            _check_in_transaction(self._connection)
            return self._connection.run(operation)

    def note_append(self) -> None:
        """As `Joined.note_append`."""


def wrap(connection: Any, schema: str) -> AsyncConnection:  # of the driver
    """Return what runs operations on a driver's connection.

    Raises:
        InvalidArgument: of no driver that we know.
    """
    if is_asyncpg(connection):
        return AsyncpgConnection(connection, schema)
    if is_async(connection):
        return AsyncPsycopgConnection(connection, schema)
    raise InvalidArgument(
        f"expected an asyncpg connection or a psycopg AsyncConnection, got {_name(connection)}; for SQLAlchemy use "
        "eventstore.sqlalchemy.join(store, session), for a blocking psycopg connection eventstore.sync.EventStore"
    )


def wrap_blocking(connection: Any, schema: str) -> BlockingConnection:  # of the driver
    """As `wrap`, for a blocking store."""
    if is_blocking(connection):
        return PsycopgConnection(connection, schema)
    raise InvalidArgument(
        f"expected a blocking psycopg Connection, got {_name(connection)}; for SQLAlchemy use eventstore.sqlalchemy.join("
        "store, session), for an async connection the async eventstore.EventStore"
    )


def _name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _check_in_transaction(connection: AsyncConnection | BlockingConnection) -> None:
    if connection.closed:
        raise ConnectionLost("the connection is closed, or back in its pool; join one that is open")
    if not connection.in_transaction:
        raise InvalidArgument(
            "no transaction is open on the connection, so that an append would be committed alone, whatever comes after it; "
            "begin one first (`with connection.transaction():`, `async with` where it is async), or use store.append or "
            "store.transaction()"
        )
