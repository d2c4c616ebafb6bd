"""The demo with a user's own log: import it, count its types live, and cut its longest stream in the middle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from eventstore import EventStore, Recorded
from eventstore.bulk import BadLine, CsvMapping, ImportLine, ImportResult, import_lines
from eventstore.cli.console import print_table, progress_bar, tell
from eventstore.cli.imports import csv_mapping, lines_of
from eventstore.errors import InvalidArgument

from ..projection import Projection, on
from .playing import follow, go_on, opened, tell_stream

__all__ = ["play_own_log"]

activity = sa.Table(
    "demo_activity",
    sa.MetaData(),
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("events", sa.BigInteger, nullable=False, server_default="0"),
)


async def play_own_log(url: str, file: Path, stream: str, type_: str, occurred_at: str) -> None:
    """Play the demo with a file."""
    mapping = csv_mapping(str(file), stream, type_, occurred_at)
    begun = time.monotonic()
    types = sorted({line.type for line in _lines(file, mapping) if isinstance(line, ImportLine)})
    if not types:
        raise InvalidArgument(f"{file} holds no event")
    async with opened(url, []) as store:
        with ExitStack() as stack:
            total, lines = lines_of(stack, str(file), mapping)
            bar = stack.enter_context(progress_bar("importing", total))
            result = ImportResult()

            async def work() -> None:
                nonlocal result
                result = await import_lines(store, lines, on_bad=_refuse, on_progress=lambda r: bar(r.read))

            daemon = await follow(store, [_activity_of(types)], work())
        rate = result.added / daemon.seconds
        tell(f"{result.added:,} events added ({rate:,.0f} events/s), {result.present:,} were there already\n")
        await _tell_activity(store)
        name, middle = await _longest_of(store, file, mapping)
        await tell_stream(store, name, middle, valid=True)
        go_on(url, name, middle, time.monotonic() - begun, valid=True)


def _lines(file: Path, mapping: CsvMapping | None) -> Sequence[ImportLine | BadLine]:
    with ExitStack() as stack:
        return list(lines_of(stack, str(file), mapping)[1])


def _refuse(bad: BadLine) -> None:
    raise InvalidArgument(f"line {bad.number}: {bad.reason}; `eventstore import --on-error skip` can leave it out")


def _activity_of(types: Sequence[str]) -> Projection:
    class Activity(Projection):
        """How many events of each type."""

        name = "demo_activity"
        table = activity

        @on(*types)
        def count(self, event: Any, recorded: Recorded[Any], rows: Any) -> None:
            """One more."""
            rows.add(type=recorded.type, events=1)

    return Activity()


async def _tell_activity(store: EventStore) -> None:
    engine = sa.create_engine(store.dsn.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=sa.NullPool)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(activity).order_by(activity.c.events.desc()).limit(12)).all()
    print_table("The read model: events by type", ("type", "events"), [tuple(row) for row in rows])


async def _longest_of(store: EventStore, file: Path, mapping: CsvMapping | None) -> tuple[str, datetime]:
    """The stream with the most events in the file, and when its middle event occurred."""
    counts: dict[str, int] = {}
    for line in _lines(file, mapping):
        if isinstance(line, ImportLine):
            counts[line.stream_id] = counts.get(line.stream_id, 0) + 1
    name = max(counts, key=lambda stream_id: counts[stream_id])
    times = sorted([recorded.occurred_at async for recorded in store.read_stream(name)])
    return name, times[len(times) // 2]
