"""Import: events from elsewhere into the log, resumable and idempotent.

Every line has an event id: given, or derived from the source's name, the line's ordinal and its content. Before a batch
is appended, the ids that its streams already hold are left out, and each stream is appended to at exactly the version
that was looked at. So an import that is repeated, resumed, or run twice at once adds every line once; a crash at any
moment costs a batch of looking up. The ids of the streams under way are kept in memory (about 100 bytes an event, at
most `KNOWN_IDS` beside the largest stream).

Events keep the order of the lines, within their stream always, and in the log as long as nobody else appends to the
same streams meanwhile.
"""

from __future__ import annotations

import asyncio
import csv
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID, uuid5

from ._operations import append as appends
from ._operations.statement import Operation, Statement, load_sql
from .errors import AppendUnknown, ConnectionLost, Invalid, InvalidArgument, VersionConflict
from .events import NewEvent, UnknownEvent
from .serialization.json import parse_exact_json
from .store import EventStore
from .streams import check_name

__all__ = ["BadLine", "CsvMapping", "ImportLine", "ImportResult", "import_lines", "read_csv", "read_json_lines"]

NAMESPACE: Final = UUID("6a2f6f0e-5a4b-5f4e-9c1d-2f0b4b1d8a3c")
"""Derived ids are UUIDs version 5 in this namespace (RFC 9562, section 5.5)."""

BATCH: Final = 1000
KNOWN_IDS: Final = 500_000
RETRY_SECONDS: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses after a lost connection, until the import gives up; it can be run again."""

_KNOWN: Final = load_sql(Path(__file__).parent / "sql" / "queries", "known_ids")
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


@dataclass(slots=True)
class ImportResult:
    """What an import has done so far.

    Attributes:
        read: lines looked at.
        added: events appended.
        present: events that were there already.
        rejected: bad lines.
    """

    read: int = 0
    added: int = 0
    present: int = 0
    rejected: int = 0


@dataclass(slots=True)
class _Known:
    """A stream under way: its version, and the ids that it holds."""

    version: int
    ids: set[UUID] = field(default_factory=set)


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
    lines = _Remembered(file)
    rows = csv.reader(lines, delimiter=mapping.delimiter, strict=True)
    header = next(rows, None)
    if header is None:
        raise InvalidArgument("the CSV file is empty: expected a header line with the names of the columns")
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


async def import_lines(
    store: EventStore,
    lines: Iterable[ImportLine | BadLine],
    *,
    on_bad: Callable[[BadLine], None],
    on_progress: Callable[[ImportResult], None] | None = None,
) -> ImportResult:
    """Import lines; see the module's docstring for what is guaranteed.

    Args:
        store: where to.
        lines: parsed lines, as `read_json_lines` and `read_csv` give them.
        on_bad: called for every line that is no event, in order; raising ends the import, after everything before that
            line has been committed.
        on_progress: called after every batch.

    Raises:
        ConnectionLost, AppendUnknown, LockTimeout, Retryable: run it again; nothing is added twice.
        Whatever `on_bad` raises.
    """
    importer = _Importer(store)
    pending: list[ImportLine] = []
    for line in lines:
        importer.result.read += 1
        bad = line if isinstance(line, BadLine) else importer.check(line)
        if bad is not None:
            await importer.append(pending)
            pending = []
            importer.result.rejected += 1
            on_bad(bad)
            continue
        assert isinstance(line, ImportLine)
        pending.append(line)
        if len(pending) == BATCH:
            await importer.append(pending)
            pending = []
            if on_progress is not None:
                on_progress(importer.result)
    await importer.append(pending)
    if on_progress is not None:
        on_progress(importer.result)
    return importer.result


class _Importer:
    """Appends batches of lines, each line once."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self.result = ImportResult()

    def check(self, line: ImportLine) -> BadLine | None:
        """Whether a line can be stored as it is."""
        try:
            self._prepare(line.stream_id, [line], 0)
        except Invalid as error:
            return BadLine(line.number, str(error), line.raw)
        return None

    def _prepare(self, stream_id: str, lines: Sequence[ImportLine], version: int) -> appends.PreparedAppend:
        store = self._store
        events = [line.event for line in lines]
        return appends.prepare(store._registry, stream_id, events, expect=version, limits=store._limits)

    async def append(self, lines: Sequence[ImportLine]) -> None:
        """Append a batch, apart from what is there already."""
        pauses = iter(RETRY_SECONDS)
        while lines:
            try:
                await self._look_up({line.stream_id for line in lines})
                lines = self._new(lines)
                lines = await self._send(lines) if lines else []
            except (AppendUnknown, ConnectionLost):
                self._known.clear()  # look again: the ids tell what was committed
                if (pause := next(pauses, None)) is None:
                    raise
                await asyncio.sleep(pause)
        self._forget()

    def _new(self, lines: Sequence[ImportLine]) -> list[ImportLine]:
        seen: set[tuple[str, UUID | None]] = set()
        fresh = []
        for line in lines:
            key = (line.stream_id, line.event.event_id)
            if line.event.event_id in self._known[line.stream_id].ids or key in seen:
                self.result.present += 1
            else:
                seen.add(key)
                fresh.append(line)
        return fresh

    async def _look_up(self, stream_ids: set[str]) -> None:
        unknown = [stream_id for stream_id in stream_ids if stream_id not in self._known]
        if unknown:
            found = await self._store._driver.run("read", _known_ids("", unknown))
            for stream_id in unknown:
                ids = found.get(stream_id, [])
                self._known[stream_id] = _Known(len(ids), set(ids))

    async def _send(self, lines: Sequence[ImportLine]) -> list[ImportLine]:
        """Append lines in their order; return those whose stream has moved meanwhile."""
        streams: dict[str, list[ImportLine]] = {}
        for line in lines:
            streams.setdefault(line.stream_id, []).append(line)
        group = [self._prepare(name, own, self._known[name].version) for name, own in streams.items()]
        number = {name: n for n, name in enumerate(streams, 1)}
        taken = dict.fromkeys(streams, 0)
        order = []
        for line in lines:
            taken[line.stream_id] += 1
            n, k = number[line.stream_id], taken[line.stream_id]
            order.append((n, k, group[n - 1].rows[k - 1]))
        outcomes = await self._store._send(group, order)
        again: list[ImportLine] = []
        for one, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, VersionConflict):
                del self._known[one.stream_id]
                again += streams[one.stream_id]
            else:
                known = self._known[one.stream_id]
                known.version = outcome.version
                known.ids.update(one.event_ids)
                self.result.added += len(one.rows)
        return again

    def _forget(self) -> None:
        """Keep the ids of the streams looked up last, up to a bound."""
        total = sum(known.version for known in self._known.values())
        while total > KNOWN_IDS and len(self._known) > 1:
            _, dropped = self._known.popitem(last=False)
            total -= dropped.version


def _known_ids(tenant_id: str, stream_ids: Sequence[str]) -> Operation[dict[str, list[UUID]]]:
    rows = yield Statement(_KNOWN, (tenant_id, list(stream_ids)))
    return {row[0]: row[1] for row in rows}
