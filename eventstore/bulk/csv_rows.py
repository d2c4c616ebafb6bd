"""CSV rows to events, by a mapping of columns."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import BinaryIO, Final

from ..errors import Invalid, InvalidArgument
from ..serialization import encode_json
from ..serialization.members import member_of
from ..tags import check_tags
from .lines import (
    BadLine,
    ImportLine,
    check_correlation_id,
    check_schema_version,
    check_storable,
    check_stream_id,
    check_tag_list,
    check_type,
    derived_id,
    time_text,
    uuid_text,
)

__all__ = ["EXPORTED", "CsvMapping", "read_csv"]

LARGEST_FIELD: Final = 64 * 2**20
"""Characters of one CSV field; csv's own limit is 128 KiB. What is too large for an event is refused as such."""

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
        data_json: the column that holds the event's data as JSON, in place of `data`.
        metadata_json: the column that holds its metadata as a JSON object.
        causation_id, schema_version: as `event_id`; empty: none, 1.
        tags: a template for each tag, ``course:{course}``; none where a column of it is empty.
        tags_json: the column that holds more of them as a JSON array.
    """

    stream: str
    type: str
    occurred_at: str = ""
    event_id: str = ""
    correlation_id: str = ""
    data: tuple[str, ...] = ()
    delimiter: str = ","
    zone: tzinfo | None = None
    data_json: str = ""
    metadata_json: str = ""
    causation_id: str = ""
    schema_version: str = ""
    tags: tuple[str, ...] = ()
    tags_json: str = ""

    def __post_init__(self) -> None:
        """Refuse templates that are not what they look like.

        Raises:
            InvalidArgument: a brace without its partner.
        """
        for template in self._templates:
            if {"{", "}"} & set(_COLUMN.sub("", template)):
                raise InvalidArgument(f"the template {template!r} has a brace without its partner; write {{column}}")
        if self.data and self.data_json:
            raise InvalidArgument("the data come from columns, or as JSON from one column: give data or data_json, not both")

    @property
    def _templates(self) -> tuple[str, ...]:
        ids = (self.event_id, self.correlation_id, self.causation_id)
        return (self.stream, self.type, self.occurred_at, self.schema_version, *ids, *self.tags)

    @property
    def columns(self) -> set[str]:
        """Every column that is named."""
        named = {*self.data, self.data_json, self.metadata_json, self.tags_json} - {""}
        return {name for template in self._templates for name in _COLUMN.findall(template)} | named


EXPORTED: Final = CsvMapping(
    "{stream_id}",
    "{type}",
    "{occurred_at}",
    event_id="{event_id}",
    correlation_id="{correlation_id}",
    causation_id="{causation_id}",
    schema_version="{schema_version}",
    data_json="data",
    metadata_json="metadata",
    tags_json="tags",
)
"""What an export to CSV looks like; the column of tags may be missing, as it was in older ones."""


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
    if mapping == EXPORTED and "tags" not in header:
        mapping = replace(mapping, tags_json="")
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

    type_ = check_type(fill(mapping.type))
    event_id = fill(mapping.event_id)
    return ImportLine(
        number,
        check_stream_id(fill(mapping.stream)),
        uuid_text(event_id or None, "event_id") or derived_id(source, ordinal, "\x1f".join(row)),
        type_,
        _schema_version(fill(mapping.schema_version)),
        _data(type_, values, mapping),
        _object(values[mapping.metadata_json], "metadata") if mapping.metadata_json else "{}",
        time_text(fill(mapping.occurred_at), mapping.zone),
        check_correlation_id(fill(mapping.correlation_id) or None),
        uuid_text(fill(mapping.causation_id) or None, "causation_id"),
        raw,
        _tags(values, mapping, fill) if mapping.tags or mapping.tags_json else (),
    )


def _schema_version(text: str) -> int:
    return check_schema_version(int(text) if text.isdecimal() and len(text) < 6 else text) if text else 1


def _data(type_: str, values: dict[str, str], mapping: CsvMapping) -> str:
    if not mapping.data_json:
        columns = mapping.data or tuple(values)
        return encode_json({name: values[name] for name in columns}, f"event {type_!r}")
    member = member_of(values[mapping.data_json])
    check_storable(member.value, member.text, f"event {type_!r}")
    return member.text


def _tags(values: dict[str, str], mapping: CsvMapping, fill: Callable[[str], str]) -> tuple[str, ...]:
    given = [fill(one) for one in mapping.tags if all(values[name] for name in _COLUMN.findall(one))]
    text = values[mapping.tags_json] if mapping.tags_json else ""
    return check_tags((*given, *(check_tag_list(member_of(text).value) if text else ())), "tags")


def _object(text: str, what: str) -> str:
    if not text:
        return "{}"
    member = member_of(text)
    if not isinstance(member.value, dict):
        raise InvalidArgument(f"{what} must be a JSON object, got {type(member.value).__name__}")
    check_storable(member.value, member.text, what)
    return member.text
