"""Runs operations on asyncpg connections. The only module that imports asyncpg. How many, and with which settings: `budget`.

A cancelled statement is cancelled on the server too; asyncpg's pool takes the connection back only when it is clean and
closes it otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, TypeVar, get_args

import asyncpg

from .._operations.statement import Operation, Row, Statement
from ..errors import CannotConnect, ConnectionLost, EventStoreError, InvalidArgument, Retryable, StoreClosed
from . import urls
from .budget import (
    ACQUIRE_SECONDS,
    CLOSE_SECONDS,
    COMMON_SETTINGS,
    CONNECT_SECONDS,
    IDLE_SECONDS,
    SETTINGS,
    SMALLEST_BUDGET,
    STATEMENT_SECONDS,
    WRITER_SETTINGS,
    Budget,
    Kind,
    set_local,
)
from .connection import drive, in_schema, nothing_committed
from .sqlstates import from_sqlstate

__all__ = ["AsyncpgConnection", "AsyncpgDriver", "is_asyncpg", "translated"]

T = TypeVar("T")

DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""All that asyncpg raises. InternalClientError is what a statement meets that is sent while the server hangs up."""

AT_HAND_SECONDS: Final = 60.0
"""How long a connection stays at hand that nobody uses, about."""

COPY_BYTES: Final = 256 * 2**10
"""Bytes of a COPY that are handed over at once: asyncpg waits in between for the server to take them."""


class AsyncpgConnection:
    """One connection, and the running of operations on it. Statements are never run by two tasks at once.

    Args:
        raw: asyncpg's.
        schema: the schema's name.
        local: statements that every transaction begins with: the settings that the session cannot carry.
    """

    def __init__(self, raw: Any, schema: str, local: str = "") -> None:  # asyncpg.Connection, or a pool's proxy of one
        self.raw = raw
        self._schema = schema
        self._local = local

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
        return await drive(self, operation)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A transaction; inside of one a savepoint. A block that ends without an error is committed.

        Raises:
            DatabaseRefused: a statement in it had failed, and whoever sent it went on: PostgreSQL rolled back all of it.
        """
        outermost = not self.raw.is_in_transaction()
        try:
            transaction = self.raw.transaction()
            await transaction.start()
        except DRIVER_ERRORS as error:
            raise translated(error) from error
        try:
            if outermost and self._local:
                await self.execute(Statement(self._local))
            yield
            if outermost and not hasattr(self.raw, "last_status"):  # out of a user's pool: it can only be asked beforehand
                await self.execute(Statement("select 1"))
        except BaseException:
            with contextlib.suppress(*DRIVER_ERRORS):
                await asyncio.shield(transaction.rollback())
            raise
        try:
            await transaction.commit()
        except DRIVER_ERRORS as error:
            raise translated(error) from error
        if outermost and getattr(self.raw, "last_status", "") == "ROLLBACK":
            raise nothing_committed("async with tx.connection.transaction()")

    @property
    def closed(self) -> bool:
        """Whether the connection is gone, or given back to its pool."""
        return _is_closed(self.raw)

    @property
    def in_transaction(self) -> bool:
        """Whether what is sent now belongs to a transaction that somebody has begun, and will end."""
        return not self.closed and bool(self.raw.is_in_transaction())

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
        """COPY rows into a table of the schema: in the transaction that is open, or in one of its own.

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
        return in_schema(sql, self._schema)


def is_asyncpg(connection: object) -> bool:
    """Whether it is a connection of asyncpg's, bare or out of a pool."""
    return isinstance(connection, (asyncpg.Connection, asyncpg.pool.PoolConnectionProxy))


