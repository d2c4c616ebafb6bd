"""An append, checked and encoded before anything is sent: what is one append's own fault never reaches the wire."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from .._ids import uuid7
from ..context import Context, current_context
from ..errors import InvalidArgument, InvalidEvent
from ..events import Event, NewEvent
from ..serialization import EncodedEvent, Registry, encode_json
from ..streams import ANY, Expectation, check_expectation, check_name
from ..tags import Tagger, check_tags
from .boundary import Token

__all__ = ["EventRow", "Limits", "PreparedAppend", "check_size", "prepare", "with_own_request"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest things that an append takes. A clear error beats a server that runs out of memory.

    Attributes:
        event_bytes: of one event's data and metadata as JSON. Default 1 MiB: the limit of NATS, and far below
            PostgreSQL's 1 GB a field.
        append_events: events of one append. Default 10,000.
        append_bytes: of all events of one append. Default 64 MiB: it is held in memory three times on its way.
        event_tags: of one event. Default 100: each is a row and a lock.
    """

    event_bytes: int = 2**20
    append_events: int = 10_000
    append_bytes: int = 64 * 2**20
    event_tags: int = 100


class EventRow(NamedTuple):
    """One event on the wire: the columns that differ from event to event. None stands for the usual value."""

    type: str
    event_id: UUID
    data: str
    metadata: str | None = None
    schema_version: int | None = None
    correlation_id: str | None = None
    causation_id: UUID | None = None
    occurred_at: datetime | None = None
    tags: tuple[str, ...] | None = None


class PreparedAppend(NamedTuple):
    """One append, checked and encoded: it can be sent, and sent again.

    Attributes:
        tenant_id, stream_id, expect: where, and on top of what.
        rows: its events.
        size: characters of their data and metadata.
        ids_given: whether the caller chose all event ids, so that the same call again can be recognised by them.
        request_id: the caller's name for the whole of it; None: none.
        digest: of what is asked for under that name; None without one, empty for a name of the store's own.
        tags: those that its events carry, and those that it asks about, each once.
        token: what a decision was made on; None: it is none.
    """

    tenant_id: str
    stream_id: str
    expect: int | Expectation
    rows: tuple[EventRow, ...]
    size: int = 0
    ids_given: bool = False
    request_id: str | None = None
    digest: bytes | None = None
    tags: tuple[str, ...] = ()
    token: Token | None = None

    @property
    def event_ids(self) -> tuple[UUID, ...]:
        """The ids of its events, in order."""
        return tuple([row.event_id for row in self.rows])

    @property
    def has_own_request(self) -> bool:
        """Whether its request id is one of the store's own making, of which the caller knows nothing."""
        return self.digest == b""


def prepare(
    registry: Registry,
    stream_id: str,
    events: object,
    *,
    expect: object = ANY,
    tenant_id: str = "",
    request_id: str | None = None,
    token: Token | None = None,
    limits: Limits,
) -> PreparedAppend:
    """Check and encode one append.

    Args:
        registry: knows the classes of the events.
        stream_id: where to append.
        events: one event, one `NewEvent`, or a sequence of them; not empty.
        expect: a version, NO_STREAM, EXISTS or ANY.
        tenant_id: whose stream it is.
        request_id: the caller's name for this append; None: none.
        token: what the decision was made on; None: it is none.
        limits: how large it may be.

    Raises:
        InvalidArgument: stream id, expectation, request id, an empty or too long sequence.
        InvalidEvent, UnknownEventType, AmbiguousEventType: an event that cannot be stored as it is.
    """
    check_name(stream_id, "a stream id")
    expected = check_expectation(expect)
    context = current_context()
    given: Sequence[object]
    if isinstance(events, Event | NewEvent) or not isinstance(events, Iterable) or _is_one_event(events):
        given = (events,)
    else:
        given = list(events)
        if not 0 < len(given) <= limits.append_events:
            raise InvalidArgument(
                f"an append takes 1 to {limits.append_events} events, got {len(given)} for stream {stream_id!r}; "
                "split it, or raise Limits.append_events"
            )
    rows, size, written = _encode_all(registry, given, context, limits)
    tags = tuple(written if token is None else written | token.seen.keys()) if written or token else ()
    ids_given = all(isinstance(event, NewEvent) and event.event_id is not None for event in given)
    if size > limits.append_bytes:
        raise InvalidArgument(
            f"an append takes {limits.append_bytes} bytes, got {size} for stream {stream_id!r}; split it, or raise "
            "Limits.append_bytes"
        )
    if request_id is None:
        return PreparedAppend(tenant_id, stream_id, expected, tuple(rows), size, ids_given, None, None, tags, token)
    check_name(request_id, "a request id")
    digest = _digest(stream_id, rows)
    return PreparedAppend(tenant_id, stream_id, expected, tuple(rows), size, ids_given, request_id, digest, tags, token)


