"""Append and read inside a SQLAlchemy transaction: a session's, or a Core connection's.

What the session writes and what is appended is committed together or not at all. Operations run on the very connection
that the session has checked out, below SQLAlchemy.

**Whose transaction.** The session's, always. SQLAlchemy believes in a transaction long before the server does: its adapter
for asyncpg sends BEGIN with the first statement that SQLAlchemy itself executes, and a Core connection's ``commit()`` does
nothing before that. So where nothing has been executed yet, ``select 1`` goes through SQLAlchemy first; without it an
append would be committed at once and outlive ``rollback()``.

**Savepoints.** Ours are plain SQL, one for each append, gone when it returns: SQLAlchemy's own (``begin_nested``) lie around
them and never meet them.

**Waking.** A session's ``after_commit`` wakes the store. The mark is made by an append, once for each transaction of the
session, and dropped at that transaction's end, however it ends. A nested commit releases a savepoint and wakes nobody.
Core connections have no such hook: call `EventStore.wake`, or leave it to the poll.

**What if it dies here.** When the server hangs up, SQLAlchemy is told so (``invalidate``): the session asks for a rollback as
after any lost connection, and then works again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar, overload

from sqlalchemy import Connection, event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from . import sync
from ._drivers.connection import AsyncConnection as AsyncDriverConnection
from ._drivers.connection import BlockingConnection
from ._drivers.joining import wrap, wrap_blocking
from ._drivers.sqlstates import from_sqlstate
from ._operations.statement import Operation
from .errors import ConnectionLost, EventStoreError, InvalidArgument
from .store import EventStore
from .transaction import Transaction

__all__ = ["join"]

T = TypeVar("T")
C = TypeVar("C", bound=AsyncDriverConnection | BlockingConnection)

FAILURES: Final = (exc.SQLAlchemyError, OSError)
"""What a session meets on its way to a connection."""

DRIVERS: Final = ("asyncpg", "psycopg")
"""SQLAlchemy's dialects whose connections we can run on."""

_WAKES: Final = "eventstore.wakes"
"""Where a session keeps the stores that its commit wakes: a list in ``Session.info``."""


@overload
def join(store: EventStore, session: AsyncSession | async_scoped_session[AsyncSession] | AsyncConnection) -> Transaction: ...


@overload
def join(store: sync.EventStore, session: Session | scoped_session[Session] | Connection) -> sync.Transaction: ...


def join(store: EventStore | sync.EventStore, session: object) -> Transaction | sync.Transaction:
    """Append and read inside the transaction of a SQLAlchemy session, together with what the session writes.

    The session begins, commits and rolls back as ever; what `join` returns is good for as long as the session is, over any
    number of its transactions. A commit wakes the store's subscribers. Pending objects are flushed when the session flushes,
    not by an append. Keep such transactions short: followers wait for whoever has appended and not yet committed.

    Args:
        store: an open store; a blocking one for a blocking session.
        session: on an engine for psycopg (``postgresql+psycopg://``) or, if async, also asyncpg (``postgresql+asyncpg://``), to
            the store's own database; or such a connection of Core's, after whose commit `wake` is the caller's to call.
            Any isolation level but AUTOCOMMIT.

    Raises:
        InvalidArgument: something else; from its methods also a session on another database, in AUTOCOMMIT mode, closed, or
            one that has to be rolled back first.
        StoreClosed: the store is not open.
        ConnectionLost: from its methods: the session's database cannot be reached.

    Guarantees: an append that is refused leaves the session as it was. ``session.rollback()`` takes every append of the
    transaction back, a ``begin_nested()`` that is rolled back those made inside.
    """
    if isinstance(session, (async_scoped_session, scoped_session)):
        session = session()
    if isinstance(store, EventStore) and isinstance(session, (AsyncSession, AsyncConnection)):
        return store._join(_Joined(store, session))
    if isinstance(store, sync.EventStore) and isinstance(session, (Session, Connection)):
        return store._join(_JoinedBlocking(store, session))
    raise InvalidArgument(
        "expected an eventstore.EventStore with an AsyncSession or AsyncConnection, or an eventstore.sync.EventStore with a "
        f"Session or Connection, got {_full_name(store)} with {_full_name(session)}"
    )


