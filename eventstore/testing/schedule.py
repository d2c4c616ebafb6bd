"""Schedules: named steps on several real connections, in an order that the test decides.

A race shown by chance proves little. A schedule says which session does what after what, and where one must wait::

    async with Schedule(dsn) as schedule:
        writer, other = await schedule.session("writer"), await schedule.session("other")
        await writer.do("begin", "begin")
        await writer.do("insert", "insert into t values (1)")
        step = other.start("insert the same", "insert into t values (1)")
        await schedule.blocks(step)
        await writer.do("roll back", "rollback")
        await schedule.unblocks(step)

A statement *blocks* when the server itself says so (``pg_blocking_pids``). For a coroutine that waits by polling, *blocks*
means that it has looked again several times and has not come to an end: the caller gives a counter of its looks.
A `Stepper` drives an operation statement by statement, so that a test can act between two of its statements.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from .._drivers.asyncpg import AsyncpgConnection, AsyncpgDriver
from .._drivers.budget import Budget
from .._operations.statement import Operation, Pause, Savepoint, Statement

__all__ = ["Schedule", "Session", "Step", "Stepper"]

T = TypeVar("T")

PATIENCE_SECONDS: Final = 20.0
"""How long a step may take to block, or to end, before the schedule is called wrong."""

LOOKS: Final = 3
"""How often a polling step must have looked again to count as blocked."""


@dataclass(slots=True)
class Step(Generic[T]):
    """One step under way.

    Attributes:
        name: as the schedule calls it.
        task: its outcome.
        looks: for a polling step, how often it has looked so far.
    """

    name: str
    task: asyncio.Task[T]
    session: Session | None = None
    looks: Callable[[], int] | None = None


class Session:
    """One connection of a schedule. Made by `Schedule.session`."""

    def __init__(self, name: str, connection: AsyncpgConnection, trace: list[str]) -> None:
        self.name = name
        self._connection = connection
        self._trace = trace

    @property
    def raw(self) -> Any:  # asyncpg.Connection; named by its owner, the driver
        """The driver's connection."""
        return self._connection.raw

    @property
    def pid(self) -> int:
        """The server process that serves it."""
        return int(self.raw.get_server_pid())

    async def do(self, name: str, sql: str, *args: Any) -> list[Any]:
        """Run a statement to its end; return its rows."""
        return await asyncio.wait_for(self.start(name, sql, *args).task, PATIENCE_SECONDS)

    def start(self, name: str, sql: str, *args: Any) -> Step[list[Any]]:
        """Start a statement and do not wait for it."""
        self._trace.append(f"{self.name}: {name}")
        run: Coroutine[Any, Any, list[Any]] = self.raw.fetch(sql, *args)
        return Step(f"{self.name}: {name}", asyncio.get_running_loop().create_task(run), self)

    def stepper(self, operation: Operation[T]) -> Stepper[T]:
        """Drive an operation on this session, statement by statement."""
        return Stepper(self._connection, operation)

    async def close(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        await self._connection.close()


class Schedule:
    """Sessions and steps of one test, as an async context manager. What is left open is closed at the end."""

    def __init__(self, dsn: str) -> None:
        self._driver = AsyncpgDriver(dsn, "eventstore", Budget(), "schedule")
        self._trace: list[str] = []
        self._sessions: list[Session] = []
        self._steps: list[Step[Any]] = []
        self._watcher: AsyncpgConnection | None = None

    async def __aenter__(self) -> Schedule:
        self._watcher = await self._driver.connect("watcher", {})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for step in self._steps:
            step.task.cancel()
            with contextlib.suppress(BaseException):
                await step.task
        for session in self._sessions:
            await session.close()
        if self._watcher is not None:
            await self._watcher.close()
        if error is not None:
            error.add_note("the schedule so far: " + "; ".join(self._trace))

    async def session(self, name: str) -> Session:
        """Open a connection."""
        connection = await self._driver.connect(name, {"idle_in_transaction_session_timeout": "0"})
        self._sessions.append(Session(name, connection, self._trace))
        return self._sessions[-1]

    def start(self, name: str, coroutine: Coroutine[Any, Any, T], *, looks: Callable[[], int] | None = None) -> Step[T]:
        """Start a coroutine as a step. `looks` counts how often it has looked whether it can go on."""
        self._trace.append(name)
        step = Step(name, asyncio.get_running_loop().create_task(coroutine), looks=looks)
        self._steps.append(step)
        return step

    async def blocks(self, step: Step[Any]) -> None:
        """Return once `step` is blocked; fail if it comes to an end."""
        self._trace.append(f"{step.name} blocks")
        begun = step.looks() if step.looks else 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                assert not step.task.done(), f"{step.name} was to block but ended with {step.task}"
                if step.looks is not None and step.looks() >= begun + LOOKS:
                    return
                if step.session is not None and await self._is_blocked(step.session.pid):
                    return
                await asyncio.sleep(0.002)

    async def unblocks(self, step: Step[T]) -> T:
        """Return the outcome of `step`; fail if it does not come."""
        self._trace.append(f"{step.name} unblocks")
        return await asyncio.wait_for(step.task, PATIENCE_SECONDS)

    async def terminate(self, session: Session) -> None:
        """Terminate the server process of a session, and wait until it is gone."""
        assert self._watcher is not None
        self._trace.append(f"{session.name} is terminated")
        await self._watcher.raw.fetchval("select pg_terminate_backend($1, 10000)", session.pid)

    async def _is_blocked(self, pid: int) -> bool:
        assert self._watcher is not None
        return bool(await self._watcher.raw.fetchval("select cardinality(pg_blocking_pids($1)) > 0", pid))


@dataclass(slots=True)
class Stepper(Generic[T]):
    """Drives an operation one request at a time.

    Attributes:
        pending: the request that `step` will serve next; None once the operation has ended.
        result: what the operation returned.
    """

    _connection: AsyncpgConnection
    _operation: Operation[T]
    pending: Statement | Savepoint | Pause | None = field(init=False)
    result: T | None = None

    def __post_init__(self) -> None:
        """Run up to the first request."""
        self.pending = next(self._operation)

    async def step(self) -> bool:
        """Serve one request (a pause takes no time); return whether the operation has ended."""
        assert self.pending is not None, "the operation has ended"
        assert not isinstance(self.pending, Savepoint), "steps are for operations without savepoints"
        rows = await self._connection.fetch(self.pending) if isinstance(self.pending, Statement) else ()
        try:
            self.pending = self._operation.send(rows)
        except StopIteration as stop:
            self.pending, self.result = None, stop.value
        return self.pending is None
