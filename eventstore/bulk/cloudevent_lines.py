"""CloudEvents 1.0 to events: one in JSON a line, or all in one JSON array (the batch mode), which is read piece by piece."""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final

from ..errors import InvalidArgument
from ..serialization import encode_json
from ..serialization.cloudevents import ParsedCloudEvent, parse_cloudevent
from ..serialization.members import Member, members_of
from .json_lines import numbered, parsed
from .lines import (
    BadLine,
    ImportLine,
    check_correlation_id,
    check_schema_version,
    check_storable,
    check_stream_id,
    check_type,
    time_text,
    uuid_text,
)

__all__ = ["read_cloudevents"]

READ_BYTES: Final = 256 * 2**10
LARGEST_ELEMENT: Final = 64 * 2**20
"""Characters of one element of an array: what has not ended by then is no event."""

_ATTRIBUTE: Final = re.compile(r"\{([^{}]+)\}")
_BETWEEN: Final = re.compile(r"[\s,\ufeff]*")


def read_cloudevents(file: BinaryIO, stream: str = "") -> Iterator[ImportLine | BadLine]:
    """Parse CloudEvents; see `eventstore.serialization.cloudevents` for what becomes what.

    Args:
        file: a JSON array of CloudEvents, or one a line.
        stream: the stream id, a template of attributes like ``order-{subject}``; default: the subject.
    """
    begin = [file.readline(READ_BYTES)]  # of an array all may be one line
    while begin[-1] and not begin[-1].strip():
        begin.append(file.readline(READ_BYTES))
    if begin[-1].removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        lines = _elements(begin[-1], file)
    else:
        begin[-1] += b"" if begin[-1].endswith(b"\n") else file.readline()
        lines = numbered(itertools.chain(begin, file))
    yield from parsed(lines, _from_cloudevent, stream)


def _from_cloudevent(number: int, text: str, stream: str) -> ImportLine:
    members = members_of(text)
    event = parse_cloudevent({name: member.value for name, member in members.items()})
    type_ = check_type(event.type)
    return ImportLine(
        number,
        check_stream_id(_stream_of(event, stream)),
        str(event.event_id),
        type_,
        check_schema_version(event.schema_version),
        _data_of(type_, members),
        encode_json(dict(event.metadata), "metadata") if event.metadata else "{}",
        time_text(event.time, None),
        check_correlation_id(event.correlation_id),
        uuid_text(event.causation_id, "causationid"),
        text,
        event.tags,
    )


def _stream_of(event: ParsedCloudEvent, template: str) -> str:
    if not template:
        if event.subject is None:
            raise InvalidArgument("the CloudEvent has no subject to name its stream; give --stream, like 'order-{id}'")
        return event.subject

    def fill(found: re.Match[str]) -> str:
        if found[1] not in event.attributes:
            raise InvalidArgument(f"the CloudEvent has no attribute {found[1]!r} for the stream {template!r}")
        return event.attributes[found[1]]

    return _ATTRIBUTE.sub(fill, template)


def _data_of(type_: str, members: Mapping[str, Member]) -> str:
    if (binary := members.get("data_base64")) is not None:
        if not isinstance(binary.value, str):
            raise InvalidArgument(f"data_base64 must be text, got {type(binary.value).__name__}")
        return encode_json({"data_base64": binary.value}, f"event {type_!r}")
    if (data := members.get("data")) is None:
        return "null"
    check_storable(data.value, data.text, f"event {type_!r}")
    return data.text


def _elements(begin: bytes, file: BinaryIO) -> Iterator[tuple[int, str] | BadLine]:
    """Yield the elements of an array with their numbers, holding one and a block of the file in memory."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    find = json.JSONDecoder().raw_decode
    number, at = 0, 0
    try:
        text = decode(begin).partition("[")[2]
        while True:
            at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if text.startswith("]", at):
                return
            try:
                end = find(text, at)[1]
            except ValueError as error:
                text, at = text[at:], 0
                block = b"" if len(text) > LARGEST_ELEMENT else file.read(max(READ_BYTES, len(text)))
                if not block:
                    yield BadLine(number + 1, f"element {number + 1} of the array does not end: {error}", text[:1000])
                    return
                text += decode(block)
                continue
            number += 1
            yield number, text[at:end]
            at = end
    except UnicodeDecodeError as error:
        yield BadLine(number + 1, f"not UTF-8: {error}", "")
