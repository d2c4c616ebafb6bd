"""One event an append, from 1, 8, 32 and 256 callers at once.

Every contestant commits each event in a transaction of its own, with the server's fsync. A caller appends ten events to a
stream of its own, one after the other, then goes on with its next stream.
"""

import asyncio
import functools
import uuid

from eventstore import EventStore

from .. import calling, pgbench, recorder
from ..core import OURS, Contest, Contestant, Goal
from ..sample import event

CALLERS = (1, 8, 32, 256)
MOST_CONNECTIONS = 32
"""What DESIGN compares with: pgbench and eventsourcing at 32, also for 256 callers."""

STREAM_LENGTH = 10

GOALS = {
    1: (Goal("asyncpg", 0.9),),
    32: (Goal("eventsourcing", 20), Goal("pgbench", 1.5)),
    256: (Goal("eventsourcing", 28), Goal("pgbench", 2)),
}

INSERT = """insert into eventstore.events (stream_id, version, type, event_id, data)
            values ($1, $2, 'Deposited', $3, $4::text::jsonb) returning position"""
"""The same row: the columns that are not named get by default what ours sends. Fewer parameters make the floor stricter."""

PGBENCH_SCRIPT = f"""\\set n :n + 1
insert into eventstore.events (stream_id, version, type, event_id, data)
values ('bench-' || :mark::text || '-' || :client_id::text || '-' || (:n::bigint / {STREAM_LENGTH})::text,
        :n::bigint % {STREAM_LENGTH} + 1, 'Deposited', gen_random_uuid(), :data::text::jsonb) returning position;
"""


def contests(scale):
    """One contest for each number of callers."""
    for callers in CALLERS:
        clients = min(callers, MOST_CONNECTIONS)
        yield Contest(
            topic="append",
            key=f"append.{callers}",
            title=f"one event an append, {callers} caller{'s' if callers > 1 else ''}",
            contestants=(
                Contestant(OURS, functools.partial(ours, callers=callers)),
                Contestant("asyncpg", functools.partial(bare, callers=callers)),
                Contestant("pgbench", functools.partial(raw, clients=clients), pgbench.missing),
                Contestant("eventsourcing", functools.partial(eventsourcing, threads=clients), recorder.missing),
            ),
            size=scale.pick(4.0, 0.3),
            warmup=scale.pick(0.5, 0.1),
            goals=GOALS.get(callers, ()),
        )


async def ours(arena, seconds, callers):
    """`EventStore.append`, with the connections that a store opens by default."""
    token = arena.token()
    async with EventStore(arena.dsn) as store:

        async def append(caller, n):
            stream_id = f"bench-{token}-{caller}-{n // STREAM_LENGTH}"
            await store.append(stream_id, event(n), expect=n % STREAM_LENGTH)

        return await calling.measure(arena.meter, callers, seconds, append)


async def bare(arena, seconds, callers):
    """One prepared INSERT a call; above 32 callers these share 32 connections, without a pool's own statements."""
    token = arena.token()
    connections = [await arena.connect() for _ in range(min(callers, MOST_CONNECTIONS))]
    free = [await connection.prepare(INSERT) for connection in connections]
    turn = asyncio.Semaphore(len(free))  # fair, as a queue is not: who has just put something back would take it again

    async def append(caller, n):
        async with turn:
            statement = free.pop()
            stream_id = f"bench-{token}-{caller}-{n // STREAM_LENGTH}"
            await statement.fetchval(stream_id, n % STREAM_LENGTH + 1, uuid.uuid4(), event(n).model_dump_json())
            free.append(statement)

    try:
        return await calling.measure(arena.meter, callers, seconds, append)
    finally:
        for connection in connections:
            await connection.close()


async def raw(arena, seconds, clients):
    """The same INSERT by PostgreSQL's own load generator: no Python anywhere."""
    variables = {"n": "-1", "mark": arena.token(), "data": event(1).model_dump_json()}
    return await pgbench.run(arena, PGBENCH_SCRIPT, variables, clients, seconds)


async def eventsourcing(arena, seconds, threads):
    """The recorder that orders its log, called by as many threads as it has connections."""
    log = await asyncio.to_thread(recorder.Recorder, arena.dsn, threads)
    streams = [None] * threads

    def call(thread, n):
        if n % STREAM_LENGTH == 0:
            streams[thread] = uuid.uuid4()
        log.insert(streams[thread], n % STREAM_LENGTH + 1, event(n).model_dump_json())

    sample = await calling.threads(arena.meter, threads, seconds, call)
    log.close()
    return sample
