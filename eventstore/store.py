"""The event store: append, read, subscribe, transactions. Nothing else; features take a store.

No I/O happens before `open()`. A store belongs to the event loop that opened it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final
from uuid import UUID

from . import embedded, resolution, schema
from ._binaries import OLDEST_MAJOR
from ._drivers import urls
from ._drivers.asyncpg import AsyncpgDriver
from ._drivers.budget import READER_SETTINGS, SETTINGS_SEEN, Budget, check_cache_size, check_settings_seen
from ._drivers.joining import Joined, wrap
from ._failpoints import armed, hit, register
from ._operations import append as appends
from ._operations import boundary, read, requests
from ._operations.append import Known, Landed, Outcome
from ._operations.boundary import Item, Seen, Token
from ._operations.opening import check_versions
from ._operations.prepare import Limits, PreparedAppend, prepare, with_own_request
from ._operations.read import BatchSize, Filter
from ._operations.statement import Statement
from .context import Context, use_context
from .errors import AppendUnknown, ConnectionLost, InvalidArgument, StoreClosed
from .events import VERSION, Appended, Recorded
from .feed import Frontier, LogReader, Subscription, WakeUps
from .group_commit import GroupCommit, Lanes
from .serialization import EventType, Registry, Unknown
from .streams import ANY, Expectation, Position, check_name
from .telemetry import Telemetry
from .transaction import Transaction, TransactionConnection, check_bounds
from .turns import Turns

__all__ = ["EventStore", "Transaction"]

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
            Default 11: 2 for appends, 1 for those with tags, 3 for transactions, 3 for reads, 1 that watches the log for all
            subscribers, 1 that listens.
        limits: the largest events and appends that are taken.
        application_name: what ``pg_stat_activity`` shows, with each connection's purpose behind it.
        group_commit: how concurrent appends share commits.
        resolve_unknown: find out by itself what became of an append whose connection died: each carries a request id then,
            which costs a row in ``requests`` (prune them: `eventstore.requests`). False: `AppendUnknown` is raised, unless
            the append has a request id of the caller's.
        statement_cache_size: 0 behind a pooler that hands out another session to each transaction, such as PgBouncer; also as
            ``?statement_cache_size=0`` in the URL. The connections keep no prepared statements and ask for no settings then,
            and LISTEN needs `WakeUps(listen_url=...)`: without it the log is polled. None: the driver's default.
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
        max_connections: int = 11,
        limits: Limits | None = None,
        application_name: str = "eventstore",
        group_commit: GroupCommit | None = None,
        resolve_unknown: bool = False,
        statement_cache_size: int | None = None,
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
        self._turns = Turns()
        self._name = application_name
        self._group_commit = group_commit or GroupCommit()
        self._resolve_unknown = resolve_unknown
        has_url = not self._embedded and self._pool is None
        self._dsn = urls.to_libpq(url) if has_url else ""
        self._cache_size = check_cache_size(statement_cache_size, urls.cache_size(url) if has_url else None)
        if self._pool is not None and statement_cache_size is not None:
            raise InvalidArgument(
                "a store on an asyncpg pool takes its connections as they are: give statement_cache_size=0 to create_pool"
            )
        self._wake_ups = wake_ups or WakeUps()
        self._listen_dsn = urls.to_libpq(self._wake_ups.listen_url) if self._wake_ups.listen_url else ""
        if self._cache_size == 0 and not self._listen_dsn:
            # LISTEN would stay behind in a session that others are given next.
            self._wake_ups = dataclasses.replace(self._wake_ups, listen=False)
        self._telemetry = telemetry
        self._server: embedded.EmbeddedServer | None = None
        self._is_open = False
        self._driver = self._new_driver("")
        self._frontier = self._new_frontier(closed=True)
        self._lanes = self._new_lanes()

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
            self._driver = self._new_driver(self._pool or self._dsn)
            self._frontier = self._new_frontier()
            self._lanes = self._new_lanes()
            await self._check_server()
            if self._migrate:
                self._refuse_pool_for_migrations()
                await asyncio.to_thread(schema.migrate, self._dsn, schema=self._schema)
            await self._driver.open()
            await self._driver.run("read", check_versions(schema.VERSION, OLDEST_MAJOR, self._schema))
            self._lanes.open()
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
            await self._lanes.drain()
            await self._driver.drain()
            await self._lanes.close()
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

    async def append(
        self, stream_id: str, events: object, *, expect: int | Expectation = ANY, request_id: str | None = None
    ) -> Appended:
        """Append one event or several to a stream, in one transaction, which appends that arrive together share.

        Args:
            stream_id: text of 1 to 255 bytes; by convention ``<category>-<id>``.
            events: one event, one `NewEvent`, or a sequence of them.
            expect: the stream's version before the append: a number, `NO_STREAM` (0), `EXISTS`, or `ANY` (default: the
                events do not depend on what came before).
            request_id: a name for this append, an HTTP Idempotency-Key, say: the same again, from whichever process, gives
                the first result and appends nothing, for as long as requests are kept.

        Raises:
            VersionConflict: the stream is not where it was expected; nothing was written.
            InvalidEvent, InvalidArgument, UnknownEventType: refused before anything was sent.
            IdempotencyMismatch: the request id was used for other events, or another stream.
            AppendUnknown: the connection died; it may or may not have been committed. Appending again with the same event
                ids at an exact version, or with the same request id, is safe.
            LockTimeout, Retryable, ConnectionLost: nothing was written; try again.

        Guarantees: all of the events or none; committed when this returns (as durable as ``synchronous_commit``
        says); versions without a hole; positions grow in the order given; calls for one stream are served in their order.
        The same event ids (`NewEvent(event_id=...)`) again at the same exact version give the first result. A call that is
        cancelled may or may not have been committed.
        """
        one = prepare(self._registry, stream_id, events, expect=expect, request_id=request_id, limits=self._limits)
        if request_id is None and not self._resolve_unknown:  # nothing to resolve: one coroutine less for most appends
            outcome = await self._lanes.append(one)
            return appends.appended(one, outcome) if type(outcome) is Landed else await self._settled(one, outcome)
        return (await self._append(one))[0]

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction for appends to several streams, all or none; ``tx.connection`` is its asyncpg connection.

        Keep it short: followers wait for whoever has appended and not yet committed.

        Raises:
            AppendUnknown: the connection died at the commit; it may or may not have been committed.
            ConnectionLost: the connection died, and it was not.
        """
        async with self._driver.acquire("transaction") as connection:
            transaction: Transaction | None = None
            request_id, committing = "", False
            try:
                async with connection.transaction():
                    transaction = Transaction(Joined(connection), self._registry, self._limits)
                    yield transaction
                    if self._resolve_unknown and transaction.appended:
                        request_id = f"transaction {uuid.uuid4()}"
                        await connection.run(requests.note("", request_id, *transaction.last))
                    committing = True
                    if armed:
                        await hit(COMMITTING)
            except ConnectionLost as error:
                if not (committing and transaction and transaction.appended):
                    raise
                unknown = AppendUnknown(*transaction.appended_ids, str(error))
                if not (request_id and await resolution.was_committed(self._driver, request_id, unknown)):
                    raise (error if request_id else unknown) from error
            if transaction.appended:
                if armed:
                    await hit(TRANSACTION_COMMITTED)
                self._frontier.touch()

    def join(self, connection: object) -> Transaction:
        """Append and read inside a transaction that is open on a connection of the caller's, who commits or rolls back.

        Nobody tells the store of that commit: call `wake` after it, or subscribers find out by their next look. Keep such
        a transaction short: followers wait for whoever has appended and not yet committed. For a SQLAlchemy session
        there is `eventstore.sqlalchemy.join`.

        Args:
            connection: an asyncpg connection, bare or out of a pool, or a psycopg ``AsyncConnection``, to the store's own
                database. Any isolation level, any way of having begun; codecs as docs/transactions.md says.

        Raises:
            InvalidArgument: something else, or a connection without an open transaction.
            ConnectionLost: the connection is closed.
            StoreClosed: before `open` or after `close`.
        """
        self._check_open()
        return self._join(Joined(wrap(connection, self._schema)))

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
            reached = rows[-1][VERSION]
            low, high = (low, reached) if backwards else (reached, high)

    def read_all(
        self,
        *,
        after: int = 0,
        limit: int | None = None,
        types: Sequence[type | str] | None = None,
        categories: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        settle: float = 1.0,
    ) -> LogReader[Any]:
        """Read the log in order of position, up to its settled end; never skips an event that may still appear.

        Args:
            after: only positions above this one.
            limit: at most so many events.
            types: only these event types, as classes or stored names.
            categories: only streams of these categories (the id's part before the first dash). Without an index of its
                own this reads the log and drops the rest.
            tags: only events that carry all of these, those of a back-fill included.
            settle: how many seconds to wait at the end for transactions that may still commit something earlier.
        """
        check_bounds(after, None, limit)
        wanted = Filter.of(self._registry, types=types, categories=categories, tags=tags)
        return LogReader(
            self._driver, self._frontier, self._registry, wanted, after=after, limit=limit, settle_seconds=settle
        )

    def subscribe(
        self,
        *,
        after: int = 0,
        types: Sequence[type | str] | None = None,
        categories: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
    ) -> Subscription[Any]:
        """Follow the log for ever.

        ``async with store.subscribe(after=...) as live: async for recorded in live: ...``. Arguments as for `read_all`.
        Remembers nothing durably; projections do.
        """
        check_bounds(after, None, None)
        wanted = Filter.of(self._registry, types=types, categories=categories, tags=tags)
        return Subscription(self._driver, self._frontier, self._registry, wanted, after=after)

    async def head(self) -> Position:
        """Return the highest committed position; 0 for an empty log."""
        return await self._driver.run("read", read.head())

    async def stream_version(self, stream_id: str) -> int:
        """Return the version of a stream; 0 where it has no events."""
        return await self._driver.run("read", read.stream_version("", check_name(stream_id, "a stream id")))

    # -- for features, through eventstore.spi

    async def _append(self, one: PreparedAppend) -> tuple[Appended, Mapping[str, Seen] | None]:
        if self._resolve_unknown and one.request_id is None:
            one = with_own_request(one)
        try:
            outcome = await self._lanes.append(one)
        except AppendUnknown as unknown:
            if one.request_id is None:
                raise
            outcome = await resolution.resolve_append(self._driver, one, unknown)
            self._frontier.touch()
        if type(outcome) is Landed:
            return appends.appended(one, outcome), outcome.written
        done = await self._settled(one, outcome)
        return (done._replace(deduplicated=False) if isinstance(outcome, Known) and one.has_own_request else done), None

    async def _settled(self, one: PreparedAppend, outcome: Outcome) -> Appended:
        return await self._driver.run("read", appends.settle(one, outcome))

    async def _append_together(self, ones: Sequence[PreparedAppend]) -> list[Appended]:
        async with self.transaction() as tx:
            return await tx._append_together(ones)

    async def _read_boundary(self, items: tuple[Item, ...]) -> tuple[list[Recorded[Any]], Token]:
        rows, token = await self._driver.run("read", boundary.read_boundary("", items, own=self._driver.has_settings))
        return read.decode(self._registry, rows), token

    def _join(self, connection: TransactionConnection) -> Transaction:
        self._check_open()
        return Transaction(connection, self._registry, self._limits)

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreClosed("the store is not open: use `async with EventStore(...) as store`, or `await store.open()`")

    def _new_driver(self, address: object) -> AsyncpgDriver:
        return AsyncpgDriver(address, self._schema, self._budget, self._name, self._cache_size)

    def _new_lanes(self) -> Lanes:
        asides = self._budget.transaction - 1  # one is left for transactions
        return Lanes(self._driver, self._group_commit, self._budget, asides, self._frontier.touch)

    def _new_frontier(self, *, closed: bool = False) -> Frontier:
        settings = {**READER_SETTINGS, "lock_timeout": "5s"}
        return Frontier(
            lambda: self._driver.connect("marks", settings, statement_seconds=WATCH_SECONDS),
            lambda: self._driver.connect("listen", {}, dsn=self._listen_dsn),
            f"{self._schema}_log",
            wake_ups=self._wake_ups,
            telemetry=self._telemetry,
            closed=closed,
        )

    async def _check_server(self) -> None:
        """Make a first connection, so that a wrong address is said before anything else, and settings that do not arrive."""
        connection = await self._driver.connect("open", {})
        try:
            if self._driver.has_settings:
                check_settings_seen((await connection.fetch(Statement(SETTINGS_SEEN)))[0][0])
        finally:
            await connection.close()

    def _refuse_pool_for_migrations(self) -> None:
        if self._pool is not None:
            raise InvalidArgument("a store on an asyncpg pool cannot migrate; run: eventstore migrate up --url ...")


def _schema_name(name: str) -> str:
    return schema.check_schema_name(name)
