"""The blocking event store: append, read, subscribe, transactions, on psycopg 3.

No I/O happens before `open()`. A store may be used from many threads, and in the children that its process forks.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final
from uuid import UUID

from .. import _forks, embedded
from .. import schema as schemas
from .._binaries import OLDEST_MAJOR
from .._drivers import urls
from .._drivers.budget import READER_SETTINGS, SETTINGS_SEEN, Budget, check_cache_size, check_settings_seen
from .._drivers.joining import JoinedBlocking, wrap_blocking
from .._drivers.psycopg_pools import PsycopgDriver
from .._operations import append as appends
from .._operations import boundary, read, requests
from .._operations.append import RACES, Known, Landed, Outcome, refuse_reused_position
from .._operations.boundary import Item, Seen, Token
from .._operations.opening import check_versions
from .._operations.prepare import Limits, PreparedAppend, prepare, with_own_request
from .._operations.read import BatchSize, Filter
from .._operations.statement import Statement
from ..context import Context, use_context
from ..errors import (
    AppendUnknown,
    ConnectionLost,
    InvalidArgument,
    LockTimeout,
    StoreClosed,
    UniqueViolation,
)
from ..events import VERSION, Appended, Recorded
from ..feed import WakeUps
from ..serialization import EventType, Registry, Unknown
from ..streams import ANY, Expectation, Position, check_name
from ..telemetry import Telemetry
from ..transaction import check_bounds
from ..turns import BlockingTurns
from . import resolution
from .readers import LogReader, Source, Subscription
from .transaction import BlockingTransactionConnection, Transaction
from .waking import Waker

__all__ = ["EventStore"]

PATIENCE: Final = "5s"
"""How long an append waits for another one's transaction."""


