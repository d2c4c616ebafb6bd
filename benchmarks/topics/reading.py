"""Reading the log as typed events, against a bare loop that fetches in batches of 1,000 and validates with pydantic.

The floor fetches the four columns that a hand-written reader needs. That is the stricter one, and the goal is against it. A
second floor fetches thirteen columns: all that ours gives, of which it packs most into one.
"""

import functools

from eventstore import EventStore

from ..core import OURS, Contest, Contestant, Goal
from ..sample import fill, validate

FOUR = """select position, stream_id, version, data::text from eventstore.events
          where position > $1 order by position limit 1000"""
THIRTEEN = """select position, data::text, tenant_id, stream_id, version, type, schema_version, event_id, correlation_id,
                     causation_id, coalesce(occurred_at, recorded_at), recorded_at, metadata::text
              from eventstore.events where position > $1 order by position limit 1000"""


def contests(scale):
    """The contest."""
    yield Contest(
        topic="read",
        key="read",
        title="reading the log, typed",
        contestants=(
            Contestant(OURS, ours),
            Contestant("bare, 4 columns", functools.partial(bare, sql=FOUR, data=3)),
            Contestant("bare, 13 columns", functools.partial(bare, sql=THIRTEEN, data=1)),
        ),
        size=scale.pick(300_000, 3_000),
        warmup=scale.pick(20_000, 1_000),
        prepare=prepare,
        goals=(Goal("bare, 4 columns", 0.8),),
    )


async def prepare(arena, events):
    """A log of so many events."""
    await fill(arena.bare, int(events))


async def ours(arena, _events):
    """`EventStore.read_all`."""
    async with EventStore(arena.dsn) as store:
        count = 0
        meter = arena.meter()
        async for _ in store.read_all():
            count += 1
        return meter.stop(count)


async def bare(arena, _events, sql, data):
    """Fetch, validate, go on behind the last."""
    statement = await arena.bare.prepare(sql)
    after = count = 0
    meter = arena.meter()
    while rows := await statement.fetch(after):
        for row in rows:
            validate(row[data])
        after, count = rows[-1][0], count + len(rows)
    return meter.stop(count)
