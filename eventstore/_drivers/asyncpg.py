"""Runs operations on asyncpg connections. The only module that imports asyncpg.

A process has a stated, small budget of connections, each opened when it is first needed (`Budget`). Ours pin READ
COMMITTED, bound lock waits and idle transactions, and ask the server for keepalives. Readers switch sequential scans
and sorts off, so that no plan rests on the statistics of a table that was empty when the plan was made.

A cancelled statement is cancelled on the server too; asyncpg's pool takes the connection back only when it is clean and
closes it otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import asyncpg

from .._operations.statement import Operation, Pause, Row, Statement
from ..errors import CannotConnect, ConnectionLost, EventStoreError, InvalidArgument, Retryable, StoreClosed
from . import urls
from .sqlstates import from_sqlstate

__all__ = ["READER_SETTINGS", "AsyncpgConnection", "AsyncpgDriver", "Budget", "Kind", "translated"]

T = TypeVar("T")
Kind = Literal["append", "transaction", "read"]

DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""All that asyncpg raises. InternalClientError is what a statement meets that is sent while the server hangs up."""

CONNECT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 5.0
ACQUIRE_SECONDS: Final = 30.0
"""How long to wait for a free connection of the budget."""

STATEMENT_SECONDS: Final = 60.0
"""How long a statement of ours may take: none takes a hundredth of it, but a network may swallow the answer."""

COPY_BYTES: Final = 256 * 2**10
"""Bytes of a COPY that are handed over at once: asyncpg waits in between for the server to take them."""

SMALLEST_BUDGET: Final = 5