class EventStore:
    """A blocking event store on one PostgreSQL database: the same events, the same names and errors as the async one.

    Args:
        url: ``postgresql://user:password@host/database`` (also with SQLAlchemy's ``+driver``), ``embedded:`` for a private
            temporary server, ``embedded:./folder`` for one that keeps its data; or a SQLAlchemy URL or engine (its
            address is used, not its connections).
        schema: the PostgreSQL schema that holds the tables.
        events: the event classes that count; default: every `Event` subclass seen so far, looked at on use.
        unknown_events: what a read makes of a type without a class: "keep" an `UnknownEvent`, or an "error".
        migrate: bring the schema up to date in `open()`; ``embedded:`` always does.
        max_connections: the most connections that the store opens in each process, at least 5. Each is opened when first
            needed. Default 10, of which it uses 9: 2 for appends, 3 for transactions, 3 for reads, 1 that wakes followers.
        limits: the largest events and appends that are taken.
        resolve_unknown: find out by itself what became of an append whose connection died: each carries a request id then,
            which costs a row in ``requests``. False: `AppendUnknown` is raised, unless the append has a request id of the
            caller's.
        application_name: what ``pg_stat_activity`` shows, with each connection's purpose behind it.
        statement_cache_size: 0 behind a pooler that hands out another session to each transaction, such as PgBouncer; also as
            ``?statement_cache_size=0`` in the URL. The connections keep no prepared statements and ask for no settings then.
            None: the driver's default.
        wake_ups: `poll_seconds` bounds how long a subscriber takes to see what another process has appended, `notify` is
            whether followers elsewhere are notified. The blocking store listens to nobody.
        telemetry: told what is worth watching, such as a subscriber that waits for somebody else's transaction; called in
            the subscriber's thread.
    """

    def __init__(
        self,
        url: object,
        *,
        schema: str = schemas.DEFAULT_SCHEMA,
        events: Iterable[type | EventType] | None = None,
        unknown_events: Unknown = "keep",
        migrate: bool = False,
        max_connections: int = 10,
        limits: Limits | None = None,
        application_name: str = "eventstore",
        resolve_unknown: bool = False,
        statement_cache_size: int | None = None,
        wake_ups: WakeUps | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._url = url
        self._schema = schemas.check_schema_name(schema)
        self._registry = Registry(events, unknown=unknown_events)
        self._embedded = isinstance(url, str) and url.startswith("embedded:")
        self._migrate = migrate or self._embedded
        self._budget = Budget.of(max_connections)
        self._limits = limits or Limits()
        self._turns = BlockingTurns()
        self._name = application_name
        self._resolve_unknown = resolve_unknown
        self._wake_ups = wake_ups or WakeUps()
        self._telemetry = telemetry
        self._server: embedded.EmbeddedServer | None = None
        self._is_open = False
        if hasattr(url, "acquire") or hasattr(url, "getconn"):
            raise InvalidArgument("a blocking store opens connections of its own: give it the URL, not a pool")
        self._dsn = "" if self._embedded else urls.to_libpq(url)
        self._cache_size = check_cache_size(statement_cache_size, None if self._embedded else urls.cache_size(url))
        self._driver, self._waker = self._new_driver()
        _forks.register(self)

    # -- opening and closing

    def open(self) -> EventStore:
        """Connect, check the schema (or migrate it), and be ready.

        Raises:
            CannotConnect, AuthenticationFailed, ServerTooOld, EmbeddedUnavailable: no server to work with.
            SchemaMissing, SchemaOutdated, SchemaTooNew: with the command that cures it.
            LogicalSubscriber: the log is filled by logical replication, so that readers would skip events.
            InvalidArgument: it is open already.
        """
        if self._is_open:
            raise InvalidArgument("the store is open already; one store serves all threads of a process")
        self._is_open = True
        try:
            if self._embedded:
                self._server = embedded.start(embedded.parse_embedded_url(str(self._url)))
                self._dsn = self._server.dsn
            self._driver, self._waker = self._new_driver()
            self._check_server()
            if self._migrate:
                schemas.migrate(self._dsn, schema=self._schema)
            self._driver.open()
            self._driver.run("read", check_versions(schemas.VERSION, OLDEST_MAJOR, self._schema))
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Close every connection of this process; stop a private server that this store started. Safe to repeat.

        New calls are refused; appends and reads under way are waited for, at most five seconds. Subscribers are told
        `StoreClosed`.
        """
        self._is_open = False
        try:
            self._waker.close()
            self._driver.close()
        finally:
            server, self._server = self._server, None
            if server is not None:
                server.stop()

    def __enter__(self) -> EventStore:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _forked(self) -> None:
        """Called in a child that the process has forked: a private server is the parent's to stop, and so are its threads' turns."""
        self._turns = BlockingTurns()
        self._server = None

    @property
    def dsn(self) -> str:
        """The libpq URL of the database, password included."""
        return self._dsn

    @property
    def schema(self) -> str:
        """The PostgreSQL schema that holds the tables."""
        return self._schema

    # -- writing

    def append(
        self, stream_id: str, events: object, *, expect: int | Expectation = ANY, request_id: str | None = None
    ) -> Appended:
        """Append one event or several to a stream, in one transaction of their own.

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
        says); versions without a hole; positions grow in the order given. The same event ids
        (`NewEvent(event_id=...)`) again at the same exact version give the first result.
        """
        one = prepare(self._registry, stream_id, events, expect=expect, request_id=request_id, limits=self._limits)
        return self._append(one)[0]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction for appends to several streams, all or none; ``tx.connection`` is its psycopg connection.

        Keep it short: followers wait for whoever has appended and not yet committed. It belongs to the thread that began it.

        Raises:
            AppendUnknown: the connection died at the commit; it may or may not have been committed.
            ConnectionLost: the connection died, and it was not.
        """
        with self._driver.acquire("transaction") as connection:
            transaction: Transaction | None = None
            request_id, committing = "", False
            try:
                with connection.transaction():
                    transaction = Transaction(JoinedBlocking(connection), self._registry, self._limits)
                    yield transaction
                    if self._resolve_unknown and transaction.appended:
                        request_id = f"transaction {uuid.uuid4()}"
                        connection.run(requests.note("", request_id, *transaction.last))
                    committing = True
            except ConnectionLost as error:
                if not (committing and transaction and transaction.appended):
                    raise
                unknown = AppendUnknown(*transaction.appended_ids, str(error))
                if not (request_id and resolution.was_committed(self._driver, request_id, unknown)):
                    raise (error if request_id else unknown) from error
            if transaction.appended:
                self._waker.ring()

    def join(self, connection: object) -> Transaction:
        """Append and read inside a transaction of yours, on your psycopg connection, whatever its settings.

        You begin, commit and roll back; each append is a savepoint, so that a refused one leaves your transaction usable.
        After the commit call `wake()`: the store does not see it, and followers find out by their poll otherwise.

        Raises:
            InvalidArgument: it is no `psycopg.Connection`, or it is in autocommit mode and no transaction is open.
            ConnectionLost: it is closed.
            StoreClosed: the store is not open.
        """
        self._check_open()
        return self._join(JoinedBlocking(wrap_blocking(connection, self._schema)))

    def context(
        self,
        *,
        correlation_id: str | None = None,
        causation_id: UUID | None = None,
        actor: str | None = None,
        **metadata: Any,
    ) -> AbstractContextManager[Context]:
        """Set correlation, causation, actor and metadata for every append inside a ``with`` block, in this thread."""
        return use_context(correlation_id=correlation_id, causation_id=causation_id, actor=actor, **metadata)

    def wake(self) -> None:
        """Hint: somebody has committed events, and this store has not seen it, as with a joined connection.

        Subscribers look at the log at once, in this process and, by a notification, in others; a settled mark is
        published. Cheap, coalesced, never raises; forgetting it costs the poll's pause, nothing else.
        """
        if self._is_open:
            self._waker.ring()

    # -- reading

    def read_stream(
        self,
        stream_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> Iterator[Recorded[Any]]:
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
            rows = self._driver.run("read", operation)
            yield from read.decode(self._registry, rows)
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
        return LogReader(self._source(types, categories, tags), after=after, limit=limit, settle_seconds=settle)

    def subscribe(
        self,
        *,
        after: int = 0,
        types: Sequence[type | str] | None = None,
        categories: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
    ) -> Subscription[Any]:
        """Follow the log for ever.

        ``with store.subscribe(after=...) as live: for recorded in live: ...``; ``live.close()`` from another thread ends it.
        What this process appends is seen at once, what others do after `WakeUps.poll_seconds` at most. Arguments as for
        `read_all`. Remembers nothing durably; projections do.
        """
        check_bounds(after, None, None)
        return Subscription(self._source(types, categories, tags), after=after, poll_seconds=self._wake_ups.poll_seconds)

    def head(self) -> Position:
        """Return the highest committed position; 0 for an empty log."""
        return self._driver.run("read", read.head())

    def stream_version(self, stream_id: str) -> int:
        """Return the version of a stream; 0 where it has no events."""
        return self._driver.run("read", read.stream_version("", check_name(stream_id, "a stream id")))

    # -- inside

    def _check_server(self) -> None:
        """Make a first connection, so that a wrong address is said before anything else, and settings that do not arrive."""
        connection = self._driver.connect("open", {})
        try:
            if self._driver.has_settings:
                check_settings_seen(connection.fetch(Statement(SETTINGS_SEEN))[0][0])
        finally:
            connection.close()

    def _append(self, one: PreparedAppend) -> tuple[Appended, Mapping[str, Seen] | None]:
        if self._resolve_unknown and one.request_id is None:
            one = with_own_request(one)
        try:
            outcome = self._send(one)
        except AppendUnknown as unknown:
            if one.request_id is None:
                raise
            outcome = resolution.resolve_append(self._driver, one, unknown)
        if isinstance(outcome, Landed | Known):
            self._waker.ring()
        if isinstance(outcome, Landed):
            return appends.appended(one, outcome), outcome.written
        done = self._driver.run("read", appends.settle(one, outcome))
        return (done._replace(deduplicated=False) if isinstance(outcome, Known) and one.has_own_request else done), None

    def _append_together(self, ones: Sequence[PreparedAppend]) -> list[Appended]:
        with self.transaction() as tx:
            return tx._append_together(ones)

    def _read_boundary(self, items: tuple[Item, ...]) -> tuple[list[Recorded[Any]], Token]:
        rows, token = self._driver.run("read", boundary.read_boundary("", items, own=self._driver.has_settings))
        return read.decode(self._registry, rows), token

    def _join(self, connection: BlockingTransactionConnection) -> Transaction:
        self._check_open()
        return Transaction(connection, self._registry, self._limits)

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreClosed("the store is not open: use `with EventStore(...) as store`, or `store.open()`")

    def _send(self, one: PreparedAppend) -> Outcome:
        """Send an append, again where it has lost a race to somebody who takes no lock on the stream."""
        for _ in range(RACES):
            with self._driver.acquire("append") as connection:
                try:
                    (outcome,) = connection.run(appends.append([one], waiting=True, patience=PATIENCE))
                except UniqueViolation as error:
                    refuse_reused_position(error, self._schema)
                    continue
                except ConnectionLost as error:
                    raise AppendUnknown((one.stream_id,), one.event_ids, str(error)) from error
            return outcome
        raise LockTimeout(
            f"{RACES} attempts to append to {one.stream_id!r} each lost a race; too many writers share the stream"
        )

    def _source(
        self, types: Sequence[type | str] | None, categories: Sequence[str] | None, tags: Sequence[str] | None
    ) -> Source:
        wanted = Filter.of(self._registry, types=types, categories=categories, tags=tags)
        return Source(self._driver, self._waker, self._registry, wanted, self._telemetry)

    def _new_driver(self) -> tuple[PsycopgDriver, Waker]:
        driver = PsycopgDriver(self._dsn, self._schema, self._budget, self._name, self._cache_size)
        settings = {**READER_SETTINGS, "lock_timeout": "5s"}
        return driver, Waker(lambda: driver.connect("marks", settings), notify=self._wake_ups.notify)
