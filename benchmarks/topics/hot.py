"""Many writers that want the same streams: what gets done, how long it takes, and whether somebody starves.

*ANY*: 64 callers of one process append to one stream, whatever came before. *Exact*: they load the stream, decide, append at the
version that they have seen, and begin anew at a conflict; a stream that has 100 events is left for the next one. *Processes*:
four processes of 32 callers share eight streams with ANY.
"""

import collections
import functools

from eventstore import EventStore, VersionConflict

from .. import calling, writer
from ..core import Gauge
from ..sample import event

WRITERS = 64
LENGTH = 100
PROCESSES, CALLERS = 4, 32

TITLES = {
    "any": f"{WRITERS} writers, one stream, ANY",
    "exact": f"{WRITERS} writers, one stream: load, decide, append, retry",
    "processes": f"{PROCESSES} processes of {CALLERS} writers, {writer.HOT_STREAMS} streams, ANY",
}


def gauges(scale):
    """One for each way."""
    for name, measure in (("any", any_version), ("exact", exact_version), ("processes", processes)):
        yield Gauge(
            topic="hot",
            key=f"hot.{name}",
            title=TITLES[name],
            measure=functools.partial(measure, seconds=scale.pick(5.0, 0.5)),
            unit="ms",
        )


async def any_version(arena, seconds):
    """Appends that depend on nothing."""
    async with EventStore(arena.dsn) as store:

        async def append(_caller, n):
            await store.append("hot-any", event(n))

        return await _writers(arena, seconds, append)


async def exact_version(arena, seconds):
    """Appends that depend on all that came before; a call ends when its append has succeeded."""
    conflicts, stream = 0, 0
    async with EventStore(arena.dsn) as store:

        async def attempt():
            nonlocal stream
            mine = stream
            total = version = 0
            async for recorded in store.read_stream(f"hot-exact-{mine}"):
                total, version = total + recorded.data.amount, recorded.version
            if version >= LENGTH:
                stream = max(stream, mine + 1)
                return False
            await store.append(f"hot-exact-{mine}", event(total % LENGTH), expect=version)
            return True

        async def decide(_caller, _n):
            nonlocal conflicts
            appended = False
            while not appended:
                try:
                    appended = await attempt()
                except VersionConflict:
                    conflicts += 1

        found = await _writers(arena, seconds, decide)
        done = await arena.bare.fetchval("select count(*) from eventstore.events")
    return found | {"conflicts a success": conflicts / done}


async def processes(arena, seconds):
    """Nobody may be left behind, though the processes know nothing of each other."""
    done = await writer.together(arena, "hot", PROCESSES, CALLERS, seconds)
    failed = sum(one["failed"] for one in done)
    if failed:
        arena.server.note(f"hot: {failed} of {sum(one['count'] for one in done)} appends of {PROCESSES} processes timed out")
    return _values(writer.summed(done), [one["count"] for one in done])


async def _writers(arena, seconds, call):
    done = collections.Counter()

    async def counted(caller, n):
        await call(caller, n)
        done[caller] += 1

    sample = await calling.measure(arena.meter, WRITERS, seconds, counted)
    return _values(sample, [done[caller] for caller in range(WRITERS)])


def _values(sample, counts):
    """`counts`: what each writer has done."""
    fair = sum(counts) / len(counts)
    return {
        "events/s": sample.rate,
        **{name: sample.latency_ms[name] for name in ("p50", "p99", "max")},
        "conflicts a success": 0.0,
        "slowest, % of its share": min(counts) / fair * 100,
    }
