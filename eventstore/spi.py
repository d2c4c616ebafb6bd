"""What `projections` may use of this package besides its public modules. Nobody else should: it may change any day."""

from __future__ import annotations

from typing import Any

from ._drivers import urls
from ._drivers.asyncpg import AsyncpgConnection, translated
from ._drivers.budget import READER_SETTINGS, STATEMENT_SECONDS
from ._failpoints import armed, hit, register
from ._operations.blockers import find_blocked
from ._operations.statement import Operation, Row, Statement, load_sql
from .errors import ConnectionLost, Transient
from .events import TYPE
from .feed import Subscription
from .feed.rounds import Settled
from .store import EventStore
from .telemetry import FeedBlocked

__all__ = [
    "TYPE",
    "AsyncpgConnection",
    "Operation",
    "Row",
    "Statement",
    "armed",
    "blocked",
    "connect",
    "hit",
    "load_sql",
    "register",
    "settled",
    "sqlalchemy_url",
    "subscribe_by_name",
    "transient",
    "type_name",
]


async def connect(
    store: EventStore, purpose: str, settings: dict[str, str], *, statement_seconds: float | None = STATEMENT_SECONDS
) -> AsyncpgConnection:
    """Open a connection beside the store's budget; the caller closes it. Arguments as for `AsyncpgDriver.connect`."""
    return await store._driver.connect(purpose, settings, statement_seconds=statement_seconds)


def transient(connection: AsyncpgConnection, error: Exception) -> Transient | None:
    """Return what a further try may cure, of an exception that a user's SQL met on `connection`; None: it is the user's."""
    if connection.closed or type(error).__name__ == "InternalClientError":
        return ConnectionLost(f"the connection failed: {error}")
    known = translated(error) if hasattr(error, "sqlstate") else None
    return known if isinstance(known, Transient) else None


def type_name(store: EventStore, type_: type | str) -> str:
    """Return the stored name of an event class, as the store's registry knows it."""
    return store._registry.name_of(type_)


def subscribe_by_name(
    store: EventStore, *, after: int, types: tuple[str, ...] | None, categories: tuple[str, ...] | None
) -> Subscription[Any]:
    """Follow the log for stored type names."""
    return store.subscribe(after=after, types=types, categories=categories)


async def settled(store: EventStore, seconds: float) -> Settled:
    """Make a fresh settled mark; see `Frontier.settled`."""
    return await store._frontier.settled(seconds)


async def blocked(store: EventStore, *, at_least_seconds: float) -> FeedBlocked | None:
    """Return whether readers of the log wait, and for whom; see `find_blocked`."""
    connection = await store._driver.connect("status", READER_SETTINGS)
    try:
        return await connection.run(find_blocked(at_least_seconds))
    finally:
        await connection.close()


def sqlalchemy_url(store: EventStore) -> str:
    """Return the store's address for a SQLAlchemy engine on psycopg; empty for a store on an asyncpg pool."""
    return urls.to_sqlalchemy(store.dsn) if store.dsn else ""
