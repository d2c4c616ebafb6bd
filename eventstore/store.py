"""The event store: append, read, subscribe, transactions. Nothing else; features take a store.

No I/O happens before `open()`. A store belongs to the event loop that opened it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final
from uuid import UUID

from . import embedded, schema
from ._binaries import OLDEST_MAJOR
from ._drivers import urls
from ._drivers.asyncpg import READER_SETTINGS, AsyncpgDriver, Budget
from ._failpoints import armed, hit, register
from ._operations import append as appends
from ._operations import read
from ._operations.append import Limits, PreparedAppend
from ._operations.opening import check_versions
from ._operations.read import BatchSize, Filter
from .context import Context, use_context
from .errors import (
    AppendUnknown,
    ConnectionLost,
    InvalidArgument,
    LockTimeout,
    UniqueViolation,
    VersionConflict,
)
from .events import Appended, Recorded
from .feed import Frontier, LogReader, Subscription, WakeUps
from .serialization import EventType, Registry, Unknown
from .streams import ANY, Expectation, Position, check_name
from .telemetry import Telemetry
from .transaction import RACES, Transaction, check_bounds, refuse_reused_position

__all__ = ["EventStore", "Transaction"]

SENDING: Final = register("append.before_send", "the append is checked and encoded; nothing was sent")
COMMITTED: Final = register("append.after_commit", "the append is committed; neither the caller nor the readers are told")
COMMITTING: Final = register("transaction.before_commit", "its appends are sent; COMMIT is not")
TRANSACTION_COMMITTED: Final = register("transaction.after_commit", "it is committed; neither caller nor readers are told")

WATCH_SECONDS: Final = 10.0
"""How long a look at the log may take before its connection is given up: a network may swallow the answer."""


class EventStore:
    """An event store on one PostgreSQL database.

    Args:
        url: ``postgresql://user:password@host/database`` (also with SQLAlchemy's ``+driver``), ``embedded:`` for a private
            temporary server, ``embedded:./folder`` for one that keeps its data; or a SQLAlchemy URL or engine (its
            address is used, not its connections); or an asyncpg pool (its connections are used).
        schema: the PostgreSQL schema that holds the tables.
        events: the event classes that count; default: every `Event` subclass seen so far, looked at on use.
        unknown_events: what a read makes of a type without a class: "keep" an `UnknownEvent`, or an "error".
        migrate: bring the schema up to date in `open()`; ``embedded:`` always does.
        max_connections: the most connections that the store opens, at least 5. Each is opened when first needed.
            Default 10: 2 for appends, 3 for transactions, 3 for reads, 1 that watches the log for all subscribers, 1 that
            listens.
        limits: the largest events and appends that are taken.
        application_name: what ``pg_stat_activity`` shows, with each connection's purpose behind it.
        wake_ups: how it learns that others have appended, and tells them. Default: notifications, and a poll behind them.
        telemetry: told what is worth watching, such as readers that wait for somebody else's transaction.
    """

    def __init__(
        self,
        url: object,
        *,
        schema: str = schema.DEFAULT_SCHEMA,
        events: Iterable[type | EventType] | None = None,
        unknown_events: Unknown = "keep",
        migrate: bool = False,
        max_connections: int = 10,
        limits: Limits | None = None,
        application_name: str = "eventstore",
        wake_ups: WakeUps | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._url = url
        self._schema = _schema_name(schema)
        self._registry = Registry(events, unknown=unknown_events)
        self._embedded = isinstance(url, str) and url.startswith("embedded:")
        self._pool = url if hasattr(url, "acquire") else None
        self._migrate = migrate or self._embedded
        self._budget = Budget.of(max_connections)
        self._limits = limits or Limits()
        self._name = application_name
        self._wake_ups = wake_ups or WakeUps()
        self._listen_dsn = urls.to_libpq(self._wake_ups.listen_url) if self._wake_ups.listen_url else ""
        self._telemetry = telemetry
        self._server: embedded.EmbeddedServer | None = None
        self._is_open = False
        self._dsn = "" if self._embedded or self._pool is not None else urls.to_libpq(url)
        self._driver = AsyncpgDriver("", self._schema, self._budget, self._name)
        self._frontier = self._new_frontier()

    # -- opening and closing

    async def open(self) -> EventStore:
        """Connect, check the schema (or migrate it), and be ready.

        Raises:
            CannotConnect, AuthenticationFailed, ServerTooOld, EmbeddedUnavailable: no server to work with.
            SchemaMissing, SchemaOutdated, SchemaTooNew: with the command that cures it.
            LogicalSubscriber: the log is filled by logical replication, so that readers would skip events.
            InvalidArgument: it is open already, or the asyncpg pool is too small.
        """
        if self._is_open:
            raise InvalidArgument("the store is open already; make another EventStore for another event loop or use")
        self._is_open = True
        try:
            if self._embedded:
                folder = embedded.parse_embedded_url(str(self._url))
                self._server = await asyncio.to_thread(embedded.start, folder)
                self._dsn = self._server.dsn
            self._driver = AsyncpgDriver(self._pool or self._dsn, self._schema, self._budget, self._name)
            self._frontier = self._new_frontier()
            await self._check_server()
            if self._migrate:
                self._refuse_pool_for_migrations()
                await asyncio.to_thread(schema.migrate, self._dsn, schema=self._schema)
            await self._driver.open()
            await self._driver.run("read", check_versions(schema.VERSION, OLDEST_MAJOR, self._schema))
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Close every connection; stop a private server that this store started. Safe to repeat.

        New calls are refused; appends and reads under way are waited for, at most five seconds.
        """
        self._is_open = False
        try:
            await self._driver.drain()
            await self._frontier.close()
            await self._driver.close()
        finally:
            server, self._server = self._server, None
            if server is not None:
                await asyncio.to_thread(server.stop)

    async def __aenter__(self) -> EventStore:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self.close())

    @property
    def dsn(self) -> str:
        """The libpq URL of the database, password included; empty for a store on an asyncpg pool."""
        return self._dsn

    @property
    def schema(self) -> str:
        """The PostgreSQL schema that holds the tables."""
        return self._schema

    # -- writing

    async def append(self, stream_id: str, events: object, *, expect: int | Expectation = ANY) -> Appended:
        """Append one event or several to a stream, in one transaction of their own.

        Args:
            stream_id: text of 1 to 255 bytes; by convention ``<category>-<id>``.
            events: one event, one `NewEvent`, or a sequence of them.
            expect: the stream's version before the append: a number, `NO_STREAM` (0), `EXISTS`, or `ANY` (default: the
                events do not depend on what came before).

        Raises:
            VersionConflict: the stream is not where it was expected; nothing was written.
            InvalidEvent, InvalidArgument, UnknownEventType: refused before anything was sent.
            AppendUnknown: the connection died; it may or may not have been committed.
            LockTimeout, Retryable: nothing was written; try again.

        Guarantees: all of the events or none; committed when this returns (as durable as ``synchronous_commit``
        says); versions without a hole; positions grow in the order given.
        """
        one = prepared(self, stream_id, events, expect)
        (outcome,) = await self._send([one])
        if isinstance(outcome, VersionConflict):
            raise outcome
        return outcome

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction for appends to several streams, all or none; ``tx.connection`` is its asyncpg connection.

        Keep it short: followers wait for whoever has appended and not yet committed.

        Raises:
            AppendUnknown: the connection died at the commit; it may or may not have been committed.
        """
        async with self._driver.acquire("transaction") as connection:
            transaction = Transaction(connection, self._registry, self._limits)
            committing = False
            try:
                async with connection.transaction():
                    yield transaction
                    committing = True
                    if armed:
                        await hit(COMMITTING)
            except ConnectionLost as error:
                if committing and transaction.appended:
                    raise AppendUnknown(*transaction.appended_ids, str(error)) from error
                raise
            if transaction.appended:
                if armed:
                    await hit(TRANSACTION_COMMITTED)
                self._frontier.touch()

    def context(
        self,
        *,
        correlation_id: str | None = None,
        causation_id: UUID | None = None,
        actor: str | None = None,
        **metadata: Any,
    ) -> AbstractContextManager[Context]:
        """Set correlation, causation, actor and metadata for every append inside a ``with`` block."""
        return use_context(correlation_id=correlation_id, causation_id=causation_id, actor=actor, **metadata)

    def wake(self) -> None:
        """Hint: somebody has committed events, and this store has not seen it, as with an INSERT on a connection of yours.

        Subscribers look at the log at once, in this process and, by a notification, in others; a settled mark is
        published. Cheap, coalesced, never raises; forgetting it costs the poll's pause, nothing else.
        """
        if self._is_open:
            self._frontier.touch()

    # -- reading

    async def read_stream(
        self,
        stream_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[Recorded[Any]]:
        """Read a stream in order of version.

        Args:
            stream_id: the stream; one without events gives nothing.
            after: only versions above this one.
            before: only versions below this one.
            limit: at most so many events.
            backwards: newest first.
        """
        check_name(stream_id, "a stream id")
        low, high = check_bounds(after, before, limit)
        size, left = BatchSize(), limit
        while high - low > 1 and left != 0:
            ask = size.rows if left is None else min(size.rows, left)
            operation = read.read_stream("", stream_id, low, high, ask, backwards=backwards)
            rows = await self._driver.run("read", operation)
            for recorded in read.decode(self._registry, rows):
                yield recorded
            if len(rows) < ask:
                return
            size.note(rows)
            left = None if left is None else left - len(rows)
            reached = rows[-1][read.VERSION]
            low, high = (low, reached) if backwards else (reached, high)

    def read_all(
        self,
        *,
        after: int = 0,
        limit: int | None = None,
        types: Sequence[type | str] | None = None,
        categories: Sequence[str] | None = None,
        settle: float = 1.0,
    ) -> LogReader[Any]:
        """Read the log in order of position, up to its settled end; never skips an event that may still appear.

        Args:
            after: only positions above this one.
            limit: at most so many events.
            types: only these event types, as classes or stored names.
            categories: only streams of these categories (the id's part before the first dash). Without an index of its
                own this reads the log and drops the rest.
            settle: how many seconds to wait at the end for transactions that may still commit something earlier.
        """
        check_bounds(after, None, limit)
        wanted = self._filter(types, categories)
        return LogReader(
            self._driver, self._frontier, self._registry, wanted, after=after, limit=limit, settle_seconds=settle
        )

    def subscribe(
        self, *, after: int = 0, types: Sequence[type | str] | None = None, categories: Sequence[str] | None = None
    ) -> Subscription[Any]:
        """Follow the log for ever.

        ``async with store.subscribe(after=...) as live: async for recorded in live: ...``. Arguments as for `read_all`.
        Remembers nothing durably; projections do.
        """
        check_bounds(after, None, None)
        return Subscription(self._driver, self._frontier, self._registry, self._filter(types, categories), after=after)

    async def head(self) -> Position:
        """Return the highest committed position; 0 for an empty log."""
        return await self._driver.run("read", read.head())

    async def stream_version(self, stream_id: str) -> int:
        """Return the version of a stream; 0 where it has no events."""
        return await self._driver.run("read", read.stream_version("", check_name(stream_id, "a stream id")))

    # -- for features, through eventstore.spi

    async def _send(self, group: Sequence[PreparedAppend], order: Any = None) -> list[Appended | VersionConflict]:
        """Send appends for different streams as one statement; see `_operations.append`."""
        if armed:
            await hit(SENDING)
        for attempt in range(RACES):
            contended = attempt > 0
            operation = (
                appends.append(group, contended=contended)
                if order is None
                else appends.append_in_order(group, order, contended=contended)
            )
            async with self._driver.acquire("append") as connection:
                try:
                    outcomes = await connection.run(operation)
                except UniqueViolation as error:
                    refuse_reused_position(error, self._schema)
                    continue
                except ConnectionLost as error:
                    ids = tuple(event_id for one in group for event_id in one.event_ids)
                    raise AppendUnknown(tuple(one.stream_id for one in group), ids, str(error)) from error
            if armed:
                await hit(COMMITTED)
            self._frontier.touch()
            return outcomes
        raise LockTimeout(
            f"{RACES} attempts to append to {group[0].stream_id!r} each lost a race; too many writers share the stream"
        )

    def _filter(self, types: Sequence[type | str] | None, categories: Sequence[str] | None) -> Filter:
        if isinstance(types, str) or isinstance(categories, str):
            raise InvalidArgument("types and categories are sequences: write types=['x'], not types='x'")
        names = None if types is None else tuple(self._registry.name_of(type_) for type_ in types)
        return Filter(names, None if categories is None else tuple(check_name(c, "a category") for c in categories))

    def _new_frontier(self) -> Frontier:
        settings = {**READER_SETTINGS, "lock_timeout": "5s"}
        return Frontier(
            lambda: self._driver.connect("marks", settings, statement_seconds=WATCH_SECONDS),
            lambda: self._driver.connect("listen", {}, dsn=self._listen_dsn),
            f"{self._schema}_log",
            wake_ups=self._wake_ups,
            telemetry=self._telemetry,
        )

    async def _check_server(self) -> None:
        """Make a first connection, so that a wrong address is said before anything else."""
        connection = await self._driver.connect("open", {})
        await connection.close()

    def _refuse_pool_for_migrations(self) -> None:
        if self._pool is not None:
            raise InvalidArgument("a store on an asyncpg pool cannot migrate; run: eventstore migrate up --url ...")


def prepared(store: EventStore, stream_id: str, events: object, expect: object) -> PreparedAppend:
    """Check and encode one append for `store`."""
    return appends.prepare(store._registry, stream_id, events, expect=expect, limits=store._limits)


def _schema_name(name: str) -> str:
    return schema.check_schema_name(name)
