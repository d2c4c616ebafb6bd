"""Runs one follower: takes its lease, reads the log from its checkpoint, applies batch after batch.

A batch is one transaction: the checkpoint's row lock and epoch check first, then what the handlers do, then the new
position. Either all of it becomes visible or nothing, hence exactly once (`_operations/checkpoints.py` has the argument).
A handler that raises ends the run with the event's name; what is transient (a lost connection, a deadlock, a lost
lease) is tried again from the checkpoint, with jittered backoff.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import traceback
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from eventstore import Batch, EventStore, Recorded
from eventstore.errors import DatabaseRefused, LockTimeout, PermissionDenied, Transient
from eventstore.spi import TYPE, AsyncpgConnection, armed, connect, hit, register, subscribe_by_name, transient, type_name

from ._operations import checkpoints
from ._operations.checkpoints import Held
from .errors import BatchFailed, HandlerFailed
from .projection import Handler, Projection, handlers_of
from .rows import Rows, TableWriter

__all__ = ["ProjectionRun", "Tx"]

_log = logging.getLogger("projections")

BEFORE_BATCH: Final = register("runner.before_batch", "events are read; the batch's transaction has not begun")
LOCKED: Final = register("runner.after_lock", "the checkpoint is locked, ours, and moved; no handler has run")
HANDLED: Final = register("runner.after_handlers", "handlers have run; folded rows have not been written")
WRITTEN: Final = register("runner.before_commit", "effects and checkpoint are written; the batch is not committed")
AFTER_BATCH: Final = register("runner.after_commit", "the batch is committed; the runner does not know it yet")
TAKING: Final = register("lease.before_take", "the follower is to be taken; nothing was written")
TAKEN: Final = register("lease.after_take", "the follower is ours, committed; no batch has begun")

TAKE_SECONDS: Final = 1.0
"""How often a daemon without the lease looks whether it is free: one cheap query."""

RETRY_SECONDS: Final = (0.05, 5.0)
"""First and longest pause after something transient; jittered."""

EMPTY_SAVE_SECONDS: Final = 5.0
"""How often a checkpoint is moved over events that the projection does not handle."""

BATCH_SECONDS: Final = 5.0
"""A batch ends with the event at which it has lasted so long: a transaction that is idle while handlers compute is ended by
the server after 20 s."""

GRACE_SECONDS: Final = 10.0
"""How long a stop waits for the batch under way; then it is rolled back, and done again by whoever comes next."""

NOTHING_HELD: Final = Held(position=0, epoch=0)
"""Before the lease is taken; no epoch is 0."""

CONNECTION_SETTINGS: Final = {
    "lock_timeout": "5s",
    # A plan for a table that was empty when it was made would stay a sequential scan: plan each batch anew.
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
}


ROWS_ONLY_SETTINGS: Final = {
    # Rows and checkpoint are lost together in a crash of the server, and written again from events, which are not lost
    # (docs/decisions/0006). Saves the wait for the disk. A handler's own SQL may write what cannot be made again.
    "synchronous_commit": "off",
}


class Tx:
    """The batch's transaction, for handlers with SQL of their own.

    Attributes:
        connection: the asyncpg connection itself.
    """

    __slots__ = ("connection",)

    def __init__(self, connection: Any) -> None:  # asyncpg.Connection; named by its owner, the driver
        self.connection = connection

    async def execute(self, sql: str, *args: Any) -> str:
        """Run a statement; return its status."""
        return str(await self.connection.execute(sql, *args))

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run a query; return its rows."""
        return list(await self.connection.fetch(sql, *args))

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """Run a query; return its first row, or None."""
        return await self.connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Run a query; return the first value of its first row, or None."""
        return await self.connection.fetchval(sql, *args)


class _Work:
    """A batch, and how much of it has been handled.

    Attributes:
        events: what follows `next`, each decoded when its turn comes.
        upto: everything up to here is in the batch, or filtered out.
        next: the first event that has not been handled; None: all have been (or the one after them cannot be decoded).
        handled: how many have been, in the transaction under way.
        first, last: positions of the first and the last event handled in the transaction under way; of none: `upto`.
        own_sql: whether a handler with SQL of its own was called in it.
    """

    __slots__ = ("events", "first", "handled", "last", "next", "own_sql", "upto")

    def __init__(self, batch: Batch[Any]) -> None:
        self.events = iter(batch.events)
        self.upto = batch.upto
        self.next: Recorded[Any] | None = next(self.events, None)
        self.begin()

    def begin(self) -> None:
        """A transaction begins."""
        self.first = self.last = self.upto if self.next is None else self.next.position
        self.handled = 0
        self.own_sql = False

    def note(self, count: int, last: Recorded[Any] | None, following: Recorded[Any] | None) -> None:
        """Note that `count` more events were handled, the latest of them `last`, and what follows them."""
        self.handled += count
        self.last = self.last if last is None else last.position
        self.next = following


@dataclass(slots=True)
class ProjectionRun:
    """One projection on one store, run for one daemon.

    Attributes:
        projection: what is run.
        store: where its events and its table are.
        owner: the daemon.
        applied: how many events have taken effect since the start.
    """

    projection: Projection
    store: EventStore
    owner: UUID
    applied: int = 0
    shard: int = 0
    _handlers: dict[str, Handler] = field(init=False)
    _writer: TableWriter | None = field(init=False)
    _rows: Rows | None = field(init=False)
    _held: Held = NOTHING_HELD
    _connection: AsyncpgConnection | None = None
    _saved_at: float = 0.0

    def __post_init__(self) -> None:
        """Check the projection.

        Raises:
            InvalidProjection: it is not well formed.
        """
        self._handlers = handlers_of(self.projection, lambda type_: type_name(self.store, type_))
        self._writer = None if self.projection.table is None else TableWriter(self.projection.table)
        self._rows = None if self._writer is None else Rows(self._writer)

    @property
    def name(self) -> str:
        """The follower's name."""
        return self.projection.name

    @property
    def position(self) -> int:
        """Everything up to here has taken effect, as far as this run knows; 0 before it has taken the follower."""
        return self._held.position

    @property
    def writer(self) -> TableWriter | None:
        """What writes its table; None where it has none."""
        return self._writer

    async def run(self, upto: int | None = None) -> None:
        """Follow the log: for ever, or until everything up to position `upto` has taken effect.

        Raises:
            HandlerFailed: a handler raised.
            Corrupt, UnknownEventType and others of `Subscription.batches`.
        """
        pause = RETRY_SECONDS[0]
        while True:
            before = self.applied
            try:
                connection = await self._take()
                await self._follow(connection, upto)
                return
            except Transient as error:
                _log.warning("projection %s goes on from its checkpoint: %s", self.name, error)
            finally:
                await self._disconnect()
            pause = RETRY_SECONDS[0] if self.applied > before else min(pause * 2, RETRY_SECONDS[1])
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _take(self) -> AsyncpgConnection:
        """Wait for the lease; return the connection that batches run on."""
        purpose = f"projection {self.name}"[:50]
        settings = CONNECTION_SETTINGS if self._has_own_sql() else {**CONNECTION_SETTINGS, **ROWS_ONLY_SETTINGS}
        connection = await connect(self.store, purpose, settings, statement_seconds=None)
        self._connection = connection
        if self._writer is not None:
            await self._writer.check_table(connection)
        while True:
            with contextlib.suppress(PermissionDenied):
                await connection.run(checkpoints.end_expired(self.name, self.shard, self.owner))
            with contextlib.suppress(LockTimeout):  # a stopped owner still holds its checkpoint
                if armed:
                    await hit(TAKING)
                held = await connection.run(checkpoints.acquire(self.name, self.shard, self.owner, connection.pid))
                if held is not None:
                    if armed:
                        await hit(TAKEN)
                    self._held = held
                    return connection
            await asyncio.sleep(TAKE_SECONDS * random.uniform(0.5, 1.0))

    def _has_own_sql(self) -> bool:
        return any(handler.asynchronous for handler in self._handlers.values())

    async def _follow(self, connection: AsyncpgConnection, upto: int | None) -> None:
        types, categories = tuple(self._handlers), self.projection.categories
        self._saved_at = time.monotonic()
        subscription = subscribe_by_name(self.store, after=self._held.position, types=types, categories=categories)
        async with subscription as live:
            if upto is not None and self._held.position >= upto:
                return
            async with contextlib.aclosing(live.batches(idle_seconds=EMPTY_SAVE_SECONDS)) as batches:
                async for batch in batches:
                    done = upto is not None and batch.upto >= upto
                    waited = time.monotonic() - self._saved_at >= EMPTY_SAVE_SECONDS
                    if batch.events or (batch.upto > self._held.position and (done or waited)):
                        await self._apply(connection, batch)
                    if done:
                        return

    async def _apply(self, connection: AsyncpgConnection, batch: Batch[Any]) -> None:
        """Let a batch take effect: in one transaction, or in several where its handlers are slow."""
        work = _Work(batch)
        while True:
            await _despite_cancellation(self._apply_some(connection, work))
            if work.next is None:
                return

    async def _apply_some(self, connection: AsyncpgConnection, work: _Work) -> None:
        """One transaction: checkpoint locked, events handled until time is up, rows written, checkpoint moved."""
        if self._writer is not None:
            self._writer.folds.clear()
        work.begin()
        until = time.monotonic() + BATCH_SECONDS
        if armed:
            await hit(BEFORE_BATCH)
        async with connection.transaction():
            held = await connection.run(checkpoints.begin(self.name, self.shard, self._held, work.upto))
            if armed:
                await hit(LOCKED)
            while work.next is not None and (not work.handled or time.monotonic() < until):
                await self._handle_some(connection, work, until)
            if armed:
                await hit(HANDLED)
            await self._write(connection, work.first, work.last)
            if work.next is not None or work.own_sql:
                held = await self._save(connection, work)
            if armed:
                await hit(WRITTEN)
        if armed:
            await hit(AFTER_BATCH)
        self._held = held
        self._saved_at = time.monotonic()
        self.applied += work.handled

    async def _save(self, connection: AsyncpgConnection, work: _Work) -> Held:
        """Move the checkpoint to where the batch did end. That also tells a transaction that is lost already: the COMMIT of
        one would roll it back without a word.
        """
        position = work.upto if work.next is None else work.last
        try:
            return await connection.run(checkpoints.save(self.name, self.shard, self._held, position))
        except DatabaseRefused as error:  # a handler has swallowed an error of its own SQL, and the transaction is lost
            why = f"{error} (does a handler swallow errors of its SQL?)"
            raise BatchFailed(self.name, work.first, work.last, why) from error

    async def _write(self, connection: AsyncpgConnection, first: int, last: int) -> None:
        if self._writer is None:
            return
        try:
            await self._writer.write(connection)
        except DatabaseRefused as error:
            raise BatchFailed(self.name, first, last, str(error)) from error

    async def _handle_some(self, connection: AsyncpgConnection, work: _Work, until: float) -> None:
        """Handle events up to and including the next one whose handler has SQL of its own, or until time is up."""
        try:
            returned = self._fold(work, until)
            recorded = work.next
            if returned is None and recorded is not None and (handler := self._handlers[recorded.type]).asynchronous:
                await self._write(connection, recorded.position, recorded.position)  # what came before, for it to see
                work.own_sql = True
                returned = await handler.call(recorded.data, recorded, Tx(connection.raw))
                if returned is None:
                    work.note(1, recorded, None)
                    work.next = next(work.events, None)
        except (Transient, BatchFailed):
            raise
        except Exception as error:
            if work.next is None:
                raise  # it could not even be decoded
            known = transient(connection, error)
            if known is not None:
                raise known from error
            raise self._failed(work.next, f"{type(error).__name__}: {error}{_place(error)}") from error
        if returned is not None and work.next is not None:
            raise self._failed(work.next, f"its handler returned {returned!r:.80}; handlers return None")

    def _fold(self, work: _Work, until: float) -> object:
        """Call plain handlers until there is one with SQL of its own, or time is up; return what one of them returned.

        This is where a catch-up spends its time: locals, and no call that can be spared.
        """
        handlers, rows, events, now = self._handlers, self._rows, work.events, time.monotonic
        recorded, last, count = work.next, None, 0
        try:
            while recorded is not None:
                row, event = recorded  # what it is inside: a property costs as much as the call
                handler = handlers[row[TYPE]]
                if handler.asynchronous:
                    break
                assert rows is not None
                rows.recorded = recorded
                returned = handler.call(event, recorded, rows)
                if returned is not None:
                    return returned
                count, last, recorded = count + 1, recorded, None
                recorded = next(events, None)
                if now() >= until:
                    break
        finally:
            work.note(count, last, recorded)
        return None

    def _failed(self, recorded: Recorded[Any], why: str) -> HandlerFailed:
        return HandlerFailed(self.name, recorded.position, recorded.stream_id, recorded.version, recorded.type, why)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.shield(connection.close())


async def _despite_cancellation(work: Coroutine[Any, Any, None]) -> None:
    """Finish `work` before a cancellation takes effect: a stop ends after the batch, not in it.

    That has its bound: after `GRACE_SECONDS`, or at a second cancellation, `work` is cancelled too.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait({task}, timeout=GRACE_SECONDS)
        finally:
            if not task.done():
                _log.warning("a batch did not end within %s s of the stop and is rolled back", GRACE_SECONDS)
                task.cancel()
                await asyncio.wait({task}, timeout=GRACE_SECONDS)
        if task.done() and not task.cancelled():
            task.result()  # what went wrong is more than that we were asked to stop
        raise


def _place(error: BaseException) -> str:
    """Where in whose code it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "asyncpg" not in frame.filename]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
