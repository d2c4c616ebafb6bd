"""Series: the same work on logs of growing size, and its rate as a share of that on the smallest.

Each log is filled once, on top of the one before, and kept as a template. A round clones all of them, and does one work on
each of them, one directly after the other, before the next work: so what drifts falls on all sizes, and no round sees what
an earlier one has appended.
"""

import contextlib
import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from .core import Found, Gauge, Goal, in_turn, say
from .meter import Sample
from .server import Arena


@dataclass(frozen=True, slots=True)
class Series:
    """One work, on several logs. All series of a run have the same logs.

    Attributes:
        topic: by which it is asked for.
        key: of its own, in the JSON file.
        title: in the tables.
        run: does the work for some seconds on an arena whose log has so many rows.
        rows: of the logs, the smallest first.
        fill: brings a log, over a list of connections to its database, to its `rows`.
        seconds: of the work.
        warmup: the same, for the run before that is thrown away.
        unit: of its rates.
        disk_bytes: what all logs take on the server's disk.
        goals: least shares, each with the log (`label`) that it is for.
        missing: says why it cannot be done; empty text: it can.
        shared_buffers: of the private server, which is started again with it; empty: as it is. The same for all series of a run.
    """

    topic: str
    key: str
    title: str
    run: Callable[[Arena, float, int], Awaitable[Sample]]
    rows: tuple[int, ...]
    fill: Callable[..., Awaitable[None]]
    seconds: float
    warmup: float
    unit: str
    disk_bytes: int
    goals: tuple[Goal, ...] = ()
    missing: Callable[[], str] = str
    shared_buffers: str = ""


@dataclass(slots=True)
class FoundSeries:
    """What a series has brought: for each log a sample a round, and the bytes that an event has written ahead."""

    of: Series
    samples: dict[int, list[Sample]] = field(default_factory=dict)
    written: dict[int, list[float]] = field(default_factory=dict)


def label(rows):
    """How a log is called: 100k, 20M."""
    return f"{rows / 1e6:g}M" if rows >= 1_000_000 else f"{rows / 1e3:g}k"


async def run_series(server, series, rounds):
    """Fill the logs, measure every series on each of them in every round; then what the logs are like, as gauges."""
    present = [one for one in series if not _left_out(server, one)]
    if not present:
        return []
    first, templates, logs, name = present[0], {}, [], ""
    usual = await server.execute("show shared_buffers")
    if first.shared_buffers and server.owned:
        await server.restart_with("shared_buffers", first.shared_buffers)
    for rows in first.rows:
        begun = time.perf_counter()
        templates[rows] = name = await server.template(functools.partial(first.fill, rows=rows), name)
        logs.append(Found(_gauge(first.topic, rows), values=[{"fill, s": time.perf_counter() - begun}]))
        say(f"filled a log of {label(rows)} rows in {logs[-1].values[0]['fill, s']:.1f} s")
    found = [FoundSeries(one) for one in present]
    for number in range(rounds):
        async with contextlib.AsyncExitStack() as stack:
            arenas = {rows: await stack.enter_async_context(server.arena(name)) for rows, name in templates.items()}
            for arena in arenas.values():
                await arena.bare.execute(_READ_KEYS)
            if number == 0:
                for log, arena in zip(logs, arenas.values(), strict=True):
                    log.values[0] |= await _sizes(arena)
            for one in found:
                await _one_round(one, arenas, number, f"round {number + 1}/{rounds}")
    if first.shared_buffers and server.owned:
        await server.restart_with("shared_buffers", usual)
    return [*found, *logs]


def shares(found, rows):
    """The rate on one log as a share of that on the smallest, round by round."""
    pairs = zip(found.samples[rows], found.samples[found.of.rows[0]], strict=True)
    return [one.rate / smallest.rate for one, smallest in pairs]


async def _one_round(found, arenas, number, heading):
    series = found.of
    for rows in in_turn(series.rows, number):
        arena = arenas[rows]
        await arena.settle()
        await series.run(arena, series.warmup, rows)
        before = await arena.bare.fetchrow(_WRITTEN)
        sample = await series.run(arena, series.seconds, rows)
        written, events = (now - then for now, then in zip(await arena.bare.fetchrow(_WRITTEN), before, strict=True))
        found.samples.setdefault(rows, []).append(sample)
        found.written.setdefault(rows, []).append(written / events if events else 0.0)
        say(f"{heading} {series.key} {label(rows)} rows: {sample.rate:,.0f} {series.unit}")


def _gauge(topic, rows):
    return Gauge(topic, f"{topic}.log.{label(rows)}", f"a log of {label(rows)} rows", measure=None, unit="MiB")


_READ_KEYS = """begin; set local enable_seqscan = off; set local enable_bitmapscan = off;
                select count(*) from eventstore.events where stream_id > ''; commit"""
"""Through the key's index, from end to end: what fits is in the server's buffers then, as on a server that has run for a while."""

_WRITTEN = """select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, last_value
              from eventstore.events_position_seq"""
"""Bytes written ahead so far, and events: more than the clock has counted, since callers begin before it."""

_SIZES = """select pg_table_size('eventstore.events') / 2.0^20, pg_relation_size('eventstore.events_pkey') / 2.0^20,
                   pg_relation_size('eventstore.events_position_key') / 2.0^20,
                   pg_size_bytes(current_setting('shared_buffers')) / 2.0^20"""


async def _sizes(arena):
    """In MiB."""
    names = ("table", "key index", "position index", "shared_buffers")
    return dict(zip(names, map(float, await arena.bare.fetchrow(_SIZES)), strict=True))


def _left_out(server, series):
    why = series.missing() or server.too_small(series.disk_bytes)
    if why:
        server.note(f"{series.key}: left out: {why}")
    return why
