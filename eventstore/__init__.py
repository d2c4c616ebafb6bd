"""pg-eventstore: an event store for Python teams whose system of record is PostgreSQL.

The log: facts in, facts out, and whatever must be true inside the append's transaction. What follows the log and
remembers how far it came lives in the package `projections`.
"""

from ._operations.prepare import Limits
from .boundary import Boundary, Decision, Query
from .context import Context
from .errors import BoundaryConflict, EventStoreError, VersionConflict
from .events import Appended, Event, NewEvent, Recorded, UnknownEvent
from .feed import Batch, LogReader, Subscription, WakeUps
from .group_commit import GroupCommit
from .serialization import EventType
from .store import EventStore
from .streams import ANY, EXISTS, NO_STREAM, Expectation, Position, StreamId, Version
from .tags import Tag
from .transaction import Transaction

__all__ = [
    "ANY",
    "EXISTS",
    "NO_STREAM",
    "Appended",
    "Batch",
    "Boundary",
    "BoundaryConflict",
    "Context",
    "Decision",
    "Event",
    "EventStore",
    "EventStoreError",
    "EventType",
    "Expectation",
    "GroupCommit",
    "Limits",
    "LogReader",
    "NewEvent",
    "Position",
    "Query",
    "Recorded",
    "StreamId",
    "Subscription",
    "Tag",
    "Transaction",
    "UnknownEvent",
    "Version",
    "VersionConflict",
    "WakeUps",
]
