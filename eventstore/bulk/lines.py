"""Lines of a file to events, or to the reason why not.

JSON lines and CSV by a mapping. Every line has an event id: given, or derived from the source's name, the line's ordinal
and its content, so that the same line of the same source is the same event for ever.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, BinaryIO, Final
from uuid import UUID, uuid5

from ..errors import Invalid, InvalidArgument
from ..events import NewEvent, UnknownEvent
from ..serialization.json import parse_exact_json
from ..streams import check_name

__all__ = ["BadLine", "CsvMapping", "ImportLine", "read_csv", "read_json_lines"]

LARGEST_FIELD: Final = 64 * 2**20
"""Characters of one CSV field; csv's own limit is 128 KiB. What is too large for an event is refused as such."""

NAMESPACE: Final = UUID("6a2f6f0e-5a4b-5f4e-9c1d-2f0b4b1d8a3c")
"""Derived ids are UUIDs version 5 in this namespace (RFC 9562, section 5.5)."""

_FIELDS: Final = {
    "stream_id",
    "type",
    "data",
    "event_id",
    "occurred_at",
    "correlation_id",
    "causation_id",
    "metadata",
    "schema_version",
}


@dataclass(frozen=True, slots=True)
class ImportLine:
    """One event to import.

    Attributes:
        number: the line in its file, 1-based, for messages.
        stream_id: where it goes.
        event: what goes there.
        raw: the line itself, for the rejects file.
    """

    number: int
    stream_id: str
    event: NewEvent[UnknownEvent]
    raw: str


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no event.

    Attributes:
        number: the line in its file, 1-based.
        reason: what is wrong with it.
        raw: the line itself.
    """

    number: int
    reason: str
    raw: str


def read_json_lines(file: BinaryIO, source: str) -> Iterator[ImportLine | BadLine]:
    """Parse JSON lines: ``stream_id``, ``type``, ``data``, and optionally ``event_id``, ``occurred_at``,
    ``correlation_id``, ``causation_id``, ``metadata``, ``schema_version``. Empty lines are passed over.

    Numbers with more digits than a float keeps are refused, not rounded.
    """
    for number, raw in enumerate(file, 1):
        text = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not text.strip():
            continue
        try:
            yield _from_json(number, raw.decode("utf-8-sig" if number == 1 else "utf-8").strip(), source)
        except UnicodeDecodeError as error:
            yield BadLine(number, f"not UTF-8: {error}", text)
        except (ValueError, Invalid, RecursionError) as error:
            yield BadLine(number, str(error), text)


def _from_json(number: int, text: str, source: str) -> ImportLine:
    line = parse_exact_json(text)
    if not isinstance(line, dict):
        raise InvalidArgument(f"expected a JSON object with stream_id, type and data, got {type(line).__name__}")
    if missing := [name for name in ("stream_id", "type", "data") if name not in line]:
        raise InvalidArgument(f"{', '.join(missing)} missing; a line has stream_id, type and data")
    if unknown := sorted(set(line) - _FIELDS):
        raise InvalidArgument(f"unknown field(s) {', '.join(unknown)}; expected {', '.join(sorted(_FIELDS))}")
    metadata = line.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise InvalidArgument(f"metadata must be an object, got {type(metadata).__name__}")
    version = line.get("schema_version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or not 0 < version < 2**15:
        raise InvalidArgument(f"schema_version must be an integer from 1 to 32767, got {version!r}")
    event = NewEvent(
        UnknownEvent(check_name(line["type"], "an event type"), line["data"], version),
        event_id=_uuid(line.get("event_id"), "event_id") or _derived(source, number, text),
        metadata=metadata,
        occurred_at=_time(line.get("occurred_at"), None),
        correlation_id=line.get("correlation_id"),
        causation_id=_uuid(line.get("causation_id"), "causation_id"),
    )
    return ImportLine(number, check_name(line["stream_id"], "a stream id"), event, text)


def _derived(source: str, ordinal: int, content: str) -> UUID:
    return uuid5(NAMESPACE, f"{source}\x1f{ordinal}\x1f{content}")


def _uuid(value: Any, what: str) -> UUID | None:  # parsed JSON
    if value is None:
        return None
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise InvalidArgument(f"{what} must be a UUID, got {value!r:.60}") from None


def _time(value: Any, zone: tzinfo | None) -> datetime | None:  # parsed JSON
    if value is None or value == "":
        return None
    try:
        time = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise InvalidArgument(f"occurred_at must be an ISO 8601 time, got {value!r:.60}") from None
    if time.utcoffset() is None and zone is not None:
        time = time.replace(tzinfo=zone)
    if time.utcoffset() is None:
        raise InvalidArgument(f"occurred_at must have an offset from UTC, got {value!r}; add one, or name a time zone")
    return time


_COLUMN: Final = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class CsvMapping:
    """Which columns of a CSV file make what: templates with ``{column}``, where a column's name may hold anything.

    Attributes:
        stream: the stream id, ``permit-{case:concept:name}``.
        type: the event type, ``{concept:name}``.
        occurred_at: when it was true, ISO 8601; empty: not known.
        event_id, correlation_id: as their names say; empty: derived, none.
        data: the columns that become the event's data; empty: all. Every value is text.
        delimiter: between columns.
        zone: for times without an offset; None: refused.
    """

    stream: str
    type: str
    occurred_at: str = ""
    event_id: str = ""
    correlation_id: str = ""
    data: tuple[str, ...] = ()
    delimiter: str = ","
    zone: tzinfo | None = None

    def __post_init__(self) -> None:
        """Refuse templates that are not what they look like.

        Raises:
            InvalidArgument: a brace without its partner.
        """
        for template in (self.stream, self.type, self.occurred_at, self.event_id, self.correlation_id):
            if {"{", "}"} & set(_COLUMN.sub("", template)):
                raise InvalidArgument(f"the template {template!r} has a brace without its partner; write {{column}}")

    @property
    def columns(self) -> set[str]:
        """Every column that is named."""
        templates = (self.stream, self.type, self.occurred_at, self.event_id, self.correlation_id)
        return {name for template in templates for name in _COLUMN.findall(template)} | set(self.data)


def read_csv(file: BinaryIO, source: str, mapping: CsvMapping) -> Iterator[ImportLine | BadLine]:
    """Parse a CSV file with a header line.

    Raises:
        InvalidArgument: no header, or a column of the mapping is not in it.
    """
    csv.field_size_limit(LARGEST_FIELD)
    lines = _Remembered(file)
    rows = csv.reader(lines, delimiter=mapping.delimiter, strict=True)
    header = next(rows, None)
    if header is None:
        raise InvalidArgument("the CSV file is empty: expected a header line with the names of the columns")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise InvalidArgument(f"the CSV file has the column {', '.join(map(repr, twice))} twice; give each its own name")
    if missing := sorted(mapping.columns - set(header)):
        raise InvalidArgument(f"the CSV file has no column {', '.join(map(repr, missing))}; it has {', '.join(header)}")
    ordinal = 0
    while True:
        lines.last.clear()
        number = rows.line_num + 1
        try:
            row = next(rows, None)
            if row is None:
                return
            if not row:
                continue
            ordinal += 1
            yield _from_row(number, ordinal, header, row, source, mapping, "".join(lines.last).rstrip("\r\n"))
        except (csv.Error, ValueError, Invalid) as error:
            yield BadLine(number, str(error), "".join(lines.last).rstrip("\r\n"))


class _Remembered:
    """Lines of a file as text, with those of the row under way kept for the rejects file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._first = True
        self.last: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = next(self._file)
        text = raw.decode("utf-8-sig" if self._first else "utf-8", "surrogateescape")
        self._first = False
        self.last.append(text)
        return text


def _from_row(
    number: int, ordinal: int, header: Sequence[str], row: Sequence[str], source: str, mapping: CsvMapping, raw: str
) -> ImportLine:
    if len(row) != len(header):
        raise InvalidArgument(f"expected {len(header)} columns, found {len(row)}")
    values = dict(zip(header, row, strict=True))

    def fill(template: str) -> str:
        return _COLUMN.sub(lambda found: values[found[1]], template)

    event_id = fill(mapping.event_id)
    event = NewEvent(
        UnknownEvent(check_name(fill(mapping.type), "an event type"), {n: values[n] for n in mapping.data or header}),
        event_id=_uuid(event_id, "event_id") if event_id else _derived(source, ordinal, "\x1f".join(row)),
        occurred_at=_time(fill(mapping.occurred_at), mapping.zone),
        correlation_id=fill(mapping.correlation_id) or None,
    )
    return ImportLine(number, check_name(fill(mapping.stream), "a stream id"), event, raw)
