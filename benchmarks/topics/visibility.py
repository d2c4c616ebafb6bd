"""From an event's commit until it is in the read model, at a fixed rate, without an observer.

A writer appends on a schedule that does not wait for anybody (an open loop: what is late stays late), from several callers.
A daemon runs a projection that writes one row an event. Afterwards the server is asked when each event's and each row's
transaction was committed (`pg_xact_commit_timestamp`, hence ``track_commit_timestamp = on``): the difference is what is shown.
PostgreSQL takes both times just before it flushes the commit record. So the event's flush is in the difference and the row's
is not; one flush is counted, as it would be from the append's return until the row can be seen. Nobody polls, so nothing of
the two cores is taken from those who are measured.
"""

import asyncio
import contextlib
import functools
import time

from eventstore import EventStore
from projections import Daemon

from .. import follower
from ..core import Gauge, Goal
from ..meter import percentiles
from ..sample import Seen, event

CALLERS = {100: 4, 1000: 16}
"""Callers of the writer by its rate: enough that a slow flush does not hold up the schedule."""

SECONDS = 10.0
WARMUP_SHARE = 0.2
SEEN_SECONDS = 30.0
KEPT = ("rate kept, %", 98)
"""The load must have been there, else no goal counts as met."""

DELAYS = """select extract(epoch from pg_xact_commit_timestamp(s.xmin) - pg_xact_commit_timestamp(e.xmin))::float8 * 1000
            from eventstore.events e join bench_seen s using (position) order by position"""


def gauges(scale):
    """Two rates, each with the daemon in the writer's process and in one of its own."""
    for rate in CALLERS:
        for apart in (False, True):
            yield Gauge(
                topic="visible",
                key=f"visible.{'apart' if apart else 'same'}.{rate}",
                title=f"commit to visible, {rate:,} events/s, {'another' if apart else 'the same'} process",
                measure=functools.partial(measure, rate=rate, seconds=scale.pick(SECONDS, 1.0), apart=apart),
                unit="ms",
                goals=(Goal("p50", 3), Goal("p99", 10)) if rate == 1000 else (),
                setting="track_commit_timestamp",
                only_with=KEPT,
            )


async def measure(arena, rate, seconds, apart):
    """Percentiles of the delays, and of the writer's own calls (from when they were due until they returned), and its rate."""
    count = int(rate * seconds)
    async with EventStore(arena.dsn) as store, _child(arena.dsn) if apart else _daemon(store):
        taken, late = await _write(store, arena.token(), count, rate)
        await _until_seen(arena.bare, count)
    delays = [row[0] for row in await arena.bare.fetch(DELAYS)]
    delay = percentiles(delays[int(count * WARMUP_SHARE) :])
    kept = min(1.0, count / rate / taken) * 100
    return delay | {"append p50": percentiles(late)["p50"], "append p99": percentiles(late)["p99"], KEPT[0]: kept}


@contextlib.asynccontextmanager
async def _daemon(store):
    async with Daemon(store, [Seen()], create=True) as daemon:
        running = asyncio.create_task(daemon.run())
        yield
        daemon.stop()
        await running


@contextlib.asynccontextmanager
async def _child(dsn):
    async with follower.child("seen", dsn) as process:
        await process.stdout.readline()  # it says that it runs
        yield


async def _write(store, token, count, rate):
    """Append on schedule; how long it took, and how late each append returned, in milliseconds."""
    queue, late = asyncio.Queue(), []

    async def call(caller):
        n = 0
        while (due := await queue.get()) is not None:
            await store.append(f"bench-{token}-{caller}", event(n), expect=n)
            late.append((time.perf_counter() - due) * 1000)
            n += 1

    async with asyncio.TaskGroup() as callers:
        for caller in range(CALLERS[rate]):
            callers.create_task(call(caller))
        begun = time.perf_counter()
        for n in range(count):
            due = begun + n / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            queue.put_nowait(due)
        for _ in range(CALLERS[rate]):
            queue.put_nowait(None)
    return time.perf_counter() - begun, late


async def _until_seen(connection, count):
    """Wait until every event has its row; by now nothing is measured any more."""
    async with asyncio.timeout(SEEN_SECONDS):
        while await connection.fetchval("select count(*) from bench_seen") < count:  # noqa: ASYNC110 - by whomever
            await asyncio.sleep(0.1)
