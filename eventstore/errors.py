"""Every error that this package raises, in one tree.

A caller decides by the second level; the leaves carry typed fields::

    EventStoreError
     +- Conflict                      reload, decide again, retry
     |   +- VersionConflict           somebody else appended to the stream first
     |   +- BoundaryConflict          an event that a decision rests on has appeared since
     +- Transient                     retry as it is, after a moment
     |   +- ConnectionLost            the connection died; a read or a refused write may be sent again
     |   +- AppendUnknown             the connection died while an append was under way: it may have been committed
     |   +- LockTimeout               another transaction held what this one needed for too long
     |   +- Retryable                 deadlock, serialization failure, cancelled by the server, too many connections
     |   +- SettleTimeout             a held transaction kept the log's end open for longer than asked to wait
     +- Invalid                       your bug or your configuration: the same call fails again
     |   +- InvalidArgument           a parameter out of its range, a malformed stream id, a bad expectation
     |   +- InvalidEvent              an event that cannot be stored exactly as it is
     |   +- UnknownEventType          no class is registered for a type name (or for a class)
     |   +- AmbiguousEventType        two classes claim one type name
     |   +- InvalidUrl, CannotConnect, AuthenticationFailed, ServerTooOld, PermissionDenied
     |   +- SchemaMissing, SchemaOutdated, SchemaTooNew
     |   +- LogicalSubscriber         the log is filled by logical replication: it has no order to read it by
     |   +- IdempotencyMismatch       a request id, or event ids, that stand for other content already
     |   +- StoreClosed               used before open() or after close()
     |   +- TimeInFuture              as of a time that the database's clock has not reached
     |   +- EmbeddedUnavailable       no PostgreSQL binaries found, or the private server did not start
     |   +- DatabaseRefused           any other complaint of the server, with its SQLSTATE
     |       +- UniqueViolation       a unique constraint; the store itself tries again where that is a lost race
     +- Corrupt                       page someone: what is stored contradicts itself
         +- EventCorrupt              a stored event does not validate
         +- LogRewound                the log ends below a position that was already seen, or holds another event there
         +- LogReplaced               the connection now reaches another log than before
         +- SequenceBehind            positions are given out again that are taken

Messages say what was expected, what was found and what to do. All errors can be pickled. Errors of the
driver never leak; they are chained as ``__cause__``.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

__all__ = [
    "AmbiguousEventType",
    "AppendUnknown",
    "AuthenticationFailed",
    "BoundaryConflict",
    "CannotConnect",
    "Conflict",
    "ConnectionLost",
    "Corrupt",
    "DatabaseRefused",
    "EmbeddedUnavailable",
    "EventCorrupt",
    "EventStoreError",
    "IdempotencyMismatch",
    "Invalid",
    "InvalidArgument",
    "InvalidEvent",
    "InvalidUrl",
    "LockTimeout",
    "LogReplaced",
    "LogRewound",
    "LogicalSubscriber",
    "PermissionDenied",
    "Retryable",
    "SchemaMissing",
    "SchemaOutdated",
    "SchemaTooNew",
    "SequenceBehind",
    "ServerTooOld",
    "SettleTimeout",
    "StoreClosed",
    "TimeInFuture",
    "Transient",
    "UniqueViolation",
    "UnknownEventType",
    "VersionConflict",
]


def _rebuild(kind: type[EventStoreError], args: tuple[object, ...], fields: dict[str, Any]) -> EventStoreError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class EventStoreError(Exception):
    """The root of every error raised here. Picklable with all its fields."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


class Conflict(EventStoreError):  # noqa: N818 - the tree is named by what a caller does, here and below
    """The state that a decision rested on has changed: load again, decide again."""


class Transient(EventStoreError):  # noqa: N818
    """Nothing is wrong with the call; the same call may succeed in a moment."""


class Invalid(EventStoreError):  # noqa: N818
    """The call or the configuration is wrong; the same call fails again."""


class Corrupt(EventStoreError):  # noqa: N818
    """What is stored contradicts itself: an operator must look."""


class VersionConflict(Conflict):
    """The stream is not at the version that the append expected. Nothing was written.

    Attributes:
        stream_id: the stream.
        expected: what was asked for: a version, or ``"EXISTS"``.
        actual: the stream's version when the append was refused (0: it has no events).
    """

    def __init__(self, stream_id: str, expected: int | str, actual: int) -> None:
        self.stream_id, self.expected, self.actual = stream_id, expected, actual
        wanted = "to have no events" if expected == 0 else f"at version {expected}"
        wanted = "to exist" if expected == "EXISTS" else wanted
        found = "has no events" if actual == 0 else f"is at version {actual}"
        super().__init__(f"stream {stream_id!r} was expected {wanted} but {found}; load it again, decide again, then append")


class BoundaryConflict(Conflict):
    """What a decision rests on has changed since its boundary was read. Nothing was written.

    Attributes:
        position, stream_id, version, type: of an event that matches the boundary and was not there; None where the server has
            failed over, or was restored, so that nobody can tell.
    """

    def __init__(
        self, position: int | None = None, stream_id: str | None = None, version: int | None = None, type_: str | None = None
    ) -> None:
        self.position, self.stream_id, self.version, self.type = position, stream_id, version, type_
        what = (
            "the log is not the one that was read: the server has failed over, crashed or was restored since"
            if position is None
            else f"event {type_!r} appeared at position {position} (version {version} of stream {stream_id!r})"
        )
        super().__init__(f"what was decided no longer holds: {what}; read the boundary again, decide again, then append")


