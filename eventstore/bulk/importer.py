"""Writes parsed lines into the log by COPY, each once.

Before a batch is written, the ids that its streams already hold are left out, and each stream is continued at exactly
the version that was looked at: whoever else appended to it meanwhile made the COPY fail on the primary key, whole, and
the batch is looked up again. So an import that is repeated, resumed, or run twice at once adds every line once; a crash
at any moment costs a batch of looking up. The ids of the streams under way are kept in memory (about 150 bytes an event,
at most `KNOWN_IDS` beside the largest stream).

A batch that lost `COPIES` races goes in parts through the append function instead, in which only the streams that moved
are refused. Those are then appended to wherever they are by now, and what came in between is looked at before the commit:
an import makes progress also beside a writer that never rests.

Events keep the order of the lines, within their stream always, and in the log as long as nobody else appends to the
same streams meanwhile. COPY locks the table before it draws a position, as every writer does: readers stay gap-safe.

**Tags.** A batch in which an event has tags is a transaction of three statements: the locks of all its tags (see
`_operations.boundary` for what they guard), then COPY, then the rows of ``event_tags`` for the events that it has inserted, in order
of position. The locks come before any ``seq`` is drawn, and are kept until the commit: a decision that was read before the batch
finds its rows, one that is appended while the batch is under way waits for it, and none sees an event of it without its tags.
They also come before anything is inserted: readers of the log do not wait for a batch that waits for a lock. Where somebody
holds one of them for longer than a moment, the batch lets go of those that it has and begins again, so that nobody waits for it
either. The transaction dies whole: there is no event without the rows of its tags; and since the ids of events that are there are
left out before, no row is written twice, nor added to an event that an earlier import brought without tags
(`tagging.backfill_tags` does that). A batch without tags takes no lock, and is a single COPY as ever. In parts, the append
function does all of this.

The next batch is parsed in a thread while the server writes the present one.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from .. import _details
from .._drivers.asyncpg import AsyncpgConnection
from .._failpoints import armed, hit, register
from .._operations import append as appends
from .._operations import read, tagging
from .._operations.append import Landed, refuse_reused_position
from .._operations.joined import append_joined
from .._operations.prepare import EventRow, Limits, PreparedAppend, check_size
from .._operations.statement import Operation, Row, Statement, load_sql
from ..context import Context, current_context
from ..errors import AppendUnknown, ConnectionLost, Invalid, LockTimeout, Retryable, UniqueViolation, VersionConflict
from ..events import DETAILS
from ..serialization import encode_json
from ..store import EventStore
from ..streams import ANY, Expectation
from .ahead import Ahead
from .lines import BadLine, ImportLine, check_correlation_id

__all__ = ["ImportResult", "import_lines"]

BATCH: Final = 5_000
"""Lines of one COPY. Medians of three on two cores: 94,000 events/s at 1,000, 106,000 at 5,000, 91,000 at 10,000."""

BATCH_CHARACTERS: Final = 8 * 2**20
"""A batch of large lines ends earlier: it is held in memory three times on its way."""

YIELD: Final = 250
YIELD_SECONDS: Final = 20e-6
"""Parsing, which never lets go of the interpreter by itself for 5 ms, lets the event loop feed the server so often."""

COPIES: Final = 3
"""Races for a version that a batch may lose before it goes through the append function."""

PART: Final = 1000
"""Lines of one such append."""

KNOWN_IDS: Final = 500_000
STREAM_WEIGHT: Final = 4
"""What a stream that is remembered weighs besides its ids, in ids."""

RETRY_SECONDS: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses after a lost connection, until the import gives up; it can be run again."""

COPIED: Final = register("import.after_copy", "a batch with tags is copied in an open transaction; its tags are not written")

PATIENCE: Final = "5s"
"""How long a batch that goes through the append function waits for a stream that another transaction appends to."""

TAGS_SECONDS: Final = 5.0
TAGS_PAUSE_SECONDS: Final = (0.05, 0.5)
"""How long a batch tries to get the locks of its tags, and shortest and longest pause in between."""

DEADLOCK: Final = "40P01"

_KNOWN: Final = load_sql(Path(__file__).parent.parent / "sql" / "queries", "known_ids")
_COLUMNS: Final = (
    "stream_id",
    "version",
    "type",
    "schema_version",
    "event_id",
    "correlation_id",
    "causation_id",
    "occurred_at",
    "data",
    "metadata",
)
_TAGGED_COLUMNS: Final = (*_COLUMNS, "tags")


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

    version: int = 0
    ids: set[str] = field(default_factory=set)