class _Joined:
    """What a `Transaction` runs on: the connection that the session has now, begun for real."""

    def __init__(self, store: EventStore, target: AsyncSession | AsyncConnection) -> None:
        self.schema = store.schema
        self.handle = target
        self._wake = store.wake

    async def run(self, operation: Operation[T]) -> T:
        """Drive an operation inside the session's transaction."""
        with contextlib.closing(operation):
            try:
                connection = await self.handle.run_sync(_begun, partial(wrap, schema=self.schema))
            except FAILURES as error:
                raise _translated(error) from error
            try:
                return await connection.run(operation)
            except ConnectionLost:
                if connection.closed:
                    await self.handle.run_sync(_invalidate)
                raise

    def note_append(self) -> None:
        """See to it that the session's commit wakes the store."""
        if isinstance(self.handle, AsyncSession):
            _wake_after_commit(self.handle.sync_session, self._wake)


class _JoinedBlocking:
    """As `_Joined`, in the session's thread."""

    def __init__(self, store: sync.EventStore, target: Session | Connection) -> None:
        self.schema = store.schema
        self.handle = target
        self._wake = store.wake

    def run(self, operation: Operation[T]) -> T:
        """Drive an operation inside the session's transaction."""
        with contextlib.closing(operation):
            try:
                connection = _begun(self.handle, partial(wrap_blocking, schema=self.schema))
            except FAILURES as error:
                raise _translated(error) from error
            try:
                return connection.run(operation)
            except ConnectionLost:
                if connection.closed:
                    _invalidate(self.handle)
                raise

    def note_append(self) -> None:
        """See to it that the session's commit wakes the store."""
        if isinstance(self.handle, Session):
            _wake_after_commit(self.handle, self._wake)


def _begun(target: Session | Connection, wrapped: Callable[[Any], C]) -> C:
    """Return the driver's connection of the transaction that `target` is in, begun on the server or certain to begin.

    Raises:
        InvalidArgument: of a dialect that we cannot run on, or in AUTOCOMMIT mode.
        ConnectionLost: it is closed.
    """
    connection = target.connection() if isinstance(target, Session) else target
    dialect = connection.dialect
    if dialect.name != "postgresql" or dialect.driver not in DRIVERS:
        raise InvalidArgument(
            "expected a session on the store's own database by postgresql+asyncpg:// or postgresql+psycopg://, got one by "
            f"{dialect.name}+{dialect.driver}://"
        )
    joined = wrapped(connection.connection.driver_connection)
    if joined.closed:
        connection.invalidate()
        raise ConnectionLost("the session's connection is closed; roll the session back and run the whole transaction again")
    if not (connection.in_transaction() and joined.in_transaction):
        connection.exec_driver_sql("select 1")
    if not joined.in_transaction:
        raise InvalidArgument(
            "the session's connection is in AUTOCOMMIT mode, so that an append would be committed at once, whatever comes after "
            "it; use another isolation_level, or store.append"
        )
    return joined


def _invalidate(target: Session | Connection) -> None:
    """Tell SQLAlchemy that the server hung up, which it has not seen for itself."""
    connection = target.connection() if isinstance(target, Session) else target
    connection.invalidate()


def _translated(error: exc.SQLAlchemyError | OSError) -> EventStoreError:
    """Return our error for one that SQLAlchemy made on the way to a connection."""
    if isinstance(error, exc.PendingRollbackError):
        return InvalidArgument(f"the session must be rolled back before it is used again: {error}")
    if isinstance(error, exc.UnboundExecutionError):
        return InvalidArgument(
            f"the session does not say which database an event store is in: {error}; join `await session.connection("
            "bind_arguments=...)` in its place"
        )
    if isinstance(error, exc.DBAPIError):
        sqlstate = getattr(error.orig, "sqlstate", None)
        if sqlstate:
            return from_sqlstate(sqlstate, str(error.orig))
    elif isinstance(error, exc.SQLAlchemyError):
        return InvalidArgument(f"the session cannot be used: {error}")
    return ConnectionLost(f"the session's database cannot be reached: {getattr(error, 'orig', error)}")


def _wake_after_commit(session: Session, wake: Callable[[], None]) -> None:
    """Call `wake` when the session's transaction is committed, once; never when it is not."""
    if not event.contains(session, "after_commit", _committed):
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_transaction_end", _ended)
    wakes = session.info.setdefault(_WAKES, [])
    if wake not in wakes:
        wakes.append(wake)


def _committed(session: Session) -> None:
    if not session.in_nested_transaction():  # else a savepoint was released: nothing is committed yet
        for wake in session.info.pop(_WAKES, ()):
            wake()


def _ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_WAKES, None)


def _full_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