class ConnectionLost(Transient):
    """The connection to the server died or could not be made in time; nothing was decided by it."""


class AppendUnknown(Transient):
    """The connection died while an append was under way: the server may have committed it or not.

    The same append again is safe with the same event ids at the same exact version, or with the same request id.

    Attributes:
        stream_ids: the streams that the append was for.
        event_ids: the ids of the events in it, in order.
    """

    def __init__(self, stream_ids: tuple[str, ...], event_ids: tuple[UUID, ...], why: str) -> None:
        self.stream_ids, self.event_ids = stream_ids, event_ids
        names = ", ".join(repr(name) for name in stream_ids[:3]) + (", ..." if len(stream_ids) > 3 else "")
        super().__init__(
            f"the connection died while appending {len(event_ids)} event(s) to {names} ({why}): the append may or may "
            "not have been committed; append again with the same event ids at the same exact version or with the same request id, or "
            "read the stream and look for the ids"
        )


class LockTimeout(Transient):
    """Another transaction held a lock for longer than `lock_timeout`; nothing was written."""


class Retryable(Transient):
    """The server gave the statement up (deadlock, serialization, cancellation, shutdown, no free slot)."""

    def __init__(self, message: str, sqlstate: str) -> None:
        self.sqlstate = sqlstate
        super().__init__(message)


class SettleTimeout(Transient):
    """The end of the log stayed open behind a held transaction for longer than asked to wait."""


class InvalidArgument(Invalid):
    """A parameter is out of its range, or of the wrong type."""


class InvalidEvent(Invalid):
    """An event cannot be stored so that it comes back as it is; it was refused before anything was sent."""


class UnknownEventType(Invalid):
    """No class is registered for this type of event."""


class AmbiguousEventType(Invalid):
    """Two different classes claim the same type name."""


class InvalidUrl(Invalid):
    """The database URL cannot be understood."""


class CannotConnect(Invalid):
    """No server answers at the URL, or the database does not exist."""


class AuthenticationFailed(Invalid):
    """The server refused the user or the password."""


class ServerTooOld(Invalid):
    """The server's version is below the oldest supported one."""


class PermissionDenied(Invalid):
    """The role lacks a privilege."""


class SchemaMissing(Invalid):
    """The database does not hold the event store's schema."""


class SchemaOutdated(Invalid):
    """The database's schema is older than this version of the library needs."""


class SchemaTooNew(Invalid):
    """The database's schema was made by a newer version of the library."""


class LogicalSubscriber(Invalid):
    """The log is filled by a subscription of logical replication: out of order, and without a sight of its writers."""


class IdempotencyMismatch(Invalid):
    """A request id, or the ids of events, were used before, for something else. Nothing was written.

    Attributes:
        request_id: the request id; of events, the first id that differs.
    """

    def __init__(self, request_id: str, first: str) -> None:
        self.request_id = request_id
        super().__init__(
            f"{request_id!r} stands for other content already, {first}: the same request id needs the same stream and events; "
            "give every new request an id of its own"
        )


class StoreClosed(Invalid):
    """The store was used before `open()` or after `close()`."""


class TimeInFuture(Invalid):
    """A question about a time that the database's clock has not reached; its answer could still change."""


class EmbeddedUnavailable(Invalid):
    """The private server cannot be run: no binaries were found, or it did not start."""


class DatabaseRefused(Invalid):
    """The server refused a statement for a reason that has no class of its own.

    Attributes:
        sqlstate: PostgreSQL's error code, five characters.
    """

    def __init__(self, message: str, sqlstate: str) -> None:
        self.sqlstate = sqlstate
        super().__init__(message)


class UniqueViolation(DatabaseRefused):
    """A unique constraint was violated."""


class SequenceBehind(Corrupt):
    """The sequence of positions lies behind the log, as after a restore that left it out. Nothing was written."""


class EventCorrupt(Corrupt):
    """A stored event does not validate against the class that is registered for its type.

    Attributes:
        stream_id, version, position, type: which event.
        field: the path of the first field that failed, dotted; empty where the whole document failed.
    """

    def __init__(self, stream_id: str, version: int, position: int, type_: str, field: str, why: str) -> None:
        self.stream_id, self.version, self.position, self.type, self.field = stream_id, version, position, type_, field
        super().__init__(
            f"event {type_!r} at version {version} of stream {stream_id!r} (position {position}) does not validate: "
            f"{'field ' + repr(field) + ': ' if field else ''}{why}; give the class a default or a newer "
            "schema_version, or read it with unknown='keep' under another registry"
        )


class LogRewound(Corrupt):
    """The log ends below a position that a reader has already passed, or another event stands there now.

    A crash with ``synchronous_commit=off``, an asynchronous failover or a restore lost the log's tail. What was
    read beyond it no longer exists: rebuild what was built from it.

    Attributes:
        cursor: the position that the reader had reached.
        head: the last position that the log has given out now.
    """

    def __init__(self, cursor: int, head: int, why: str) -> None:
        self.cursor, self.head = cursor, head
        super().__init__(
            f"a reader stands at position {cursor}, but {why} (head {head}): the log lost its tail, or this cursor "
            "belongs to another log; compare with a backup, then restart the reader from a position that still holds"
        )


class LogReplaced(Corrupt):
    """After a reconnect the URL leads to another log: another cluster, or a restored copy."""

    def __init__(self, expected: str, found: str) -> None:
        self.expected, self.found = expected, found
        super().__init__(
            f"the reader began on log {expected} but the connection now reaches log {found}; positions of one log mean "
            "nothing in another: restart the reader deliberately"
        )
