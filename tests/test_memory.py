"""Reading a million events takes no more memory than reading a hundred thousand."""

import subprocess
import sys

import asyncpg
import pytest

pytestmark = [pytest.mark.server, pytest.mark.soak]

READ = """
import asyncio, resource, sys
from eventstore import Event, EventStore

class Noted(Event):
    n: int
    text: str

async def main():
    async with EventStore(sys.argv[1]) as store:
        count, peaks = 0, []
        async for recorded in store.read_all():
            count += 1
            assert recorded.data.n == recorded.position
            if count in (100_000, 1_000_000):
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        print(count, *peaks)

asyncio.run(main())
"""


async def test_a_million_events_are_read_in_flat_memory(database):
    """The peak after a million lies within 8 MiB of the peak after the first tenth."""
    connection = await asyncpg.connect(database, ssl=False)
    await connection.execute(
        """insert into eventstore.events (stream_id, version, type, event_id, data)
           select 'a-' || n % 1000, n / 1000 + 1, 'Noted', gen_random_uuid(), jsonb_build_object('n', n, 'text', repeat('x', 60))
           from generate_series(1, 1000000) n"""
    )
    await connection.close()

    done = subprocess.run([sys.executable, "-c", READ, database], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    count, early, late = map(int, done.stdout.split())
    assert count == 1_000_000
    unit = 1024 if sys.platform == "linux" else 1
    assert (late - early) * unit < 8 * 2**20, f"{early * unit >> 20} MiB after a tenth, {late * unit >> 20} MiB in the end"