class _Batch(NamedTuple):
    """Lines to write, and the bad one that ended them."""

    lines: list[ImportLine]
    bad: BadLine | None


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
        lines: parsed lines, as `read_json_lines`, `read_csv` and `read_cloudevents` give them; iterated over in a thread.
        on_bad: called for every line that is no event, in order; raising ends the import, after everything before that
            line has been committed.
        on_progress: called after every batch.

    Raises:
        ConnectionLost, AppendUnknown, LockTimeout, Retryable: run it again; nothing is added twice.
        Whatever `on_bad` raises.
    """
    importer = _Importer(store, current_context())
    result = importer.result
    async with Ahead(_batches(lines, store._limits)) as batches:
        async for batch in batches:
            await importer.append(batch.lines)
            result.read += len(batch.lines)
            if batch.bad is not None:
                result.read += 1
                result.rejected += 1
                on_bad(batch.bad)
            if on_progress is not None:
                on_progress(result)
    return result


def _batches(lines: Iterable[ImportLine | BadLine], limits: Limits) -> Iterator[_Batch]:
    """Gather lines. The garbage collector is paused meanwhile, as in `_operations.read.decode`: a sixth of the time."""
    lines = iter(lines)
    while True:
        collecting = gc.isenabled()
        gc.disable()
        try:
            batch, more = _gather(lines, limits)
        finally:
            if collecting:
                gc.enable()
        yield batch
        if not more:
            return


def _gather(lines: Iterator[ImportLine | BadLine], limits: Limits) -> tuple[_Batch, bool]:
    """Return the next batch, and whether there may be more."""
    batch: list[ImportLine] = []
    weight, light = 0, limits.event_bytes // 4
    for line in lines:
        if isinstance(line, BadLine):
            return _Batch(batch, line), True
        size = len(line[5]) + len(line[6])  # data and metadata
        if size > light and (bad := _too_large(line, limits)) is not None:
            return _Batch(batch, bad), True
        if tags := line[11]:
            if len(tags) > limits.event_tags:
                return _Batch(batch, _too_many_tags(line, limits)), True
            size += sum(map(len, tags))
        batch.append(line)
        weight += size
        if len(batch) == BATCH or weight > BATCH_CHARACTERS:
            return _Batch(batch, None), True
        if len(batch) % YIELD == 0:
            time.sleep(YIELD_SECONDS)
    return _Batch(batch, None), False


def _too_large(line: ImportLine, limits: Limits) -> BadLine | None:
    """Spaces between tokens do not count: an export has more of them than the append that was taken had."""
    try:
        check_size(limits, line.type, *(encode_json(json.loads(text), line.type) for text in (line.data, line.metadata)))
    except Invalid as error:
        return BadLine(line.number, str(error), line.raw)
    return None


def _too_many_tags(line: ImportLine, limits: Limits) -> BadLine:
    why = f"the event has {len(line.tags)} tags, at most {limits.event_tags} are taken (Limits.event_tags)"
    return BadLine(line.number, why, line.raw)


class _Importer:
    """Writes batches of lines, each line once."""

    def __init__(self, store: EventStore, context: Context) -> None:
        self._store = store
        self._context = context
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._weight = 0
        self.result = ImportResult()

    async def append(self, lines: Sequence[ImportLine]) -> None:
        """Write a batch, apart from what is there already."""
        if self._context != Context():
            lines = [_within(self._context, line) for line in lines]
        pauses, races = iter(RETRY_SECONDS), 0
        while lines:
            try:
                part = lines if races < COPIES else lines[:PART]
                await self._look_up(part)
                moved = await (self._copy(part) if races < COPIES else self._send(part))
                races += bool(moved)
                lines = [*moved, *lines[len(part) :]]
            except (AppendUnknown, ConnectionLost):
                self._forget_all()  # look again: the ids tell what was committed
                if (pause := next(pauses, None)) is None:
                    raise
                await asyncio.sleep(pause)
        self._forget_oldest()

    async def _look_up(self, lines: Sequence[ImportLine]) -> None:
        """Learn version and ids of the streams that are not known, in one statement."""
        unknown = list({line.stream_id for line in lines} - self._known.keys())
        if not unknown:
            return
        found = await self._store._driver.run("read", _known_ids("", unknown))
        for stream_id in unknown:
            ids = found.get(stream_id, ())
            self._known[stream_id] = _Known(len(ids), set(ids))
            self._weight += len(ids) + STREAM_WEIGHT

    async def _copy(self, lines: Sequence[ImportLine]) -> Sequence[ImportLine]:
        """Write lines in their order, all or none; return them where a stream has moved meanwhile."""
        text, count, tags = self._rows(lines)
        try:
            if count:
                async with self._store._driver.acquire("transaction") as connection:
                    if tags:
                        await _copy_tagged(connection, text, tags)
                    else:
                        await connection.copy("events", _COLUMNS, text)
                self._store._frontier.touch()
        except (UniqueViolation, Retryable) as error:
            self._forget({line.stream_id for line in lines})
            if isinstance(error, UniqueViolation):
                self._refuse_reused(error)
            elif error.sqlstate != DEADLOCK:
                raise
            return lines
        self.result.added += count
        self.result.present += len(lines) - count
        return ()

    def _rows(self, lines: Sequence[ImportLine]) -> tuple[bytes, int, set[str]]:
        """Return the rows of what is new, in COPY's text format, their number, and their tags; note them as known.

        The rows have a column for tags where one has any.
        """
        rows: list[str] = []
        tagged: dict[int, tuple[str, ...]] = {}
        for _, stream, event_id, type_, schema, data, metadata, at, correlation, causation, _, tags in lines:
            known = self._known[stream]
            if event_id in known.ids:
                continue
            known.ids.add(event_id)
            known.version += 1
            begin = f"{stream}\t{known.version}\t{type_}\t{schema}\t{event_id}\t"
            if tags:
                tagged[len(rows)] = tags
            rows.append(f"{begin}{correlation or _NULL}\t{causation or _NULL}\t{at or _NULL}\t{data}\t{metadata}")
        self._weight += len(rows)
        if tagged:
            rows = [f"{row}\t{_array(tagged[n]) if n in tagged else _NULL}" for n, row in enumerate(rows)]
        text = "\n".join([*rows, ""]).replace("\\", r"\\").replace(_NULL, r"\N").encode()
        return text, len(rows), {tag for tags in tagged.values() for tag in tags}

    async def _send(self, lines: Sequence[ImportLine]) -> Sequence[ImportLine]:
        """Append lines in their order; return those whose stream has moved meanwhile."""
        streams: dict[str, dict[str, ImportLine]] = {}
        fresh = []
        for line in lines:
            own = streams.setdefault(line.stream_id, {})
            if line.event_id in self._known[line.stream_id].ids or line.event_id in own:
                self.result.present += 1
            else:
                own[line.event_id] = line
                fresh.append(line)
        streams = {name: own for name, own in streams.items() if own}
        moved = await self._send_streams(streams, fresh) if fresh else set()
        return [line for line in fresh if line.stream_id in moved]

    async def _send_streams(self, streams: dict[str, dict[str, ImportLine]], lines: Sequence[ImportLine]) -> set[str]:
        """Append the lines of some streams; return those streams that have moved."""
        group = [_prepared(name, self._known[name].version, own) for name, own in streams.items()]
        left = {one.stream_id: (n, enumerate(one.rows, 1)) for n, one in enumerate(group, 1)}
        order = [(n, *next(rows)) for n, rows in (left[line.stream_id] for line in lines)]
        try:
            operation = appends.append(group, waiting=True, patience=PATIENCE, order=order)
            outcomes = await self._store._driver.run("transaction", operation)
        except UniqueViolation as error:
            self._refuse_reused(error)
            self._forget(streams)
            return set(streams)
        self._store._frontier.touch()
        moved = set()
        for (name, own), outcome in zip(streams.items(), outcomes, strict=True):
            if isinstance(outcome, Landed):
                self._added(name, outcome.before + len(own), own)
            elif not await self._insist(name, own):
                self._forget({name})
                moved.add(name)
        return moved

    async def _insist(self, name: str, own: dict[str, ImportLine]) -> bool:
        """Append to a stream that others never leave alone, wherever it is by now; return whether that was right.

        It was if none of the lines was appended since the look-up: the events between it and ours are looked at before the
        commit. They are all there is, since whoever appends behind ours waits for us.
        """
        one = _prepared(name, ANY, own)
        known = self._known[name].version
        try:
            async with self._store._driver.acquire("transaction") as connection, connection.transaction():
                done, _ = await connection.run(append_joined(one, self._store.schema))
                span = done.first_version - known
                between = await connection.run(read.read_stream("", name, known, done.first_version, span, backwards=False))
                if any(_event_id(row) in own for row in between):
                    raise VersionConflict(name, known, done.first_version - 1)  # noqa: TRY301 - rolls back
        except VersionConflict:
            return False
        self._store._frontier.touch()
        self._added(name, done.version, own)
        self._known[name].ids.update(map(_event_id, between))
        self._weight += len(between)
        return True

    def _refuse_reused(self, error: UniqueViolation) -> None:
        refuse_reused_position(error, self._store.schema)

    def _added(self, name: str, version: int, ids: Collection[str]) -> None:
        known = self._known[name]
        known.version = version
        known.ids.update(ids)
        self._weight += len(ids)
        self.result.added += len(ids)

    def _forget(self, stream_ids: Iterable[str]) -> None:
        for stream_id in stream_ids:
            if (known := self._known.pop(stream_id, None)) is not None:
                self._weight -= len(known.ids) + STREAM_WEIGHT

    def _forget_all(self) -> None:
        self._known.clear()
        self._weight = 0

    def _forget_oldest(self) -> None:
        """Keep the ids of the streams looked up last, up to a bound."""
        while self._weight > KNOWN_IDS and len(self._known) > 1:
            self._forget({next(iter(self._known))})


_NULL: Final = "\x01"
"""Stands for NULL while a row is put together: names and JSON hold no control characters."""


def _within(context: Context, line: ImportLine) -> ImportLine:
    """The line as `store.context(...)` completes it, as it does for an append."""
    metadata = line.metadata
    if context.metadata:
        metadata = encode_json({**context.metadata, **json.loads(metadata)}, "metadata")
    causation = None if context.causation_id is None else str(context.causation_id)
    return line._replace(
        metadata=metadata,
        correlation_id=line.correlation_id or check_correlation_id(context.correlation_id),
        causation_id=line.causation_id or causation,
    )


async def _copy_tagged(connection: AsyncpgConnection, text: bytes, tags: Collection[str]) -> None:
    """COPY rows of which some have tags, and write the rows of their tags, all or nothing.

    Raises:
        LockTimeout: somebody has held one of the tags, or a stream, for `TAGS_SECONDS`.
        Others: as `AsyncpgConnection.copy`.
    """
    deadline = time.monotonic() + TAGS_SECONDS
    while True:
        try:
            async with connection.transaction():
                last_given = await connection.run(tagging.lock([("", tag) for tag in tags]))
                await connection.copy("events", _TAGGED_COLUMNS, text)
                if armed:
                    await hit(COPIED)
                await connection.run(tagging.note(last_given))
            return
        except LockTimeout:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(random.uniform(*TAGS_PAUSE_SECONDS))


def _array(tags: tuple[str, ...]) -> str:
    """Return PostgreSQL's text of an array of texts."""
    escaped = [tag.replace("\\", r"\\").replace('"', r"\"") for tag in tags]
    return '{"' + '","'.join(escaped) + '"}'


def _prepared(name: str, expect: int | Expectation, own: dict[str, ImportLine]) -> PreparedAppend:
    """Return the append of some lines to a stream."""
    tags = tuple({tag: None for line in own.values() for tag in line.tags})
    return PreparedAppend("", name, expect, tuple([_event_row(line) for line in own.values()]), tags=tags)


def _event_row(line: ImportLine) -> EventRow:
    return EventRow(
        line.type,
        UUID(line.event_id),
        line.data,
        None if line.metadata == "{}" else line.metadata,
        None if line.schema_version == 1 else line.schema_version,
        line.correlation_id,
        line.causation_id and UUID(line.causation_id),  # type: ignore[arg-type]  # None, or text that is not empty
        None if line.occurred_at is None else datetime.fromisoformat(line.occurred_at),
        line.tags or None,
    )


def _known_ids(tenant_id: str, stream_ids: Sequence[str]) -> Operation[dict[str, list[str]]]:
    rows = yield Statement(_KNOWN, (tenant_id, list(stream_ids)))
    return {row[0]: row[1] for row in rows}


def _event_id(row: Row) -> str:
    return str(_details.event_id(row[DETAILS]))
