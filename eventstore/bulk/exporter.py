"""Export: the log as text, one event a line, in order, up to its settled end, in flat memory.

Every line carries the event's position, so a file that was cut off says itself where to go on (`resume_point`). All
positions up to that of the last line were settled when it was written: nothing can appear below it later.

Of tags it carries those that an event was appended with (`Recorded.tags`), not those of a back-fill.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple
from uuid import UUID

from .._operations import read
from .._operations.read import Filter
from ..errors import InvalidArgument
from ..events import VERSION, Recorded
from ..feed import LogReader
from ..serialization import Registry
from ..serialization.cloudevents import SOURCE, attributes_of
from ..store import EventStore
from ..streams import check_name

__all__ = ["COLUMNS", "FORMATS", "ExportFormat", "ExportResult", "ResumePoint", "export_events", "resume_point"]

ExportFormat = Literal["jsonl", "cloudevents", "csv"]
FORMATS: Final[tuple[ExportFormat, ...]] = ("jsonl", "cloudevents", "csv")

COLUMNS: Final = (
    "position",
    "stream_id",
    "version",
    "type",
    "schema_version",
    "event_id",
    "correlation_id",
    "causation_id",
    "occurred_at",
    "recorded_at",
    "data",
    "metadata",
    "tags",
)
"""Of a CSV; data, metadata and tags are JSON."""

PROGRESS_EVENTS: Final = 1000
TAIL_BYTES: Final = 64 * 2**10
"""First look at a file's end for its last line; doubled until it is found."""


@dataclass(slots=True)
class ExportResult:
    """What an export has done so far.

    Attributes:
        events: written.
        position: of the last one written; before the first, where it began.
        settled: as `LogReader.settled`; True for one stream.
    """

    events: int = 0
    position: int = 0
    settled: bool | None = None


class ResumePoint(NamedTuple):
    """Where a file that was exported earlier ends.

    Attributes:
        position, event_id: of its last event; 0 and None for a file without one.
        size: its bytes up to the end of its last whole line.
    """

    position: int
    event_id: UUID | None
    size: int


async def export_events(
    store: EventStore,
    out: BinaryIO,
    format: ExportFormat = "jsonl",  # noqa: A002 - the command line's word
    *,
    after: int | ResumePoint = 0,
    types: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    stream: str | None = None,
    source: str = SOURCE,
    on_progress: Callable[[ExportResult], None] | None = None,
) -> ExportResult:
    """Write events to `out`.

    Args:
        store: whose log.
        out: where to; flushed by the caller.
        format: "jsonl" (which `eventstore import` takes again), "cloudevents" (one a line), "csv".
        after: only positions above this one; a `ResumePoint` is compared with the log first.
        types: only these, by their stored names.
        categories: only streams of these.
        tags: only events that carry all of these, those of a back-fill included.
        stream: only this stream.
        source: of CloudEvents.
        on_progress: called now and then.

    Raises:
        InvalidArgument: the resume point is none of this log; a stream together with types, categories or tags.
    """
    if stream is not None and not (types is None and categories is None and tags is None):
        raise InvalidArgument("a stream is exported whole: give stream, or types, categories and tags, not both")
    if isinstance(after, ResumePoint):
        await _verify(store, after)
    fresh = not isinstance(after, ResumePoint) or after.size == 0
    result = ExportResult(position=after.position if isinstance(after, ResumePoint) else after)
    if format == "csv" and fresh:
        out.write(",".join(COLUMNS).encode() + b"\n")
    reader = _log(store, result.position, Filter.of(store._registry, types=types, categories=categories, tags=tags))
    async for recorded in reader if stream is None else _stream(store, stream, result.position):
        out.write(_line(recorded, format, source).encode())
        result.events += 1
        result.position = recorded.position
        if on_progress is not None and result.events % PROGRESS_EVENTS == 0:
            on_progress(result)
    result.settled = True if stream is not None else reader.settled
    return result


