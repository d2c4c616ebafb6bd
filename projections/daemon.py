"""Runs followers side by side in one process, with one heartbeat.

The heartbeat runs in a task and on a connection of its own, so that a batch which waits for the database does not cost
the lease; a handler that computes for longer than the lease lasts does, and finds that out by the epoch. A stop lets every
batch under way finish, then gives the leases back, so that another daemon goes on at once. Signal handlers are the command
line's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Final
from uuid import UUID, uuid4

from eventstore import EventStore
from eventstore.errors import EventStoreError, InvalidArgument, Transient
from eventstore.spi import AsyncpgConnection, armed, connect, hit, register, settled, sqlalchemy_url

from ._operations import checkpoints
from .errors import InvalidProjection
from .projection import Projection
from .rows import create_tables
from .runner import ProjectionRun

__all__ = ["Daemon"]

_log = logging.getLogger("projections")

BEATING: Final = register("lease.before_heartbeat", "the heartbeat is due; it has not been renewed")
BEAT: Final = register("lease.after_heartbeat", "the heartbeat is renewed and committed")
RELEASING: Final = register("lease.before_release", "every batch has ended; the leases have not been given back")
RELEASED: Final = register("lease.after_release", "the leases are given back and committed")

LEASE_SECONDS: Final = 30.0
"""How long a daemon that has died keeps others out. Above every timeout of its connections, and above a long pause of
the process; a clean stop does not wait for it."""


class Daemon:
    """Runs projections on a store: ``async with Daemon(store, [Balances()]) as daemon: await daemon.run()``.

    Connections beside the store's own budget: one for each projection, one for the heartbeat.

    Args:
        store: an open store.
        followers: the projections to run, each of its own name.
        create: make their tables where they are missing; else a missing table is an error that shows its DDL.
        name: what `projections status` calls this daemon; default: host and process id.
        lease_seconds: how long others wait after this daemon has died without a word.

    Raises:
        InvalidProjection: one of them is not well formed, or two share a name or a table.
    """

    def __init__(
        self,
        store: EventStore,
        followers: Sequence[Projection],
        *,
        create: bool = False,
        name: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        if lease_seconds < 1:
            raise InvalidArgument(f"lease_seconds must be at least 1, got {lease_seconds!r}")
        self._store = store
        self._create = create
        self._name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._lease_seconds = lease_seconds
        self._owner: UUID = uuid4()
        self._runs = [ProjectionRun(projection, store, self._owner) for projection in followers]
        self._heart: AsyncpgConnection | None = None
        self._stopping = asyncio.Event()
        _refuse_twins(self._runs)

    async def __aenter__(self) -> Daemon:
        """Make tables where asked, and say that this daemon lives.

        Raises:
            TableMissing: later, in `run`, for a table that is not there.
        """
        if self._create:
            await self._create_tables()
        await self._beat()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._release())

    @property
    def applied(self) -> int:
        """How many events have taken effect since the start, over all projections."""
        return sum(run.applied for run in self._runs)

    @property
    def position(self) -> int:
        """Everything up to here has taken effect in every projection, as this daemon knows; 0 before it has them all."""
        return min(run.position for run in self._runs)

    def stop(self) -> None:
        """Ask `run` to end after the batches under way. Safe to repeat."""
        self._stopping.set()

    async def run(self) -> None:
        """Follow the log until `stop` is called or a projection fails.

        Raises:
            HandlerFailed and others: the first projection that failed; the others are stopped.
        """
        await self._run_until(None)

    async def run_until_caught_up(self, *, settle: float = 10.0) -> None:
        """Return once everything that is in the log now has taken effect in every projection.

        Args:
            settle: how many seconds to wait for transactions that may still commit something; what is behind a hole
                that stays open for longer is left for the next time.
        """
        mark = (await settled(self._store, settle)).mark
        await self._run_until(mark.position)

    async def _run_until(self, upto: int | None) -> None:
        self._stopping.clear()
        tasks = [asyncio.create_task(run.run(upto), name=f"projection {run.name}") for run in self._runs]
        stop = asyncio.create_task(self._stopping.wait(), name="stop")
        beat = asyncio.create_task(self._keep_beating(), name="heartbeat")
        waiting = {*tasks, stop}
        try:
            while not stop.done() and not all(task.done() for task in tasks):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stop}:
                    task.result()
        finally:
            for task in (*tasks, stop, beat):
                task.cancel()
            ended = await asyncio.gather(*tasks, stop, beat, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception):  # a batch that failed while it was to be finished
                raise outcome

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            try:
                await self._beat()
            except EventStoreError as error:
                _log.warning("the heartbeat of %s failed and is tried again: %s", self._name, error)

    async def _beat(self) -> None:
        if self._heart is None or self._heart.closed:
            self._heart = await connect(self._store, "heartbeat", {"lock_timeout": "5s"}, statement_seconds=10)
        if armed:
            await hit(BEATING)
        await self._heart.run(checkpoints.heartbeat(self._owner, self._name, self._lease_seconds))
        if armed:
            await hit(BEAT)

    async def _release(self) -> None:
        """Give the leases back; a server that does not answer finds out by itself."""
        with contextlib.suppress(Transient):
            if self._heart is None or self._heart.closed:
                self._heart = await connect(self._store, "heartbeat", {}, statement_seconds=10)
            if armed:
                await hit(RELEASING)
            await self._heart.run(checkpoints.release(self._owner))
            if armed:
                await hit(RELEASED)
        if self._heart is not None:
            await self._heart.close()

    async def _create_tables(self) -> None:
        url = sqlalchemy_url(self._store)
        if not url:
            raise InvalidArgument("create=True needs a store that was opened with a URL, not with an asyncpg pool")
        tables = [run.writer.table for run in self._runs if run.writer is not None]
        await asyncio.to_thread(create_tables, url, tables)


def _refuse_twins(runs: Sequence[ProjectionRun]) -> None:
    if not runs:
        raise InvalidProjection("a daemon needs at least one projection")
    names = [run.name for run in runs]
    tables = [run.writer.name for run in runs if run.writer is not None]
    for what, values in (("name", names), ("table", tables)):
        for value in values:
            if values.count(value) > 1:
                raise InvalidProjection(f"two projections share the {what} {value!r}")
