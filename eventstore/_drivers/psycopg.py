"""Runs operations on psycopg connections, blocking and async, ours or the user's.

Nothing that a user has set on a connection changes what we send or read: statements go through a cursor of our own kind,
with ``$1`` as they are written, tuples for rows, and psycopg's original adapters, whatever is registered on the
connection or for the whole process. Results are asked for in binary, so that DateStyle and IntervalStyle do not matter
either. Whether it is in autocommit mode matters in one place: `transaction`.

Integers are sent as bigint, always: psycopg's own choice of the smallest type makes ``$1 + $2`` overflow a smallint.

The only modules that import psycopg are this one and `psycopg_pools`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, TypeGuard, TypeVar

import psycopg
from psycopg import postgres
from psycopg.adapt import AdaptersMap
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types import TypesRegistry, array
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper

from .._operations.statement import Operation, Row, Statement
from ..errors import ConnectionLost, EventStoreError, InvalidArgument
from .connection import drive, drive_blocking, in_schema, nothing_committed
from .sqlstates import from_sqlstate

__all__ = ["AsyncPsycopgConnection", "PsycopgConnection", "is_async", "is_blocking", "translated"]

T = TypeVar("T")

DRIVER_ERRORS: Final = (psycopg.Error, OSError, OverflowError, UnicodeError)
"""All that psycopg raises. The last two are what it meets in a parameter."""

_PARAMETER_ERRORS: Final = (psycopg.DataError, OverflowError, UnicodeError)
_MISUSES: Final = (psycopg.ProgrammingError, psycopg.NotSupportedError)
"""What psycopg itself finds wrong with a parameter, and with a call: both come without a SQLSTATE."""

_BEGIN: Final = "select"
"""The shortest statement there is: psycopg sends BEGIN before it, unless the connection is in autocommit mode."""


def _original_adapters() -> AdaptersMap:
    """Return what psycopg sets up when it is imported, whatever was registered since: a copy would hold that too."""
    adapters = AdaptersMap(types=TypesRegistry())
    postgres.register_default_types(adapters.types)
    postgres.register_default_adapters(adapters)
    array.register_all_arrays(adapters)
    adapters.register_dumper(tuple, array.ListBinaryDumper)  # an array, as for asyncpg
    adapters.register_dumper(tuple, array.ListDumper)
    adapters.register_dumper(int, Int8Dumper)  # in lists, which go as text
    adapters.register_dumper(int, Int8BinaryDumper)
    return adapters


_ADAPTERS: Final = _original_adapters()


class _Cursor(psycopg.RawCursor[tuple[Any, ...]]):
    """A cursor that takes nothing over from its connection but the connection."""

    @property
    def adapters(self) -> AdaptersMap:
        """Ours."""
        return _ADAPTERS


class _AsyncCursor(psycopg.AsyncRawCursor[tuple[Any, ...]]):
    """A cursor that takes nothing over from its connection but the connection."""

    @property
    def adapters(self) -> AdaptersMap:
        """Ours."""
        return _ADAPTERS


class PsycopgConnection:
    """One blocking connection, and the running of operations on it. Statements are never run by two threads at once.

    Args:
        raw: psycopg's.
        schema: the schema's name.
        local: statements that every transaction begins with: the settings that the session cannot carry.
    """

    def __init__(self, raw: psycopg.Connection[Any], schema: str, local: str = "") -> None:
        self.raw = raw
        self._schema = schema
        self._local = local
        self._process = os.getpid()

    def fetch(self, statement: Statement) -> Sequence[Row]:
        """Run one statement.

        Raises:
            EventStoreError: whatever the driver said, translated.
        """
        self._refuse_foreign()
        try:
            with _Cursor(self.raw, row_factory=tuple_row) as cursor:
                cursor.execute(self._text(statement), statement.args, binary=True)
                return cursor.fetchall() if cursor.description else ()
        except DRIVER_ERRORS as error:
            raise translated(error) from error

    def execute(self, statement: Statement) -> int:
        """Run one statement; return how many rows it affected.

        Raises:
            EventStoreError: whatever the driver said, translated.
        """
        self._refuse_foreign()
        try:
            with _Cursor(self.raw, row_factory=tuple_row) as cursor:
                cursor.execute(self._text(statement), statement.args, binary=True)
                return max(0, cursor.rowcount)
        except DRIVER_ERRORS as error:
            raise translated(error) from error

    def run(self, operation: Operation[T]) -> T:
        """Drive an operation to its end."""
        return drive_blocking(self, operation)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction; inside of one a savepoint.

        A connection that is not in autocommit mode begins its own transaction at its first statement: this is a savepoint
        in that one also if it has not begun yet, so that its owner's rollback takes it back. `psycopg.Rollback` ends it as
        it does psycopg's own blocks.

        Raises:
            DatabaseRefused: a statement in it had failed, and whoever sent it went on: PostgreSQL rolled back all of it.
        """
        self._refuse_foreign()
        try:
            if _has_yet_to_begin(self.raw):
                self.fetch(Statement(_BEGIN))
            outermost = self.raw.info.transaction_status == TransactionStatus.IDLE
            block = _block(self.raw)
            block.__enter__()
        except DRIVER_ERRORS as error:
            raise translated(error) from error
        try:
            if outermost and self._local:
                self._set_local()
            yield
        except BaseException:
            if self.foreign or not _rolled_back(block):
                raise
            return
        self._refuse_foreign()
        failed = self.raw.info.transaction_status == TransactionStatus.INERROR
        try:
            block.__exit__(None, None, None)
        except DRIVER_ERRORS as error:
            raise translated(error) from error
        if outermost and failed:
            raise nothing_committed("with tx.connection.transaction()")

    @property
    def schema(self) -> str:
        """The schema that statements are run on."""
        return self._schema

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return bool(self.raw.closed)

    @property
    def in_transaction(self) -> bool:
        """Whether its statements belong to a transaction of its owner's, or will."""
        return _in_transaction(self.raw)

    @property
    def foreign(self) -> bool:
        """Whether it was made by another process, of which this one was forked."""
        return self._process != os.getpid()

    def close(self) -> None:
        """Close it. Never raises."""
        if not self.foreign:
            with contextlib.suppress(*DRIVER_ERRORS):
                self.raw.close()

    def _set_local(self) -> None:
        try:
            with _Cursor(self.raw, row_factory=tuple_row) as cursor:
                cursor.execute(self._local.encode())
        except DRIVER_ERRORS as error:
            raise translated(error) from error

    def _refuse_foreign(self) -> None:
        if self.foreign:
            raise InvalidArgument(
                f"this connection belongs to process {self._process}, of which this one was forked: end the transaction there, "
                "and begin another one here"
            )

    def _text(self, statement: Statement) -> bytes:
        return in_schema(statement.sql, self._schema).encode()


