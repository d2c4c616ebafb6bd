"""pg-eventstore: an event store for Python teams whose system of record is PostgreSQL.

The log: facts in, facts out, and whatever must be true inside the append's transaction. What follows the log and
remembers how far it came lives in the package `projections`.
"""

from ._operations.append import Limits
from .context import Context
from .errors import EventStoreError, VersionConflict
from .events import Appended, Event, NewEvent, Recorded, UnknownEvent
from .feed import Batch, LogReader, Subscription, WakeUps
from .serialization import EventType
from .store import EventStore
from .streams import ANY, EXISTS, NO_STREAM, Expectation, Position, StreamId, Version
from .transaction import Transaction

__all__ = [
    "ANY",
    "EXISTS",
    "NO_STREAM",
    "Appended",
    "Batch",
    "Context",
    "Event",
    "EventStore",
    "EventStoreError",
    "EventType",
    "Expectation",
    "Limits",
    "LogReader",
    "NewEvent",
    "Position",
    "Recorded",
    "StreamId",
    "Subscription",
    "Transaction",
    "UnknownEvent",
    "Version",
    "VersionConflict",
    "WakeUps",
]
