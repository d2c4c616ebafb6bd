"""A projection's catch-up, exactly once, against the hand-written loop.

The loop fetches batches of 1,000, validates, folds in a dictionary, and writes one unnest upsert and its checkpoint in a
transaction. That is exactly once too, for one process and one projection, as long as nothing goes wrong; gaps it does not see.
"""

from eventstore import EventStore
from projections import Daemon

from ..core import OURS, Contest, Contestant, Goal
from ..sample import Totals, fill, validate
from .reading import FOUR

UPSERT = """insert into bare_totals select * from unnest($1::text[], $2::bigint[])
            on conflict (account) do update set amount = bare_totals.amount + excluded.amount"""
TABLES = """create table if not exists bare_totals (account text primary key, amount bigint not null);
            create table if not exists bare_checkpoint (position bigint);
            truncate bare_totals, bare_checkpoint;
            insert into bare_checkpoint values (0)"""


def contests(scale):
    """The contest."""
    yield Contest(
        topic="project",
        key="project",
        title="projection catch-up, exactly once",
        contestants=(Contestant(OURS, ours), Contestant("hand-written loop", bare)),
        size=scale.pick(300_000, 3_000),
        warmup=scale.pick(20_000, 1_000),
        prepare=prepare,
        goals=(Goal("hand-written loop", 0.6),),
    )


async def prepare(arena, events):
    """A log of so many events."""
    await fill(arena.bare, int(events))


async def ours(arena, _events):
    """A daemon with one projection, from the beginning."""
    await arena.bare.execute("delete from eventstore.checkpoints; drop table if exists bench_totals")
    async with EventStore(arena.dsn) as store, Daemon(store, [Totals()], create=True) as daemon:
        meter = arena.meter()
        await daemon.run_until_caught_up()
        return meter.stop(daemon.applied)


async def bare(arena, _events):
    """The loop, from the beginning."""
    await arena.bare.execute(TABLES)
    statement = await arena.bare.prepare(FOUR)
    after = count = 0
    meter = arena.meter()
    while rows := await statement.fetch(after):
        sums = {}
        for row in rows:
            deposited = validate(row[3])
            sums[deposited.account] = sums.get(deposited.account, 0) + deposited.amount
        after, count = rows[-1][0], count + len(rows)
        async with arena.bare.transaction():
            await arena.bare.execute(UPSERT, list(sums), list(sums.values()))
            await arena.bare.execute("update bare_checkpoint set position = $1", after)
    return meter.stop(count)