def with_own_request(one: PreparedAppend) -> PreparedAppend:
    """Give an append a request id that nobody else knows, by which its outcome is found again."""
    return one._replace(request_id=f"append {uuid4()}", digest=b"")


def _digest(stream_id: str, rows: Sequence[EventRow]) -> bytes:
    """What makes two requests the same: stream, types and data; ids, times and metadata of a retry may differ."""
    content = [stream_id, [(row.type, row.schema_version, json.loads(row.data)) for row in rows]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


_NO_TAGS: Final[frozenset[str]] = frozenset()


def _is_one_event(events: object) -> bool:
    """Pydantic models can be iterated over, and so can any dataclass that says so; only sequences hold several."""
    return not isinstance(events, Sequence) and not hasattr(events, "__next__")


def _encode_all(
    registry: Registry, events: Sequence[object], context: Context, limits: Limits
) -> tuple[list[EventRow], int, frozenset[str]]:
    """Return events on the wire, their characters, and their tags."""
    beside = encode_json(dict(context.metadata), "metadata") if context.metadata else None
    correlation_id, causation_id = _checked_correlation(context.correlation_id), context.causation_id
    light, total = limits.event_bytes // 4, 0  # a character has up to four bytes
    written: list[str] = []
    rows: list[EventRow] = []
    last: type | None = None
    encode: Callable[[Any], EncodedEvent] = registry.encode
    tagger: Tagger | None = None
    for event in events:
        if isinstance(event, NewEvent):
            row = _encode_new(registry, event, context, limits)
            if row.tags:
                written += row.tags
            size = len(row.data) + (len(row.metadata) if row.metadata else 0)
        else:
            if type(event) is not last:
                last, encode = type(event), registry.encoder(type(event))
                type_, schema_version, data = encode(event)
                tagger = registry.tagger(last)
            else:
                type_, schema_version, data = encode(event)
            version = None if schema_version == 1 else schema_version
            row = EventRow(type_, uuid7(), data, beside, version, correlation_id, causation_id)
            if tagger is not None and (tags := _within(limits, type_, tagger(event))):
                row = row._replace(tags=tags)
                written += tags
            size = len(data) + (len(beside) if beside else 0)
        if size > light:
            check_size(limits, row.type, row.data, row.metadata or "")
        rows.append(row)
        total += size
    return rows, total, frozenset(written) if written else _NO_TAGS


def _encode_new(registry: Registry, new: NewEvent[Any], context: Context, limits: Limits) -> EventRow:
    encoded = registry.encode(new.event)
    tagger = registry.tagger(type(new.event))
    tags = () if tagger is None else tagger(new.event)
    if new.tags != ():
        tags = tuple(dict.fromkeys((*tags, *check_tags(new.tags, "NewEvent.tags"))))
    if not isinstance(new.metadata, Mapping):
        raise InvalidArgument(f"metadata must be a mapping, got {type(new.metadata).__name__}: {new.metadata!r:.80}")
    return EventRow(
        encoded.type,
        _checked(new.event_id, UUID, "event_id") or uuid7(),
        encoded.data,
        encode_json({**context.metadata, **new.metadata}, "metadata") if context.metadata or new.metadata else None,
        None if encoded.schema_version == 1 else encoded.schema_version,
        _checked_correlation(context.correlation_id if new.correlation_id is None else new.correlation_id),
        _checked(new.causation_id, UUID, "causation_id") or context.causation_id,
        _checked_time(new.occurred_at),
        _within(limits, encoded.type, tags) or None,
    )


def _within(limits: Limits, type_: str, tags: tuple[str, ...]) -> tuple[str, ...]:
    if len(tags) > limits.event_tags:
        raise InvalidEvent(
            f"event {type_!r} has {len(tags)} tags, at most {limits.event_tags} are taken; tag what decisions ask for, or raise "
            "Limits.event_tags"
        )
    return tags


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
