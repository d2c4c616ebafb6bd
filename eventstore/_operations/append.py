"""Append: a group of appends in one statement, each with its own outcome.

`prepare` checks and encodes one append before anything is sent: what is one append's own fault never reaches the wire.
`append` sends a group. A group of one is what `store.append` sends; imports send many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from .._ids import uuid7
from ..context import Context, current_context
from ..errors import InvalidArgument, InvalidEvent, VersionConflict
from ..events import Appended, NewEvent
from ..serialization import EncodedEvent, Registry, encode_json
from ..streams import ANY, Expectation, Position, Version, check_expectation, check_name, expectation_to_sql
from .statement import Operation, Statement, load_sql

__all__ = ["EventRow", "Limits", "PreparedAppend", "append", "append_in_order", "check_size", "prepare"]

_QUERIES: Final = Path(__file__).parent.parent / "sql" / "queries"
_APPEND: Final = load_sql(_QUERIES, "append")
_APPEND_CONTENDED: Final = load_sql(_QUERIES, "append_contended")


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest things that an append takes. A clear error beats a server that runs out of memory.

    Attributes:
        event_bytes: of one event's data and metadata as JSON. Default 1 MiB: the limit of NATS, and far below
            PostgreSQL's 1 GB a field.
        append_events: events of one append. Default 10,000.
        append_bytes: of all events of one append. Default 64 MiB: it is held in memory three times on its way.
    """

    event_bytes: int = 2**20
    append_events: int = 10_000
    append_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event on the wire."""

    encoded: EncodedEvent
    event_id: UUID
    correlation_id: str | None
    causation_id: UUID | None
    occurred_at: datetime | None
    metadata: str


@dataclass(frozen=True, slots=True)
class PreparedAppend:
    """One append, checked and encoded: it can be sent, and sent again."""

    tenant_id: str
    stream_id: str
    expect: int | Expectation
    rows: tuple[EventRow, ...]

    @property
    def event_ids(self) -> tuple[UUID, ...]:
        """The ids of its events, in order."""
        return tuple(row.event_id for row in self.rows)


def prepare(
    registry: Registry,
    stream_id: str,
    events: object,
    *,
    expect: object = ANY,
    tenant_id: str = "",
    limits: Limits,
) -> PreparedAppend:
    """Check and encode one append.

    Args:
        registry: knows the classes of the events.
        stream_id: where to append.
        events: one event, one `NewEvent`, or a sequence of them; not empty.
        expect: a version, NO_STREAM, EXISTS or ANY.
        tenant_id: whose stream it is.
        limits: how large it may be.

    Raises:
        InvalidArgument: stream id, expectation, an empty or too long sequence.
        InvalidEvent, UnknownEventType, AmbiguousEventType: an event that cannot be stored as it is.
    """
    check_name(stream_id, "a stream id")
    expected = check_expectation(expect)
    context = current_context()
    given = list(events) if isinstance(events, Iterable) and not _is_one_event(events) else [events]
    if not 0 < len(given) <= limits.append_events:
        raise InvalidArgument(
            f"an append takes 1 to {limits.append_events} events, got {len(given)} for stream {stream_id!r}; "
            "split it, or raise Limits.append_events"
        )
    rows = tuple(_encode(registry, event, context, limits) for event in given)
    size = sum(len(row.encoded.data) + len(row.metadata) for row in rows)
    if size > limits.append_bytes:
        raise InvalidArgument(
            f"an append takes {limits.append_bytes} bytes, got {size} for stream {stream_id!r}; split it, or raise "
            "Limits.append_bytes"
        )
    return PreparedAppend(tenant_id, stream_id, expected, rows)


def _is_one_event(events: object) -> bool:
    """Pydantic models can be iterated over, and so can any dataclass that says so; only sequences hold several."""
    return not isinstance(events, Sequence) and not hasattr(events, "__next__")


def _encode(registry: Registry, event: object, context: Context, limits: Limits) -> EventRow:
    new = event if isinstance(event, NewEvent) else NewEvent(event)
    encoded = registry.encode(new.event)
    if not isinstance(new.metadata, Mapping):
        raise InvalidArgument(f"metadata must be a mapping, got {type(new.metadata).__name__}: {new.metadata!r:.80}")
    metadata = encode_json({**context.metadata, **new.metadata}, "metadata") if context.metadata or new.metadata else "{}"
    check_size(limits, encoded.type, encoded.data, metadata)
    return EventRow(
        encoded,
        _checked(new.event_id, UUID, "event_id") or uuid7(),
        _checked_correlation(context.correlation_id if new.correlation_id is None else new.correlation_id),
        _checked(new.causation_id, UUID, "causation_id") or context.causation_id,
        _checked_time(new.occurred_at),
        metadata,
    )


def check_size(limits: Limits, type_: str, data: str, metadata: str) -> None:
    """Refuse an event that is too large.

    Raises:
        InvalidEvent: its data and metadata have more bytes than `limits` allow.
    """
    size = len(data) + len(metadata)
    if size > limits.event_bytes // 4:  # a character has up to four bytes
        size = len(data.encode()) + len(metadata.encode())
    if size > limits.event_bytes:
        raise InvalidEvent(
            f"event {type_!r} has {size} bytes as JSON, at most {limits.event_bytes} are taken; store the bulk "
            "elsewhere and append a reference, or raise Limits.event_bytes"
        )


def _checked(value: Any, kind: type, what: str) -> Any:  # the value's own type, or None
    if value is not None and not isinstance(value, kind):
        raise InvalidArgument(f"{what} must be a {kind.__name__}, got {type(value).__name__}: {value!r:.80}")
    return value


def _checked_correlation(value: str | None) -> str | None:
    return None if value is None else check_name(value, "a correlation id")


def _checked_time(value: datetime | None) -> datetime | None:
    _checked(value, datetime, "occurred_at")
    if value is None:
        return None
    if value.utcoffset() is None:
        raise InvalidArgument(f"occurred_at must have a time zone, got {value!r}; say datetime.now(timezone.utc)")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidArgument(f"occurred_at must lie in the years 1 to 9999 in UTC, got {value!r}") from None


def append(group: Sequence[PreparedAppend], *, contended: bool = False) -> Operation[list[Appended | VersionConflict]]:
    """Send a group of appends for different streams; return each one's outcome, in order.

    Events are inserted in the order given. Whoever groups unrelated appends sorts them by tenant and stream, so that two
    groups cannot wait for each other.

    Args:
        group: the appends; no two for one stream.
        contended: queue on an advisory lock per stream, after a race was lost.

    Raises (thrown in by the driver): UniqueViolation, LockTimeout, ConnectionLost and others; then nothing was written,
    but for a ConnectionLost.
    """
    yield_rows = [(n, k, row) for n, one in enumerate(group, 1) for k, row in enumerate(one.rows, 1)]
    return (yield from append_in_order(group, yield_rows, contended=contended))


def append_in_order(
    group: Sequence[PreparedAppend], order: Sequence[tuple[int, int, EventRow]], *, contended: bool = False
) -> Operation[list[Appended | VersionConflict]]:
    """As `append`, with the events of several streams interleaved.

    Args:
        group: the appends; no two for one stream.
        order: (number of the append, 1-based; ordinal in it, 1-based; its row), in the order of the log.
        contended: as for `append`.
    """
    args = (
        [one.tenant_id for one in group],
        [one.stream_id for one in group],
        [expectation_to_sql(one.expect) for one in group],
        [n for n, _, _ in order],
        [k for _, k, _ in order],
        [row.encoded.type for _, _, row in order],
        [row.encoded.schema_version for _, _, row in order],
        [row.event_id for _, _, row in order],
        [row.correlation_id for _, _, row in order],
        [row.causation_id for _, _, row in order],
        [row.occurred_at for _, _, row in order],
        [row.encoded.data for _, _, row in order],
        [row.metadata for _, _, row in order],
    )
    rows = yield Statement(_APPEND_CONTENDED if contended else _APPEND, args)
    found = {row[0]: row for row in rows}
    return [_outcome(one, found[n][1], found[n][2]) for n, one in enumerate(group, 1)]


def _outcome(one: PreparedAppend, actual: int, last_position: int | None) -> Appended | VersionConflict:
    if last_position is None:
        expected = one.expect.name if isinstance(one.expect, Expectation) else one.expect
        return VersionConflict(one.stream_id, expected, actual)
    return Appended(Version(actual + 1), Version(actual + len(one.rows)), Position(last_position), one.event_ids)
