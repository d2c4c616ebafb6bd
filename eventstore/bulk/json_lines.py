"""JSON lines to events: what `eventstore export` writes, and what is easily written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Final

from ..errors import Invalid, InvalidArgument
from ..serialization.members import Member, flat_object, members_of
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

__all__ = ["from_json", "numbered", "parsed", "read_json_lines"]

NEEDED: Final = ("stream_id", "type", "data")
WRITTEN: Final = frozenset({"position", "version", "recorded_at"})
"""What an export says besides: where the event stood. Read over: in this log it gets a place of its own."""

FIELDS: Final = frozenset(
    {*NEEDED, "event_id", "occurred_at", "correlation_id", "causation_id", "metadata", "schema_version", "tags"}
)
_KNOWN: Final = FIELDS | WRITTEN

_make: Final = tuple.__new__  # what ImportLine's own constructor does, without its Python frame


def read_json_lines(file: BinaryIO, source: str) -> Iterator[ImportLine | BadLine]:
    """Parse JSON lines: ``stream_id``, ``type``, ``data``, and optionally ``event_id``, ``occurred_at``,
    ``correlation_id``, ``causation_id``, ``metadata``, ``schema_version``, ``tags`` (an array of texts). Empty lines are passed
    over, and so are ``position``, ``version`` and ``recorded_at``, which an export adds.

    Numbers with more digits than a float keeps are refused, not rounded; those that it keeps stay as they are written.
    """
    return parsed(numbered(file), from_json, source)


def parsed(
    lines: Iterable[tuple[int, str] | BadLine], parse: Callable[[int, str, str], ImportLine], given: str
) -> Iterator[ImportLine | BadLine]:
    """Parse numbered lines, each to an event or to the reason why not.

    Args:
        lines: as `numbered` gives them.
        parse: takes a line's number and text, and `given`; raises what makes the line a bad one.
        given: the same for every line.
    """
    for line in lines:
        if isinstance(line, BadLine):
            yield line
            continue
        number, text = line
        try:
            yield parse(number, text, given)
        except (ValueError, Invalid, RecursionError) as error:
            yield BadLine(number, str(error), text)


def numbered(file: Iterable[bytes]) -> Iterator[tuple[int, str] | BadLine]:
    """Yield the lines of a file that are not empty, with their numbers, without white space around them."""
    for number, raw in enumerate(file, 1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            yield BadLine(number, f"not UTF-8: {error}", raw.decode("utf-8", "replace").rstrip("\r\n"))
            continue
        if text:
            yield number, text


def from_json(number: int, text: str, source: str) -> ImportLine:
    """Return the event that a line says.

    Raises:
        ValueError, InvalidArgument, InvalidEvent: it says none.
    """
    flat = flat_object(text, "data")
    line: Mapping[str, Any]
    if flat is not None:
        line, data = flat
        metadata = "{}"
        if line.get("metadata"):
            raise InvalidArgument(f"metadata must be an object, got {type(line['metadata']).__name__}")
    else:
        members = members_of(text)
        line = {name: member.value for name, member in members.items()}
        data, metadata = _texts(members)
    try:
        stream_id, type_ = line["stream_id"], line["type"]
    except KeyError:
        raise _missing(line) from None
    if len(line) == len(NEEDED):
        stream_id, type_, event_id = check_stream_id(stream_id), check_type(type_), derived_id(source, number, text)
        return _make(ImportLine, (number, stream_id, event_id, type_, 1, data, metadata, None, None, None, text, ()))
    if not line.keys() <= _KNOWN:
        unknown = sorted(line.keys() - _KNOWN)
        raise InvalidArgument(f"unknown field(s) {', '.join(unknown)}; expected {', '.join(sorted(FIELDS))}")
    return ImportLine(
        number,
        check_stream_id(stream_id),
        uuid_text(line.get("event_id"), "event_id") or derived_id(source, number, text),
        check_type(type_),
        check_schema_version(line.get("schema_version", 1)),
        data,
        metadata,
        time_text(line.get("occurred_at"), None),
        check_correlation_id(line.get("correlation_id")),
        uuid_text(line.get("causation_id"), "causation_id"),
        text,
        check_tag_list(line.get("tags")),
    )


def _missing(line: Mapping[str, object]) -> InvalidArgument:
    missing = [name for name in NEEDED if name not in line]
    return InvalidArgument(f"{', '.join(missing)} missing; a line has stream_id, type and data")


def _texts(members: Mapping[str, Member]) -> tuple[str, str]:
    """The text of data and of metadata, storable."""
    if any(name not in members for name in NEEDED):
        raise _missing(members)
    data, metadata = members["data"], members.get("metadata")
    check_storable(data.value, data.text, f"event {members['type'].value!r}")
    if metadata is None or not metadata.value:
        return data.text, "{}"
    if not isinstance(metadata.value, dict):
        raise InvalidArgument(f"metadata must be an object, got {type(metadata.value).__name__}")
    check_storable(metadata.value, metadata.text, "metadata")
    return data.text, metadata.text
