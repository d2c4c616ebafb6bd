"""What every driver's connection offers, and the two loops that drive an operation on one: async and blocking."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final, Protocol, TypeVar

from .._operations.statement import SAVEPOINT, UNDO, UNSAVE, Operation, Pause, Row, Savepoint, Statement
from ..errors import DatabaseRefused, EventStoreError

__all__ = ["AsyncConnection", "BlockingConnection", "drive", "drive_blocking", "in_schema", "nothing_committed"]

T = TypeVar("T")

KEPT_TEXTS: Final = 512
"""Statements that are kept with their schema swapped in: more than all of ours, for a few schemas."""


class AsyncConnection(Protocol):
    """A connection that an async store may use, whoever owns it. Statements are never run by two tasks at once."""

    raw: Any  # the driver's own connection

    @property
    def schema(self) -> str:
        """The schema that statements are run on."""

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""

    @property
    def in_transaction(self) -> bool:
        """Whether its statements belong to a transaction of its owner's, or will."""

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """Run one statement; raises only errors of ours."""

    async def execute(self, statement: Statement) -> int:
        """Run one statement; return how many rows it affected."""

    async def run(self, operation: Operation[T]) -> T:
        """Drive an operation to its end."""

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """A transaction; inside of one a savepoint."""


class BlockingConnection(Protocol):
    """A connection that a blocking store may use, whoever owns it. Statements are never run by two threads at once."""

    raw: Any  # the driver's own connection

    @property
    def schema(self) -> str:
        """The schema that statements are run on."""

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""

    @property
    def in_transaction(self) -> bool:
        """Whether its statements belong to a transaction of its owner's, or will."""

    def fetch(self, statement: Statement) -> Sequence[Row]:
        """Run one statement; raises only errors of ours."""

    def execute(self, statement: Statement) -> int:
        """Run one statement; return how many rows it affected."""

    def run(self, operation: Operation[T]) -> T:
        """Drive an operation to its end."""

    def transaction(self) -> AbstractContextManager[None]:
        """A transaction; inside of one a savepoint."""


async def drive(connection: AsyncConnection, operation: Operation[T]) -> T:
    """Drive an operation to its end.

    Args:
        connection: runs its statements; raises only errors of ours, which are thrown into the operation.
        operation: a generator of statements, savepoints and pauses.
    """
    try:
        request = next(operation)
        while True:
            if isinstance(request, Pause):
                await asyncio.sleep(request.seconds)
                request = operation.send(())
                continue
            try:
                if isinstance(request, Savepoint):
                    rows = await _fetch_in_savepoint(connection, request.statement)
                else:
                    rows = await connection.fetch(request)
            except EventStoreError as error:
                request = operation.throw(error)
            else:
                request = operation.send(rows)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        operation.close()


def drive_blocking(connection: BlockingConnection, operation: Operation[T]) -> T:
    """As `drive`, in the caller's thread."""
    try:
        request = next(operation)
        while True:
            if isinstance(request, Pause):
                time.sleep(request.seconds)
                request = operation.send(())
                continue
            try:
                if isinstance(request, Savepoint):
                    rows = _fetch_in_savepoint_blocking(connection, request.statement)
                else:
                    rows = connection.fetch(request)
            except EventStoreError as error:
                request = operation.throw(error)
            else:
                request = operation.send(rows)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        operation.close()


async def _fetch_in_savepoint(connection: AsyncConnection, statement: Statement) -> Sequence[Row]:
    await connection.execute(Statement(SAVEPOINT))
    try:
        rows = await connection.fetch(statement)
    except BaseException:
        await asyncio.shield(_undo(connection))
        raise
    await connection.execute(Statement(UNSAVE))
    return rows


async def _undo(connection: AsyncConnection) -> None:
    with contextlib.suppress(EventStoreError):  # the connection is gone, and the savepoint with it
        await connection.execute(Statement(UNDO))
        await connection.execute(Statement(UNSAVE))


def _fetch_in_savepoint_blocking(connection: BlockingConnection, statement: Statement) -> Sequence[Row]:
    connection.execute(Statement(SAVEPOINT))
    try:
        rows = connection.fetch(statement)
    except BaseException:
        with contextlib.suppress(EventStoreError):  # the connection is gone, and the savepoint with it
            connection.execute(Statement(UNDO))
            connection.execute(Statement(UNSAVE))
        raise
    connection.execute(Statement(UNSAVE))
    return rows


@functools.lru_cache(maxsize=KEPT_TEXTS)
def in_schema(sql: str, schema: str) -> str:
    """Return a statement, written for the schema ``"eventstore"``, for `schema`."""
    return sql.replace('"eventstore"', f'"{schema}"')


def nothing_committed(savepoint: str) -> DatabaseRefused:
    """Return what a block raises that PostgreSQL answered with ROLLBACK: COMMIT does not fail then.

    Args:
        savepoint: how its owner makes one.
    """
    return DatabaseRefused(
        "nothing was committed: a statement in the transaction had failed, or was cancelled, and the block went on all the "
        f"same; let the error out, or put a savepoint around what may fail ({savepoint})",
        "25P02",
    )
