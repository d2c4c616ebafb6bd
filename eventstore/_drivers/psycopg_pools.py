"""The connections of one blocking store: pools by purpose, for many threads, in a process and its forked children.

**The pools** are our own, a stack of idle connections behind one lock each. psycopg_pool's make connections in threads of
their own and let the caller wait: a refused password or a server that is down would be told as a timeout half a minute
later, where an append must say at once what is wrong; and its threads do not live on in a forked child.

A connection is made by the thread that needs it. One whose server has hung up while it lay idle is noticed before it is
used, so that a restart of the server costs no append.

**Fork.** A child throws away what it inherited, without a word to the server and without closing the parent's sockets:
the objects are kept, so that nobody finalizes them (psycopg says nothing either to a connection that another process has
made). A connection that was in use when the process forked stays with the parent: the child's copy refuses.

**Networks.** TCP keepalives and `tcp_user_timeout` end a wait for a network that has swallowed the answer; a server that
is slow to answer gives up a statement itself, after as long.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from .. import _forks
from .._operations.statement import Operation
from ..errors import CannotConnect, EventStoreError, Retryable, StoreClosed
from . import urls
from .budget import (
    ACQUIRE_SECONDS,
    CLOSE_SECONDS,
    COMMON_SETTINGS,
    CONNECT_SECONDS,
    IDLE_SECONDS,
    SETTINGS,
    STATEMENT_SECONDS,
    THROUGH_A_POOLER,
    Budget,
    set_local,
)
from .psycopg import DRIVER_ERRORS, PsycopgConnection, translated
from .sqlstates import from_sqlstate

__all__ = ["PsycopgDriver"]

T = TypeVar("T")
Raw = psycopg.Connection[Any]
Kind = Literal["append", "transaction", "read"]

_SETTINGS: Final[dict[Kind, dict[str, str]]] = {
    "append": {"lock_timeout": "5s"},
    "transaction": SETTINGS["transaction"],
    "read": SETTINGS["read"],
}

_NETWORK: Final = {
    "connect_timeout": int(CONNECT_SECONDS),
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": int(STATEMENT_SECONDS * 1000),
}

_SAID: Final = (
    (r"password authentication failed|no password supplied", "28P01"),
    (r"no pg_hba\.conf entry|role \".*\" does not exist|not permitted to log in|authentication failed", "28000"),
    (r"database \".*\" does not exist", "3D000"),
    (r"too many clients already|remaining connection slots are reserved|too many connections for", "53300"),
    (r"the database system is (starting up|shutting down|in recovery|not yet accepting)", "57P03"),
)
"""What servers say when they refuse a connection: libpq keeps the SQLSTATE to itself. Where the server's messages are in
another language, the error is CannotConnect, with its text."""

_inherited: list[object] = []
"""What belongs to the parent process: kept, so that nothing is finalized."""


class PsycopgDriver:
    """The connections of one store. See the module's docstring.

    Args:
        dsn: a libpq URL.
        schema: the schema's name.
        budget: how many connections of each kind.
        application_name: what pg_stat_activity shows, followed by the connection's purpose.
        statement_cache_size: 0: a pooler hands out another session to each transaction, so the connections keep no prepared
            statements and ask for no settings; transactions bring those that matter. None: psycopg's default.
    """

    def __init__(
        self, dsn: str, schema: str, budget: Budget, application_name: str, statement_cache_size: int | None = None
    ) -> None:
        self._dsn, self._schema, self._budget, self._name = dsn, schema, budget, application_name
        self.has_settings = statement_cache_size != 0
        self._open = False
        self._reached = False  # once a server answered, one that does not is expected back
        self._pools = self._new_pools()
        _forks.register(self)

    def open(self) -> None:
        """Let connections be taken. Connects to nothing yet."""
        self._open = True

    def close(self) -> None:
        """Refuse new uses, wait for those under way, at most five seconds, and close every connection."""
        self._open = False
        deadline = time.monotonic() + CLOSE_SECONDS
        for pool in self._pools.values():
            pool.close(max(0.0, deadline - time.monotonic()))

    def _forked(self) -> None:
        """Leave the parent its connections."""
        _inherited.append(self._pools)
        self._pools = self._new_pools()

    @contextlib.contextmanager
    def acquire(self, kind: Kind) -> Iterator[PsycopgConnection]:
        """Take a connection from the pool for `kind`, and give it back.

        Raises:
            StoreClosed: before `open` or after `close`.
            Retryable: none was free within half a minute.
            ConnectionLost and others: none could be made.
        """
        if not self._open:
            raise StoreClosed("the store is not open: use `with EventStore(...) as store`, or `store.open()`")
        pool, process = self._pools[kind], os.getpid()
        raw = pool.take()
        try:
            yield PsycopgConnection(raw, self._schema, self._local(_SETTINGS[kind]))
        finally:
            if process == os.getpid():
                pool.give_back(raw)

    @property
    def readers_made(self) -> int:
        """How many connections were made for reads so far: a new one may lead to another server than the last one did."""
        return self._pools["read"].made

    def run(self, kind: Kind, operation: Operation[T]) -> T:
        """Drive an operation on one connection from the pool for `kind`."""
        with self.acquire(kind) as connection:
            return connection.run(operation)

    def connect(self, purpose: str, settings: dict[str, str]) -> PsycopgConnection:
        """Open a connection outside of the pools; the caller closes it.

        Args:
            purpose: what pg_stat_activity shows.
            settings: of the session; of each transaction, where the session cannot carry them.

        Raises:
            EventStoreError: it could not be made.
        """
        return PsycopgConnection(self._connect(purpose, settings), self._schema, self._local(settings))

    def _local(self, settings: dict[str, str]) -> str:
        return "" if self.has_settings else set_local(settings)

    def _new_pools(self) -> dict[Kind, _Pool]:
        kinds: tuple[Kind, ...] = ("append", "transaction", "read")
        return {kind: _Pool(kind, getattr(self._budget, kind), self._connector(kind)) for kind in kinds}

    def _connector(self, kind: Kind) -> Callable[[], Raw]:
        settings = dict(_SETTINGS[kind])
        if kind != "transaction":
            settings["statement_timeout"] = f"{STATEMENT_SECONDS:.0f}s"
        return lambda: self._connect(kind, settings)

    def _connect(self, purpose: str, settings: dict[str, str]) -> Raw:
        try:
            arguments: dict[str, Any] = {  # of psycopg.connect
                **_NETWORK,
                "application_name": f"{self._name} {purpose}",
                "client_encoding": "utf8",
            }
            if self.has_settings:
                given = str(conninfo_to_dict(self._dsn).get("options") or "")
                arguments["options"] = f"{given} {_options({**COMMON_SETTINGS, **settings})}".strip()
            else:
                arguments["prepare_threshold"] = None
            if urls.is_local(self._dsn):
                arguments["sslmode"] = "disable"
            raw = psycopg.connect(self._dsn, autocommit=True, **arguments)
        except DRIVER_ERRORS as error:
            raise self._cannot_connect(error) from error
        self._reached = True
        return raw

    def _cannot_connect(self, error: Exception) -> EventStoreError:
        why = str(error) or type(error).__name__
        if "startup parameter" in why:  # said by PgBouncer
            return CannotConnect(f"a pooler such as PgBouncer refused the connection's settings: {why}; {THROUGH_A_POOLER}")
        for pattern, sqlstate in _SAID:
            if re.search(pattern, why):
                return from_sqlstate(sqlstate, why)
        if self._reached:
            return translated(error)
        return CannotConnect(f"cannot connect to {urls.redacted(self._dsn)}: {why}; is the server running there?")


class _Pool:
    """Connections for one purpose: opened when needed, at most `size`, the one used last first."""

    def __init__(self, kind: Kind, size: int, connect: Callable[[], Raw]) -> None:
        self._kind, self._size, self._connect = kind, size, connect
        self._changed = threading.Condition()
        self._idle: list[tuple[Raw, float]] = []  # and since when
        self._count = 0  # of those that exist or are being made
        self._closed = False
        self.made = 0

    def take(self) -> Raw:
        """Return an idle connection, or a new one; wait for one to be given back where there are enough."""
        deadline = time.monotonic() + ACQUIRE_SECONDS
        with self._changed:
            while True:
                if self._closed:
                    raise StoreClosed("the store was closed")
                while self._idle:
                    raw, _since = self._idle.pop()
                    if _is_quiet(raw):
                        return raw
                    self._discard(raw)
                if self._count < self._size:
                    self._count += 1
                    self.made += 1
                    break
                if not self._changed.wait(deadline - time.monotonic()):
                    raise self._too_many()
        try:
            return self._connect()
        except BaseException:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()
            raise

    def give_back(self, raw: Raw) -> None:
        """Keep it for the next, unless it is broken or in the middle of something."""
        with self._changed:
            clean = not raw.closed and raw.info.transaction_status == TransactionStatus.IDLE
            if clean and not self._closed:
                now = time.monotonic()
                self._idle.append((raw, now))
                while now - self._idle[0][1] > IDLE_SECONDS:
                    self._discard(self._idle.pop(0)[0])
            else:
                self._discard(raw)
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Close what is idle, and wait at most `seconds` for the rest to be given back, which closes it."""
        with self._changed:
            self._closed = True
            while self._idle:
                self._discard(self._idle.pop()[0])
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._count == 0, seconds)

    def _discard(self, raw: Raw) -> None:
        self._count -= 1
        with contextlib.suppress(*DRIVER_ERRORS):
            raw.close()

    def _too_many(self) -> EventStoreError:
        return Retryable(
            f"no connection for {self._kind}s was free within {ACQUIRE_SECONDS:.0f} s (the pool has {self._size}); hold "
            "fewer at once, or raise max_connections",
            "53300",
        )


def _is_quiet(raw: Raw) -> bool:
    """Whether nothing has come on an idle connection: what comes there is a farewell."""
    if raw.closed:
        return False
    poll = select.poll()
    poll.register(raw.fileno(), select.POLLIN)
    return not poll.poll(0)


def _options(settings: dict[str, str]) -> str:
    """Return settings as libpq's `options`."""
    return " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items())