def resume_point(path: Path, format: ExportFormat) -> ResumePoint:  # noqa: A002 - as above
    """Return where an exported file ends. What follows its last whole line was torn off: cut it to `size`.

    Raises:
        InvalidArgument: its last line is none of this format.
    """
    with open(path, "rb") as file:
        line, size = _last_line(file)
    text = line.decode("utf-8", "replace")
    try:
        if not text or (format == "csv" and text == ",".join(COLUMNS)):
            return ResumePoint(0, None, size)
        row = _parsed_csv(text) if format == "csv" else json.loads(text)
        return ResumePoint(int(row["position"]), UUID(row["id" if format == "cloudevents" else "event_id"]), size)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise InvalidArgument(
            f"the last line of {path} is no {format} of an export ({text:.60}); resume with the format that it was written in"
        ) from error


def _parsed_csv(text: str) -> dict[str, str]:
    return dict(zip(COLUMNS, next(csv.reader([text], strict=True)), strict=True))


def _last_line(file: BinaryIO) -> tuple[bytes, int]:
    end = file.seek(0, io.SEEK_END)
    length = min(TAIL_BYTES, end)
    while True:
        file.seek(end - length)
        block = file.read(length)
        stop = block.rfind(b"\n")
        start = block.rfind(b"\n", 0, max(stop, 0))
        if start >= 0 or length == end:
            return block[start + 1 : max(stop, 0)], max(end - length + stop + 1, 0) if stop >= 0 else 0
        length = min(length * 2, end)


async def _verify(store: EventStore, point: ResumePoint) -> None:
    if point.event_id is None:
        return
    found = await store._driver.run("read", read.event_id_at(point.position))
    if found != point.event_id:
        raise InvalidArgument(
            f"the file ends with event {point.event_id} at position {point.position}, where this log has {found or 'none'}: "
            "it was exported from another log"
        )


def _log(store: EventStore, after: int, wanted: Filter) -> LogReader[Any]:
    """`store.read_all` with documents as they are stored, whatever classes the store knows."""
    registry = Registry([])
    return LogReader(store._driver, store._frontier, registry, wanted, after=after, limit=None, settle_seconds=1.0)


async def _stream(store: EventStore, stream_id: str, after: int) -> AsyncIterator[Recorded[Any]]:
    """As `store.read_stream`, from a position on."""
    check_name(stream_id, "a stream id")
    registry, size, version = Registry([]), read.BatchSize(), 0
    while True:
        operation = read.read_stream("", stream_id, version, 2**63 - 1, size.rows, backwards=False)
        asked, rows = size.rows, await store._driver.run("read", operation)
        for recorded in read.decode(registry, rows):
            if recorded.position > after:
                yield recorded
        if len(rows) < asked:
            return
        size.note(rows)
        version = rows[-1][VERSION]


def _line(recorded: Recorded[Any], format: ExportFormat, source: str) -> str:  # noqa: A002 - as above
    """One event as a line; its data are the stored text, digit for digit."""
    document = recorded.data.document
    if format == "cloudevents":
        attributes = json.dumps(attributes_of(recorded, source), ensure_ascii=False)
        return f'{attributes[:-1]}, "data": {document}}}\n'
    beside = recorded.metadata  # parsed anew each time
    metadata = json.dumps(dict(beside), ensure_ascii=False) if beside else ""
    fields = _fields(recorded)
    tags = recorded.tags
    if format == "csv":
        row = io.StringIO()
        beside_data = (metadata, json.dumps(tags, ensure_ascii=False) if tags else "")
        csv.writer(row, lineterminator="\n").writerow((*fields.values(), document, *beside_data))
        return row.getvalue()
    if tags:
        fields["tags"] = tags
    text = json.dumps({name: value for name, value in fields.items() if value is not None}, ensure_ascii=False)[:-1]
    return f'{text}, "data": {document}, "metadata": {metadata}}}\n' if metadata else f'{text}, "data": {document}}}\n'


def _fields(recorded: Recorded[Any]) -> dict[str, Any]:  # text, numbers, None
    causation = recorded.causation_id
    return {
        "position": recorded.position,
        "stream_id": recorded.stream_id,
        "version": recorded.version,
        "type": recorded.type,
        "schema_version": recorded.schema_version,
        "event_id": str(recorded.event_id),
        "correlation_id": recorded.correlation_id,
        "causation_id": None if causation is None else str(causation),
        "occurred_at": recorded.occurred_at.isoformat(),
        "recorded_at": recorded.recorded_at.isoformat(),
    }
