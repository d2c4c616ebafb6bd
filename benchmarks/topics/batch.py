"""A thousand events an append, against one bare INSERT ... SELECT unnest of the same rows.

Both make the events and their JSON while the clock runs, and both commit each batch. The floor fills the same eleven columns
by eleven arrays. A second floor names only the five that differ from their defaults, and so has less to send.
"""

import time
import uuid

from eventstore import EventStore

from ..core import OURS, Contest, Contestant, Goal
from ..sample import event

BATCH = 1000

WIDE = """insert into eventstore.events (tenant_id, stream_id, version, type, schema_version, event_id, correlation_id,
                                         causation_id, occurred_at, data, metadata)
          select * from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::smallint[], $6::uuid[], $7::text[],
                               $8::uuid[], $9::timestamptz[], $10::text[]::jsonb[], $11::text[]::jsonb[])
          returning position"""
NARROW = """insert into eventstore.events (stream_id, version, type, event_id, data)
            select $1::text, x.* from (select v, 'Deposited', i, d from unnest($2::bigint[], $3::uuid[], $4::text[]::jsonb[])
            as u (v, i, d)) x returning position"""


def contests(scale):
    """The contest."""
    yield Contest(
        topic="batch",
        key="batch",
        title="a thousand events an append",
        contestants=(Contestant(OURS, ours), Contestant("unnest", wide), Contestant("unnest, 5 columns", narrow)),
        size=scale.pick(150_000, 2_000),
        warmup=scale.pick(10_000, 1_000),
        goals=(Goal("unnest", 0.8),),
    )


async def ours(arena, events):
    """`EventStore.append` of a list."""
    stream_id = f"batch-{arena.token()}"
    async with EventStore(arena.dsn) as store:

        async def append(first):
            await store.append(stream_id, [event(first + n) for n in range(BATCH)], expect=first)

        return await _batches(arena, events, append)


async def wide(arena, events):
    """The same columns."""
    stream_id = f"batch-{arena.token()}"
    statement = await arena.bare.prepare(WIDE)
    none, empty, one = [None] * BATCH, ["{}"] * BATCH, [1] * BATCH

    async def append(first):
        data = [event(first + n).model_dump_json() for n in range(BATCH)]
        ids = [uuid.uuid4() for _ in range(BATCH)]
        versions = list(range(first + 1, first + BATCH + 1))
        types, streams, tenants = ["Deposited"] * BATCH, [stream_id] * BATCH, [""] * BATCH
        await statement.fetch(tenants, streams, versions, types, one, ids, none, none, none, data, empty)

    return await _batches(arena, events, append)


async def narrow(arena, events):
    """The columns that differ."""
    stream_id = f"batch-{arena.token()}"
    statement = await arena.bare.prepare(NARROW)

    async def append(first):
        data = [event(first + n).model_dump_json() for n in range(BATCH)]
        await statement.fetch(
            stream_id, list(range(first + 1, first + BATCH + 1)), [uuid.uuid4() for _ in range(BATCH)], data
        )

    return await _batches(arena, events, append)


async def _batches(arena, events, append):
    calls = []
    meter = arena.meter()
    for first in range(0, int(events), BATCH):
        begun = time.perf_counter()
        await append(first)
        calls.append(time.perf_counter() - begun)
    return meter.stop(len(calls) * BATCH, calls)
