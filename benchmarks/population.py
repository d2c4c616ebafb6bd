"""A log as it grows in use: many streams alive at a time, whose names are UUIDs, each growing in its turn.

So a stream's events lie on as many pages of the table, and the key's index has grown row by row, by splits. (The log of
`sample.fill` has whole streams one after the other: good for readers of the log, too good for readers of streams.)
"""

import asyncio
import hashlib
import uuid

from .sample import ACCOUNTS, NOTE

LENGTH = 100
"""Events of a stream."""

ALIVE = 5_000
"""Streams that grow at the same time: their pages of the index fit into 128 MB of shared buffers."""

STATEMENT_SECONDS = 600

_GROW = f"""
    insert into eventstore.events (stream_id, version, type, event_id, data)
    select 'account-' || md5(($1::bigint + n % $2::bigint)::text)::uuid, n / $2::bigint + 1, 'Deposited', gen_random_uuid(),
           jsonb_build_object('account', 'account-' || n % {ACCOUNTS}, 'amount', n, 'note', '{NOTE}')
    from generate_series(0, $2::bigint * {LENGTH} - 1) n"""


async def populate(connections, rows):
    """Bring a log to so many rows, a multiple of the length of a stream, over several connections at once; vacuum it.

    Args:
        connections: each fills with streams of its own.
        rows: in the end; what is there was filled in the same way.
    """
    there = await connections[0].fetchval("select count(*) from eventstore.events")
    streams = rows // LENGTH
    windows = iter(range(there // LENGTH, streams, ALIVE))

    async def grow(connection):
        for first in windows:
            await connection.execute(_GROW, first, min(ALIVE, streams - first), timeout=STATEMENT_SECONDS)

    await asyncio.gather(*map(grow, connections))
    await connections[0].execute("vacuum (analyze) eventstore.events", timeout=STATEMENT_SECONDS)


def stream_name(number):
    """The name of a stream that `populate` has made."""
    return f"account-{uuid.UUID(hashlib.md5(str(number).encode()).hexdigest())}"
