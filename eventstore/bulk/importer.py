"""Appends parsed lines, each once.

Before a batch is appended, the ids that its streams already hold are left out, and each stream is appended to at exactly
the version that was looked at. So an import that is repeated, resumed, or run twice at once adds every line once; a crash
at any moment costs a batch of looking up. The ids of the streams under way are kept in memory (about 100 bytes an event,
at most `KNOWN_IDS` beside the largest stream).

Events keep the order of the lines, within their stream always, and in the log as long as nobody else appends to the
same streams meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

from .._operations import append as appends
from .._operations.statement import Operation, Statement, load_sql
from ..errors import AppendUnknown, ConnectionLost, Invalid, VersionConflict
from ..store import EventStore
from .lines import BadLine, ImportLine

__all__ = ["ImportResult", "import_lines"]

BATCH: Final = 1000
BATCH_CHARACTERS: Final = 8 * 2**20
"""A batch of large lines ends earlier: far below what an append may weigh."""

KNOWN_IDS: Final = 500_000
RETRY_SECONDS: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses after a lost connection, until the import gives up; it can be run again."""

_KNOWN: Final = load_sql(Path(__file__).parent.parent / "sql" / "queries", "known_ids")


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
    weight = 0
    for line in lines:
        importer.result.read += 1
        bad = line if isinstance(line, BadLine) else importer.check(line)
        if bad is not None:
            await importer.append(pending)
            pending, weight = [], 0
            importer.result.rejected += 1
            on_bad(bad)
            continue
        assert isinstance(line, ImportLine)
        pending.append(line)
        weight += len(line.raw)
        if len(pending) == BATCH or weight > BATCH_CHARACTERS:
            await importer.append(pending)
            pending, weight = [], 0
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
