"""What the library costs over the bare floor, as ratios: each measure beside its floor, in one run, interleaved.

    make bench                                   # three rounds on a private server with fsync on
    make bench ARGS="--rounds 5 --url postgresql://user:password@host/database"

A round measures floor and library in turn; printed are the medians of rates and of the ratios, and the ratios' spread.
Nothing here is asserted: on a shared machine a time is no fact. The floors are those of docs/design.md, section 10.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import time
import uuid

import asyncpg
import sqlalchemy as sa

from eventstore import Event, EventStore, embedded, schema
from projections import Daemon, Projection, on


class Deposited(Event):
    """About 100 bytes, as events often are."""

    account: str
    amount: int
    note: str


totals = sa.Table(
    "bench_totals",
    sa.MetaData(),
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False, server_default="0"),
)


class Totals(Projection):
    """A sum for each account."""

    table = totals

    @on(Deposited)
    def deposited(self, event, recorded, rows):
        """Add it."""
        rows.add(account=event.account, amount=event.amount)


def event(n):
    """The nth event."""
    return Deposited(account=f"account-{n % 500}", amount=n, note="a note of some length, as notes are")


INSERT = """insert into eventstore.events (stream_id, version, type, event_id, data)
            values ($1, 1, 'Deposited', $2, $3::text::jsonb) returning position"""
INSERT_MANY = """insert into eventstore.events (stream_id, version, type, event_id, data)
                 select 's', v, 'Deposited', i, d from unnest($1::bigint[], $2::uuid[], $3::text[]::jsonb[]) x (v, i, d)
                 returning position"""
READ = """select position, stream_id, version, data::text from eventstore.events where position > $1
          order by position limit 1000"""


class Bench:
    """One round's database, a store on it, and a bare connection."""

    def __init__(self, store, bare):
        self.store, self.bare = store, bare

    async def append_bare(self, count=1500):
        """One caller, one prepared INSERT of the same row an append."""
        statement = await self.bare.prepare(INSERT)
        begun = time.perf_counter()
        for n in range(count):
            await statement.fetchval(f"bare-{uuid.uuid4()}", uuid.uuid4(), event(n).model_dump_json())
        return count / (time.perf_counter() - begun)

    async def append(self, count=1500):
        """One caller, one event an append."""
        begun = time.perf_counter()
        for n in range(count):
            await self.store.append(f"ours-{uuid.uuid4()}", event(n), expect=0)
        return count / (time.perf_counter() - begun)

    async def batch_bare(self, batches=20):
        """The same rows by one INSERT ... unnest."""
        begun = time.perf_counter()
        for batch in range(batches):
            rows = [event(n).model_dump_json() for n in range(1000)]
            versions = list(range(batch * 1000 + 1, batch * 1000 + 1001))
            await self.bare.fetch(
                INSERT_MANY.replace("'s'", f"'s-{self.mark}'"), versions, [uuid.uuid4() for _ in rows], rows
            )
        return batches * 1000 / (time.perf_counter() - begun)

    async def batch(self, batches=20):
        """A thousand events an append."""
        stream = f"batch-{uuid.uuid4()}"
        begun = time.perf_counter()
        for batch in range(batches):
            await self.store.append(stream, [event(n) for n in range(1000)], expect=batch * 1000)
        return batches * 1000 / (time.perf_counter() - begun)

    async def read_bare(self):
        """Fetch the log in batches and validate each event."""
        validate = Deposited.__pydantic_validator__.validate_json
        statement = await self.bare.prepare(READ)
        after = count = 0
        begun = time.perf_counter()
        while rows := await statement.fetch(after):
            for row in rows:
                validate(row[3])
            after, count = rows[-1][0], count + len(rows)
        return count / (time.perf_counter() - begun)

    async def read(self):
        """The log as typed events."""
        count = 0
        begun = time.perf_counter()
        async for _ in self.store.read_all():
            count += 1
        return count / (time.perf_counter() - begun)

    async def project_bare(self):
        """A hand-written fold, one unnest upsert and a checkpoint a batch, exactly once."""
        validate = Deposited.__pydantic_validator__.validate_json
        await self.bare.execute("create table if not exists bare_totals (account text primary key, amount bigint not null)")
        await self.bare.execute("create table if not exists bare_checkpoint (position bigint)")
        await self.bare.execute("truncate bare_totals, bare_checkpoint; insert into bare_checkpoint values (0)")
        after = count = 0
        begun = time.perf_counter()
        while rows := await self.bare.fetch(READ, after):
            sums = {}
            for row in rows:
                deposited = validate(row[3])
                sums[deposited.account] = sums.get(deposited.account, 0) + deposited.amount
            after, count = rows[-1][0], count + len(rows)
            async with self.bare.transaction():
                await self.bare.execute(
                    """insert into bare_totals select * from unnest($1::text[], $2::bigint[])
                       on conflict (account) do update set amount = bare_totals.amount + excluded.amount""",
                    list(sums),
                    list(sums.values()),
                )
                await self.bare.execute("update bare_checkpoint set position = $1", after)
        return count / (time.perf_counter() - begun)

    async def project(self):
        """A projection's catch-up."""
        await self.bare.execute("delete from eventstore.checkpoints")
        await self.bare.execute("drop table if exists bench_totals")
        async with Daemon(self.store, [Totals()], create=True) as daemon:
            begun = time.perf_counter()
            await daemon.run_until_caught_up()
            return daemon.applied / (time.perf_counter() - begun)


MEASURES = {
    "one caller, one event an append": ("append", 0.9),
    "a thousand events an append": ("batch", 0.8),
    "reading the log, typed": ("read", 0.8),
    "projection catch-up, exactly once": ("project", 0.6),
}


async def one_round(dsn, number):
    """Measure everything once, in a fresh database."""
    name = f"bench_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(dsn)
    await admin.execute(f"create database {name}")
    base, _, query = dsn.partition("?")
    url = f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
    await asyncio.to_thread(schema.migrate, url)
    rates = {}
    try:
        async with EventStore(url) as store:
            bare = await asyncpg.connect(url)
            bench = Bench(store, bare)
            bench.mark = number
            for title, (method, _) in MEASURES.items():
                order = (f"{method}_bare", method) if number % 2 else (method, f"{method}_bare")
                found = {which: await getattr(bench, which)() for which in order}
                rates[title] = (found[f"{method}_bare"], found[method])
            await bare.close()
    finally:
        await admin.execute(f"drop database {name} with (force)")
        await admin.close()
    return rates


def main():
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", default="")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        dsn = options.url or stack.enter_context(embedded.start()).dsn
        rounds = [asyncio.run(one_round(dsn, n)) for n in range(options.rounds)]
    print(f"{'':36} {'floor/s':>10} {'ours/s':>10} {'ratio':>6} {'spread':>13} {'goal':>5}")
    for title, (_, goal) in MEASURES.items():
        floors, ours = zip(*(r[title] for r in rounds), strict=True)
        ratios = sorted(mine / floor for floor, mine in zip(floors, ours, strict=True))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        row = f"{statistics.median(floors):10,.0f} {statistics.median(ours):10,.0f} {statistics.median(ratios):6.2f} {spread:>13}"
        print(f"{title:36} {row} {goal:5.1f}")
    print(json.dumps(rounds))


if __name__ == "__main__":
    main()