class AsyncPsycopgConnection:
    """One async connection, and the running of operations on it. Statements are never run by two tasks at once."""

    def __init__(self, raw: psycopg.AsyncConnection[Any], schema: str) -> None:
        self.raw = raw
        self._schema = schema

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """Run one statement.

        Raises:
            EventStoreError: whatever the driver said, translated.
        """
        try:
            async with _AsyncCursor(self.raw, row_factory=tuple_row) as cursor:
                await cursor.execute(self._text(statement), statement.args, binary=True)
                return await cursor.fetchall() if cursor.description else ()
        except DRIVER_ERRORS as error:
            raise translated(error) from error

    async def execute(self, statement: Statement) -> int:
        """Run one statement; return how many rows it affected.

        Raises:
            EventStoreError: whatever the driver said, translated.
        """
        try:
            async with _AsyncCursor(self.raw, row_factory=tuple_row) as cursor:
                await cursor.execute(self._text(statement), statement.args, binary=True)
                return max(0, cursor.rowcount)
        except DRIVER_ERRORS as error:
            raise translated(error) from error

    async def run(self, operation: Operation[T]) -> T:
        """Drive an operation to its end."""
        return await drive(self, operation)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A transaction; inside of one a savepoint. As the blocking one: never the only transaction of a connection that is
        not in autocommit mode.
        """
        try:
            if _has_yet_to_begin(self.raw):
                await self.fetch(Statement(_BEGIN))
            block = self.raw.transaction()
            await block.__aenter__()
        except DRIVER_ERRORS as error:
            raise translated(error) from error
        try:
            yield
        except BaseException:
            with contextlib.suppress(*DRIVER_ERRORS):
                if await asyncio.shield(block.__aexit__(*sys.exc_info())):
                    return
            raise
        try:
            await block.__aexit__(None, None, None)
        except DRIVER_ERRORS as error:
            raise translated(error) from error

    @property
    def schema(self) -> str:
        """The schema that statements are run on."""
        return self._schema

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return bool(self.raw.closed)

    @property
    def in_transaction(self) -> bool:
        """Whether its statements belong to a transaction of its owner's, or will."""
        return _in_transaction(self.raw)

    async def close(self) -> None:
        """Close it. Never raises."""
        with contextlib.suppress(*DRIVER_ERRORS):
            await self.raw.close()

    def _text(self, statement: Statement) -> bytes:
        return in_schema(statement.sql, self._schema).encode()


def is_blocking(connection: object) -> TypeGuard[psycopg.Connection[Any]]:
    """Whether `connection` is one of psycopg's blocking connections."""
    return isinstance(connection, psycopg.Connection)


def is_async(connection: object) -> TypeGuard[psycopg.AsyncConnection[Any]]:
    """Whether `connection` is one of psycopg's async connections."""
    return isinstance(connection, psycopg.AsyncConnection)


def translated(error: BaseException) -> EventStoreError:
    """Return our error for one of psycopg's."""
    if isinstance(error, EventStoreError):
        return error
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return from_sqlstate(error.sqlstate, str(error))
    if isinstance(error, _PARAMETER_ERRORS):
        return InvalidArgument(f"a parameter does not fit its type: {error}")
    if isinstance(error, _MISUSES):
        return InvalidArgument(f"psycopg refuses what was done with the connection: {error}")
    return ConnectionLost(f"the connection failed: {str(error) or type(error).__name__}")


def _block(raw: psycopg.Connection[Any]) -> AbstractContextManager[psycopg.Transaction]:
    """Return a transaction block.

    `raw.transaction()` is a generator around the same thing, and sends ROLLBACK where it is finalized: also in a forked child,
    on the parent's connection. Pipelines need it.
    """
    return psycopg.Transaction(raw) if raw.pgconn.pipeline_status == PipelineStatus.OFF else raw.transaction()


def _rolled_back(block: AbstractContextManager[psycopg.Transaction]) -> bool:
    """End a block because of the exception that is being handled; return whether that has done its work."""
    try:
        return bool(block.__exit__(*sys.exc_info()))
    except DRIVER_ERRORS:
        return False


def _has_yet_to_begin(raw: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    return not raw.autocommit and raw.info.transaction_status == TransactionStatus.IDLE


def _in_transaction(raw: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    return not raw.autocommit or raw.info.transaction_status != TransactionStatus.IDLE
