"""Following a million events takes no more memory than a hundred thousand: read, exported, projected."""

import subprocess
import sys

import asyncpg
import pytest

pytestmark = [pytest.mark.server, pytest.mark.soak]

START = """
import asyncio, os, resource, sys
import sqlalchemy as sa
from eventstore import Event, EventStore
from eventstore.bulk import export_events
from projections import Daemon, Projection, on

class Noted(Event):
    n: int
    text: str

sums = sa.Table("sums", sa.MetaData(), sa.Column("name", sa.Text, primary_key=True), sa.Column("n", sa.BigInteger, nullable=False))
peaks = []

class Sums(Projection):
    table = sums

    @on(Noted)
    def noted(self, event, recorded, rows):
        rows.add(name=recorded.stream_id, n=1)
        look(event.n)

def look(count):
    if count in (100_000, int(sys.argv[2])):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

async def read(store):
    count = 0
    async for recorded in store.read_all():
        count += 1
        assert recorded.data.n == recorded.position
        look(count)
    return count

async def export(store):
    class Out:
        count = 0
        def write(self, line):
            self.count += 1
            look(self.count)
    return (await export_events(store, Out(), "cloudevents")).events

async def project(store):
    async with Daemon(store, [Sums()], create=True) as daemon:
        await daemon.run_until_caught_up()
        return daemon.applied

async def main():
    async with EventStore(sys.argv[1]) as store:
        print(await globals()[sys.argv[3]](store), *peaks)

asyncio.run(main())
"""


@pytest.mark.parametrize(("how", "events"), [("read", 1_000_000), ("export", 300_000), ("project", 500_000)])
async def test_a_million_events_are_read_in_flat_memory(database, how, events):
    """The peak in the end lies within 8 MiB of the peak after the first hundred thousand."""
    connection = await asyncpg.connect(database, ssl=False)
    await connection.execute(
        f"""insert into eventstore.events (stream_id, version, type, event_id, data)
            select 'a-' || n % 1000, n / 1000 + 1, 'Noted', gen_random_uuid(), jsonb_build_object('n', n, 'text', repeat('x', 60))
            from generate_series(1, {events}) n"""
    )
    await connection.close()

    done = subprocess.run(
        [sys.executable, "-c", START, database, str(events), how], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    count, early, late = map(int, done.stdout.split())
    assert count == events
    unit = 1024 if sys.platform == "linux" else 1
    assert (late - early) * unit < 8 * 2**20, f"{early * unit >> 20} MiB after 100,000, {late * unit >> 20} MiB in the end"