def _is_closed(raw: Any) -> bool:  # asyncpg.Connection, or a pool's proxy of one
    try:
        return bool(raw.is_closed())
    except asyncpg.InterfaceError:  # a proxy whose connection has died, or was given back
        return True


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
        statement_cache_size: 0: a pooler hands out another session to each transaction, so the connections keep no prepared
            statements and ask for no settings; transactions bring those that matter. None: asyncpg's default.

    Attributes:
        schema: the schema's name.
    """

    def __init__(
        self,
        address: Any,  # str or asyncpg.Pool
        schema: str,
        budget: Budget,
        application_name: str,
        statement_cache_size: int | None = None,
    ) -> None:
        self.schema = self._schema = schema
        self._cache = {} if statement_cache_size is None else {"statement_cache_size": statement_cache_size}
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
        self._at_hand: dict[Kind, list[tuple[float, Any]]] = {kind: [] for kind in get_args(Kind)}
        self._queueing: dict[Kind, int] = dict.fromkeys(get_args(Kind), 0)
        self._tidying: asyncio.TimerHandle | None = None
        self._tidied: asyncio.Task[None] | None = None
        self._open = False
        self._in_use = 0
        self._unused = asyncio.Event()
        self._reached = False  # once a server answered, one that does not is expected back

    @property
    def borrows(self) -> bool:
        """Whether connections are the user's pool's: they are given back when nothing is to do."""
        return self._user_pool is not None

    @property
    def has_settings(self) -> bool:
        """Whether the connections carry the settings of ours: the user's own do not, and a pooler's cannot."""
        return self._user_pool is None and self._cache.get("statement_cache_size") != 0

    async def connect_writer(self) -> AsyncpgConnection:
        """Open a connection for appends; as `connect`.

        Raises:
            EventStoreError: it could not be made.
        """
        return await self.connect("append", WRITER_SETTINGS)

    async def open(self) -> None:
        """Make the pools. Connects to nothing yet."""
        self._open = True
        for kind in get_args(Kind):
            self._pools[kind] = self._user_pool or await asyncpg.create_pool(
                **self._connect_arguments(kind, SETTINGS[kind], self._dsn),
                command_timeout=None if kind == "transaction" else STATEMENT_SECONDS,
                min_size=0,
                max_size=getattr(self._budget, kind),
                max_inactive_connection_lifetime=IDLE_SECONDS,
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
        if self._tidying is not None:
            self._tidying.cancel()
            self._tidying = None
        if self._tidied is not None:
            await self._tidied
        await self._give_back(self._unused_since(float("inf")))
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
        pool, clean = self._pools[kind], False
        try:
            raw = await self._take_at_hand(kind) or await self._take(pool, kind)
            try:
                yield AsyncpgConnection(raw, self._schema, self._local(SETTINGS[kind]))
                clean = True
            finally:
                if not (clean and self._keep_at_hand(kind, raw)):
                    await pool.release(raw)
        finally:
            self._in_use -= 1
            self._unused.set()

    async def _take_at_hand(self, kind: Kind) -> Any:  # asyncpg's pool's proxy of a connection
        at_hand = self._at_hand[kind]
        while at_hand:
            _, raw = at_hand.pop()
            if not _is_closed(raw):
                return raw
            await self._pools[kind].release(raw)
        return None

    def _keep_at_hand(self, kind: Kind, raw: Any) -> bool:  # as above
        """Keep a connection for who comes next, without the pool's round of bookkeeping, which takes 0.1 ms.

        Not if somebody waits for the pool to have one; nor after an error, when the pool knows what to do.
        """
        if self.borrows or self._queueing[kind] or not self._open or _is_closed(raw):
            return False
        loop = asyncio.get_running_loop()
        self._at_hand[kind].append((loop.time(), raw))
        if self._tidying is None:
            self._tidying = loop.call_later(AT_HAND_SECONDS, self._tidy)
        return True

    def _tidy(self) -> None:
        """Give the pools back what nobody has used for a while; they close it in time."""
        self._tidying = None
        loop = asyncio.get_running_loop()
        if unused := self._unused_since(loop.time() - AT_HAND_SECONDS):
            self._tidied = loop.create_task(self._give_back(unused), name="eventstore-tidy")
        if any(self._at_hand.values()):
            self._tidying = loop.call_later(AT_HAND_SECONDS, self._tidy)

    def _unused_since(self, before: float) -> list[tuple[Kind, Any]]:
        """Remove from what is at hand, and return, what was last used before then."""
        unused = [(kind, raw) for kind, at_hand in self._at_hand.items() for since, raw in at_hand if since <= before]
        for at_hand in self._at_hand.values():
            at_hand[:] = [one for one in at_hand if one[0] > before]
        return unused

    async def _give_back(self, unused: Sequence[tuple[Kind, Any]]) -> None:
        for kind, raw in unused:
            with contextlib.suppress(*DRIVER_ERRORS):
                await self._pools[kind].release(raw)

    async def _take(self, pool: Any, kind: Kind) -> Any:  # asyncpg's pool, and its proxy of a connection
        self._queueing[kind] += 1
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
        finally:
            self._queueing[kind] -= 1

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
            settings: of the session; of each transaction, where the session cannot carry them.
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
        return AsyncpgConnection(raw, self._schema, "" if dsn else self._local(settings))

    async def connect_plainly(self, purpose: str, *, dsn: str = "") -> AsyncpgConnection:
        """Open a connection that asks for no settings and keeps no prepared statements, so that a pooler lets it through.

        For whoever wants to know what the server gives by itself. Arguments and errors as for `connect`.
        """
        if self._user_pool is not None and not dsn:
            return await self.connect(purpose, {})
        arguments = self._connect_arguments(purpose, {}, dsn or self._dsn)
        arguments["server_settings"] = {"application_name": arguments["server_settings"]["application_name"]}
        arguments["statement_cache_size"] = 0
        try:
            raw = await asyncpg.connect(**arguments, command_timeout=STATEMENT_SECONDS)
        except (*DRIVER_ERRORS, ValueError) as error:
            raise self._cannot_connect(error, dsn or self._dsn) from error
        self._reached = True
        return AsyncpgConnection(raw, self._schema)

    def _local(self, settings: dict[str, str]) -> str:
        return "" if self.borrows or self.has_settings else set_local(settings)

    def _connect_arguments(self, purpose: str, settings: dict[str, str], dsn: str) -> dict[str, Any]:  # of asyncpg.connect
        direct = dsn != self._dsn or self.has_settings
        arguments: dict[str, Any] = {
            "dsn": dsn,
            "timeout": CONNECT_SECONDS,
            "connection_class": _Connection,
            "server_settings": {
                **(COMMON_SETTINGS | settings if direct else {}),
                "application_name": f"{self._name} {purpose}",
            },
            **({} if dsn != self._dsn else self._cache),
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


class _Connection(asyncpg.Connection):
    """A connection that knows what became of its last statement without rows: asyncpg takes any answer to COMMIT for a yes."""

    __slots__ = ("last_status",)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As asyncpg's."""
        self.last_status = status = await super().execute(query, *args, timeout=timeout)
        return status


async def _leave_as_it_is(connection: Any) -> None:  # asyncpg.Connection
    """Our connections carry no session state from one use to the next, so resetting them would be a round trip lost."""


def translated(error: BaseException) -> EventStoreError:
    """Return our error for one of asyncpg's."""
    if isinstance(error, EventStoreError):
        return error
    if isinstance(error, asyncpg.DataError) and error.severity is None:  # raised before anything was sent
        return InvalidArgument(f"a parameter does not fit its type: {error}")
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
        return from_sqlstate(error.sqlstate, str(error))
    return ConnectionLost(f"the connection failed: {error or type(error).__name__}")