_COMMON: Final = {
    "default_transaction_isolation": "read committed",
    # Below the lease time of daemons (30 s), so that a client that froze in a transaction loses it before its lease.
    "idle_in_transaction_session_timeout": "20s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
READER_SETTINGS: Final = {"enable_seqscan": "off", "enable_sort": "off", "jit": "off"}
"""Every read comes in an index's order and ends at a limit. Plans made by the statistics of a new table would look through
a whole range and sort it (25 ms instead of 4 ms a batch of 1,000 out of 100,000, measured) or scan the table."""

_SETTINGS: Final[dict[Kind, dict[str, str]]] = {
    "append": {"lock_timeout": "5s"},
    "transaction": {"lock_timeout": "5s", "idle_in_transaction_session_timeout": "60s"},
    "read": READER_SETTINGS,
}


@dataclass(frozen=True, slots=True)
class Budget:
    """How many connections a store may open, by what they are for. Each is opened when it is first needed.

    Attributes:
        append: for appends; each holds one only while a statement runs.
        transaction: for `store.transaction()`; each holds one as long as the block lasts.
        read: for reads; none is held between batches.
        marks: always one: it settles, publishes and watches the log for every subscriber of the process, and wakes others.
        listen: always one: it hears that others have appended.
    """

    append: int = 2
    transaction: int = 3
    read: int = 3
    marks: int = 1
    listen: int = 1

    @classmethod
    def of(cls, most: int) -> Budget:
        """Return a budget of `most` connections in all.

        Raises:
            InvalidArgument: fewer than five: one of each kind is the least.
        """
        if isinstance(most, bool) or not isinstance(most, int) or most < SMALLEST_BUDGET:
            raise InvalidArgument(f"max_connections must be an int of at least {SMALLEST_BUDGET}, got {most!r}")
        append = 2 if most > SMALLEST_BUDGET else 1
        transaction = max(1, (most - 2 - append) // 2)
        return cls(append, transaction, most - 2 - append - transaction)


class AsyncpgConnection:
    """One connection, and the running of operations on it. Statements are never run by two tasks at once."""

    def __init__(self, raw: Any, schema: str) -> None:  # asyncpg.Connection, or a pool's proxy of one
        self.raw = raw
        self._schema = schema
        self._texts: dict[str, str] = {}

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """Run one statement.

        Raises:
            EventStoreError: whatever the driver said, translated.
        """
        try:
            rows: Sequence[Row] = await self.raw.fetch(self._text(statement.sql), *statement.args)
        except DRIVER_ERRORS as error:
            raise translated(error) from error
        return rows

    async def execute(self, statement: Statement) -> int:
        """Run one statement; return how many rows it affected.

        Raises:
            EventStoreError: whatever the driver said, translated.
        """
        try:
            status: str = await self.raw.execute(self._text(statement.sql), *statement.args)
        except DRIVER_ERRORS as error:
            raise translated(error) from error
        return int(status.rpartition(" ")[2] or 0) if status[-1:].isdigit() else 0

    async def run(self, operation: Operation[T]) -> T:
        """Drive an operation to its end."""
        try:
            request = next(operation)
            while True:
                if isinstance(request, Pause):
                    await asyncio.sleep(request.seconds)
                    request = operation.send(())
                    continue
                try:
                    rows = await self.fetch(request)
                except EventStoreError as error:
                    request = operation.throw(error)
                else:
                    request = operation.send(rows)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            operation.close()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A transaction; inside of one a savepoint."""
        try:
            transaction = self.raw.transaction()
            await transaction.start()
        except DRIVER_ERRORS as error:
            raise translated(error) from error
        try:
            yield
        except BaseException:
            with contextlib.suppress(*DRIVER_ERRORS):
                await asyncio.shield(transaction.rollback())
            raise
        try:
            await transaction.commit()
        except DRIVER_ERRORS as error:
            raise translated(error) from error

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return bool(self.raw.is_closed())

    async def listen(self, channel: str, heard: Callable[[int], None], lost: Callable[[], None]) -> None:
        """Listen on a channel.

        Args:
            channel: its name.
            heard: called at each notification, with the process id of the session that sent it.
            lost: called once, when the connection is gone.

        Raises:
            EventStoreError: whatever the driver said, translated.
        """
        try:
            await self.raw.add_listener(channel, lambda _connection, pid, _channel, _payload: heard(pid))
            self.raw.add_termination_listener(lambda _connection: lost())
        except DRIVER_ERRORS as error:
            raise translated(error) from error

    @property
    def schema(self) -> str:
        """The schema that statements are run on."""
        return self._schema

    async def end_listening(self) -> None:
        """Listen to nothing any more, so that a pool takes the connection back as it was. Never raises."""
        with contextlib.suppress(*DRIVER_ERRORS):
            await self.raw.reset(timeout=CLOSE_SECONDS)

    @property
    def pid(self) -> int:
        """The process that serves it, as the server said when it was made; behind a pooler, one of several."""
        return int(self.raw.get_server_pid())

    def abort(self) -> None:
        """Close without a word to the server, which may not answer any more."""
        self.raw.terminate()

    async def close(self) -> None:
        """Close politely, or by force if that takes long."""
        try:
            await self.raw.close(timeout=CLOSE_SECONDS)
        except DRIVER_ERRORS:
            self.raw.terminate()

    async def copy(self, table: str, columns: Sequence[str], text: bytes) -> None:
        """COPY rows into a table of the schema, in a transaction of its own.

        Args:
            table: its name.
            columns: their names, in the order of the rows.
            text: rows in COPY's text format.

        Raises:
            EventStoreError: whatever the driver said, translated; nothing was written, but for a ConnectionLost.
        """
        chunks = _chunks(text)
        try:
            await self.raw.copy_to_table(table, schema_name=self._schema, columns=columns, source=chunks)
        except DRIVER_ERRORS as error:
            raise translated(error) from error

    def _text(self, sql: str) -> str:
        text = self._texts.get(sql)
        if text is None:
            text = self._texts[sql] = sql.replace('"eventstore"', f'"{self._schema}"')
        return text


async def _chunks(text: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(text), COPY_BYTES):
        yield text[start : start + COPY_BYTES]


class AsyncpgDriver:
    """The connections of one store: pools by purpose, and dedicated ones on request.

    Args:
        address: a libpq URL, or an asyncpg pool of the user's. From the user's pool everything is taken, within its
            size and with its settings.
        schema: the schema's name.
        budget: how many connections of each kind.
        application_name: what pg_stat_activity shows, followed by the connection's purpose.
    """

    def __init__(self, address: Any, schema: str, budget: Budget, application_name: str) -> None:  # str or asyncpg.Pool
        self._schema = schema
        self._budget = budget
        self._name = application_name
        self._user_pool = address if isinstance(address, asyncpg.Pool) else None
        if self._user_pool is not None and self._user_pool.get_max_size() < SMALLEST_BUDGET:
            raise InvalidArgument(
                f"the pool may hold {self._user_pool.get_max_size()} connections, the store needs {SMALLEST_BUDGET} (one stays with "
                "whoever watches the log, one listens), and each projection and its daemon one more"
            )
        self._dsn = "" if self._user_pool is not None else str(address)
        self._pools: dict[Kind, Any] = {}  # asyncpg.Pool
        self._open = False
        self._in_use = 0
        self._unused = asyncio.Event()
        self._reached = False  # once a server answered, one that does not is expected back

    async def open(self) -> None:
        """Make the pools. Connects to nothing yet."""
        self._open = True
        for kind in ("append", "transaction", "read"):
            self._pools[kind] = self._user_pool or await asyncpg.create_pool(
                **self._connect_arguments(kind, _SETTINGS[kind], self._dsn),
                command_timeout=None if kind == "transaction" else STATEMENT_SECONDS,
                min_size=0,
                max_size=getattr(self._budget, kind),
                max_inactive_connection_lifetime=300,
                reset=_leave_as_it_is,
            )

    async def drain(self) -> None:
        """Refuse new uses, and wait for those under way: a caller whose append is committed must be told so."""
        self._open = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._in_use:
                    self._unused.clear()
                    await self._unused.wait()

    async def close(self) -> None:
        """Close every pool that is ours: politely, then by force."""
        await self.drain()
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            if pool is self._user_pool:
                continue
            try:
                await asyncio.wait_for(pool.close(), CLOSE_SECONDS)
            except TimeoutError:
                pool.terminate()

    @contextlib.asynccontextmanager
    async def acquire(self, kind: Kind) -> AsyncIterator[AsyncpgConnection]:
        """Take a connection from the pool for `kind`, and give it back.

        Raises:
            StoreClosed: before `open` or after `close`.
            ConnectionLost and others: none could be made.
        """
        if not self._open:
            raise StoreClosed("the store is not open: use `async with EventStore(...) as store`, or `await store.open()`")
        self._in_use += 1
        pool = self._pools[kind]
        try:
            raw = await self._take(pool, kind)
            try:
                yield AsyncpgConnection(raw, self._schema)
            finally:
                await pool.release(raw)
        finally:
            self._in_use -= 1
            self._unused.set()

    async def _take(self, pool: Any, kind: Kind) -> Any:  # asyncpg's pool, and its proxy of a connection
        try:
            async with asyncio.timeout(ACQUIRE_SECONDS):  # acquire's own would cost a task
                return await pool.acquire()
        except TimeoutError as error:
            raise Retryable(
                f"no connection for {kind}s was free within {ACQUIRE_SECONDS:.0f} s (the pool has "
                f"{pool.get_max_size()}); hold fewer at once, or raise max_connections",
                "53300",
            ) from error
        except DRIVER_ERRORS as error:
            raise translated(error) from error

    async def run(self, kind: Kind, operation: Operation[T]) -> T:
        """Drive an operation on one connection from the pool for `kind`."""
        async with self.acquire(kind) as connection:
            return await connection.run(operation)

    async def connect(
        self,
        purpose: str,
        settings: dict[str, str],
        *,
        statement_seconds: float | None = STATEMENT_SECONDS,
        dsn: str = "",
    ) -> AsyncpgConnection:
        """Open a connection outside of the pools; the caller closes it. From a user's pool it is one of the pool's.

        Args:
            purpose: what pg_stat_activity shows.
            settings: of the session.
            statement_seconds: how long one statement may take; None: as long as it likes.
            dsn: another address than the store's, for what does not work through a pooler.

        Raises:
            EventStoreError: it could not be made.
        """
        try:
            if self._user_pool is not None and not dsn:
                return _Borrowed(self._user_pool, await self._take(self._user_pool, "read"), self._schema)
            arguments = self._connect_arguments(purpose, settings, dsn or self._dsn)
            raw = await asyncpg.connect(**arguments, command_timeout=statement_seconds)
        except (*DRIVER_ERRORS, ValueError) as error:
            raise self._cannot_connect(error, dsn or self._dsn) from error
        self._reached = True
        return AsyncpgConnection(raw, self._schema)

    async def connect_plainly(self, purpose: str, *, dsn: str = "") -> AsyncpgConnection:
        """Open a connection that asks for no settings and keeps no prepared statements, so that a pooler lets it through.

        For whoever wants to know what the server gives by itself. Arguments and errors as for `connect`.
        """
        if self._user_pool is not None and not dsn:
            return await self.connect(purpose, {})
        arguments = self._connect_arguments(purpose, {}, dsn or self._dsn)
        arguments["server_settings"] = {"application_name": arguments["server_settings"]["application_name"]}
        try:
            raw = await asyncpg.connect(**arguments, command_timeout=STATEMENT_SECONDS, statement_cache_size=0)
        except (*DRIVER_ERRORS, ValueError) as error:
            raise self._cannot_connect(error, dsn or self._dsn) from error
        self._reached = True
        return AsyncpgConnection(raw, self._schema)

    def _connect_arguments(self, purpose: str, settings: dict[str, str], dsn: str) -> dict[str, Any]:  # of asyncpg.connect
        arguments: dict[str, Any] = {
            "dsn": dsn,
            "timeout": CONNECT_SECONDS,
            "server_settings": {**_COMMON, **settings, "application_name": f"{self._name} {purpose}"},
        }
        if urls.is_local(dsn):
            arguments["ssl"] = False
        return arguments

    def _cannot_connect(self, error: Exception, dsn: str) -> EventStoreError:
        known = translated(error)
        if isinstance(error, asyncpg.PostgresError) or self._reached:
            return known
        why = str(error) or type(error).__name__
        return CannotConnect(f"cannot connect to {urls.redacted(dsn)}: {why}; is the server running there?")


class _Borrowed(AsyncpgConnection):
    """A connection out of the user's own pool: closing gives it back."""

    def __init__(self, pool: Any, raw: Any, schema: str) -> None:  # asyncpg.Pool and its connection proxy
        super().__init__(raw, schema)
        self._pool = pool

    async def close(self) -> None:
        """Give it back."""
        await self._pool.release(self.raw)


async def _leave_as_it_is(connection: Any) -> None:  # asyncpg.Connection
    """Our connections carry no session state from one use to the next, so resetting them would be a round trip lost."""


def translated(error: BaseException) -> EventStoreError:
    """Return our error for one of asyncpg's."""
    if isinstance(error, EventStoreError):
        return error
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
        return from_sqlstate(error.sqlstate, str(error))
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return InvalidArgument(f"a parameter does not fit its type: {error}")
    return ConnectionLost(f"the connection failed: {error or type(error).__name__}")
