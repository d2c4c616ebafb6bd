"""What an import takes: one event as text, checked, or the reason why a line is none.

Everything stays the text that COPY takes; only what needs checking is parsed. Every line has an event id: given, or
derived from the source's name, the line's ordinal and its content, so that the same line of the same source is the same
event for ever.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

from ..errors import InvalidArgument
from ..serialization import encode_json
from ..streams import check_name
from ..tags import check_tags

__all__ = [
    "BadLine",
    "ImportLine",
    "check_correlation_id",
    "check_schema_version",
    "check_storable",
    "check_stream_id",
    "check_tag_list",
    "check_type",
    "derived_id",
    "time_text",
    "uuid_text",
]

NAMESPACE: Final = UUID("6a2f6f0e-5a4b-5f4e-9c1d-2f0b4b1d8a3c")
"""Derived ids are UUIDs version 5 in this namespace (RFC 9562, section 5.5)."""

NAMES_REMEMBERED: Final = 16_384
"""Names that were checked lately: a log has few types and comes back to its streams."""

_NAMESPACE_BYTES: Final = NAMESPACE.bytes
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_UUID: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME: Final = re.compile(
    r"(?:19|20)\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-](?:0\d|1[0-4]):[0-5]\d)", re.ASCII
)
"""Times that Python and PostgreSQL read alike, and that stay in the years 1 to 9999 in UTC."""


class ImportLine(NamedTuple):
    """One event to import. A tuple, because an import makes one for each line.

    Attributes:
        number: the line in its file, 1-based, for messages.
        stream_id: where it goes.
        event_id: a UUID in lower case with dashes.
        type, schema_version: as an append would store them.
        data, metadata: JSON on one line, as PostgreSQL's jsonb takes it.
        occurred_at: when it was true: ISO 8601 with an offset; None: when it is recorded.
        correlation_id: the request it belongs to.
        causation_id: the event that caused it; a UUID as `event_id`.
        raw: the line itself, for the rejects file.
        tags: each once, in order.
    """

    number: int
    stream_id: str
    event_id: str
    type: str
    schema_version: int
    data: str
    metadata: str
    occurred_at: str | None
    correlation_id: str | None
    causation_id: str | None
    raw: str
    tags: tuple[str, ...] = ()


class BadLine(NamedTuple):
    """A line that is no event.

    Attributes:
        number: the line in its file, 1-based.
        reason: what is wrong with it.
        raw: the line itself.
    """

    number: int
    reason: str
    raw: str


def check_stream_id(value: object) -> str:
    """Return a stream id, or refuse it as `check_name` does."""
    return _stream_id(value) if isinstance(value, str) else check_name(value, "a stream id")


def check_type(value: object) -> str:
    """Return an event type, or refuse it as `check_name` does."""
    return _type(value) if isinstance(value, str) else check_name(value, "an event type")


def check_correlation_id(value: object) -> str | None:
    """Return a correlation id, or refuse it as `check_name` does."""
    return None if value is None else check_name(value, "a correlation id")


def check_tag_list(value: object) -> tuple[str, ...]:
    """Return the tags that a JSON array says; none for None.

    Raises:
        InvalidArgument: no array, or one of something that can be no tag.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidArgument(f'tags must be a JSON array of texts, got {value!r:.60}; write ["course:1"]')
    return check_tags(value, "tags")


@lru_cache(NAMES_REMEMBERED)
def _stream_id(value: str) -> str:
    return check_name(value, "a stream id")


@lru_cache(NAMES_REMEMBERED)
def _type(value: str) -> str:
    return check_name(value, "an event type")


def check_schema_version(value: object) -> int:
    """Return a schema version.

    Raises:
        InvalidArgument: no integer from 1 to 32,767.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**15:
        raise InvalidArgument(f"schema_version must be an integer from 1 to 32767, got {value!r}")
    return value


def check_storable(value: object, text: str, what: str) -> None:
    """Refuse JSON text that Python parses and PostgreSQL does not store: an escaped NUL, half a surrogate pair.

    Raises:
        InvalidEvent: it holds one.
    """
    if "\\u" in text:
        encode_json(value, what)


def derived_id(source: str, ordinal: int, content: str) -> str:
    """Return the id of a line without one: `uuid.uuid5` of the three, at a third of its price."""
    name = f"{source}\x1f{ordinal}\x1f{content}".encode()
    h = hashlib.sha1(_NAMESPACE_BYTES + name, usedforsecurity=False).hexdigest()
    return f"{h[:8]}-{h[8:12]}-5{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:32]}"


def uuid_text(value: Any, what: str) -> str | None:  # parsed JSON
    """Return a UUID as PostgreSQL prints it; None for None.

    Raises:
        InvalidArgument: it is none.
    """
    if value is None:
        return None
    if isinstance(value, str) and _UUID.fullmatch(value):
        return value
    try:
        return str(UUID(value))
    except (ValueError, AttributeError, TypeError):
        raise InvalidArgument(f"{what} must be a UUID, got {value!r:.60}") from None


def time_text(value: Any, zone: tzinfo | None) -> str | None:  # parsed JSON
    """Return an ISO 8601 time with an offset; None for None and for nothing.

    Args:
        value: the time.
        zone: of a time without an offset; None: refused.

    Raises:
        InvalidArgument: it is none, or has no offset, or lies outside of the years 1 to 9999 in UTC.
    """
    if value is None or value == "":
        return None
    try:
        time = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise InvalidArgument(f"occurred_at must be an ISO 8601 time, got {value!r:.60}") from None
    if _TIME.fullmatch(value):
        return str(value)
    if time.tzinfo is None and zone is not None:
        time = time.replace(tzinfo=zone)
    if time.utcoffset() is None:
        raise InvalidArgument(f"occurred_at must have an offset from UTC, got {value!r}; add one, or name a time zone")
    try:
        return time.astimezone(UTC).isoformat()
    except OverflowError:
        raise InvalidArgument(f"occurred_at must lie in the years 1 to 9999 in UTC, got {value!r}") from None
