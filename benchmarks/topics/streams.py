"""Loading streams of 10, 100 and 10,000 events as typed events, against one bare SELECT a stream and pydantic."""

import functools
import time

from eventstore import EventStore

from ..core import OURS, Contest, Contestant
from ..sample import fill, validate

LENGTHS = {10: 3_000, 100: 1_000, 10_000: 20}
"""Length of the streams, and how many of them are loaded in a round."""

QUICK_EVENTS = 1_000

SELECT = """select position, stream_id, version, data::text from eventstore.events
            where tenant_id = '' and stream_id = $1 order by version"""


def contests(scale):
    """One contest for each length."""
    for length, normal in LENGTHS.items():
        streams = scale.pick(normal, max(1, QUICK_EVENTS // length))
        yield Contest(
            topic="stream",
            key=f"stream.{length}",
            title=f"loading a stream of {length:,} events",
            contestants=(
                Contestant(OURS, functools.partial(ours, length=length)),
                Contestant("bare", functools.partial(bare, length=length)),
            ),
            size=streams * length,
            warmup=max(1, streams // 10) * length,
            prepare=functools.partial(prepare, length=length),
        )


async def prepare(arena, events, length):
    """Streams of that length."""
    await fill(arena.bare, int(events), length)


async def ours(arena, events, length):
    """`EventStore.read_stream`, to its end."""
    async with EventStore(arena.dsn) as store:

        async def load(stream_id):
            return [recorded.data async for recorded in store.read_stream(stream_id)]

        return await _loads(arena, int(events), length, load)


async def bare(arena, events, length):
    """One prepared SELECT."""
    statement = await arena.bare.prepare(SELECT)

    async def load(stream_id):
        return [validate(row[3]) for row in await statement.fetch(stream_id)]

    return await _loads(arena, int(events), length, load)


async def _loads(arena, events, length, load):
    calls, count = [], 0
    meter = arena.meter()
    for n in range(events // length):
        begun = time.perf_counter()
        count += len(await load(f"fill-{n}"))
        calls.append(time.perf_counter() - begun)
    return meter.stop(count, calls)
