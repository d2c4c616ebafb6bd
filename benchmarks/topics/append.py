"""One event an append, from 1, 8, 32 and 256 callers at once.

Every contestant commits each event in a transaction of its own, with the server's fsync. A caller appends ten events to a
stream of its own, one after the other, then goes on with its next stream. Callers run for some time before the clock starts;
counted are the calls that end while it runs.
"""

import asyncio
import functools
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from eventstore import EventStore

from .. import pgbench, recorder
from ..core import OURS, Contest, Contestant, Goal
from ..sample import event

CALLERS = (1, 8, 32, 256)
MOST_CONNECTIONS = 32
"""What DESIGN compares with: pgbench and eventsourcing at 32, also for 256 callers."""

LEAD_SECONDS = 0.3
STREAM_LENGTH = 10

GROUP_COMMIT = "group commit"
"""Goals at many callers cannot be met before it is built; empty this then."""

GOALS = {
    1: (Goal("asyncpg", 0.9),),
    32: (Goal("eventsourcing", 20, GROUP_COMMIT), Goal("pgbench", 1.5, GROUP_COMMIT)),
    256: (Goal("eventsourcing", 28, GROUP_COMMIT), Goal("pgbench", 2, GROUP_COMMIT)),
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

        return await _tasks(arena, callers, seconds, append)


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
        return await _tasks(arena, callers, seconds, append)
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
    calls, stopped = [], asyncio.Event()

    def call():
        n = 0
        while not stopped.is_set():
            if n % STREAM_LENGTH == 0:
                stream_id = uuid.uuid4()
            begun = time.perf_counter()
            log.insert(stream_id, n % STREAM_LENGTH + 1, event(n).model_dump_json())
            calls.append(time.perf_counter() - begun)
            n += 1

    with ThreadPoolExecutor(threads) as pool:
        tasks = [asyncio.wrap_future(pool.submit(call)) for _ in range(threads)]
        sample = await _window(arena, seconds, tasks, calls, stopped)
    log.close()
    return sample


async def _tasks(arena, callers, seconds, append):
    """Let callers append, each one event after the other, until time is up."""
    calls, stopped = [], asyncio.Event()

    async def call(caller):
        n = 0
        while not stopped.is_set():
            begun = time.perf_counter()
            await append(caller, n)
            calls.append(time.perf_counter() - begun)
            n += 1

    tasks = [asyncio.create_task(call(caller)) for caller in range(callers)]
    return await _window(arena, seconds, tasks, calls, stopped)


async def _window(arena, seconds, tasks, calls, stopped):
    """Measure from the end of the lead on; `calls` grows by the latency of each call that has ended."""
    try:
        await _unless_one_fails(tasks, min(LEAD_SECONDS, seconds))
        before, meter = len(calls), arena.meter()
        await _unless_one_fails(tasks, seconds)
        after = len(calls)
        sample = meter.stop(after - before, calls[before:after])
    finally:
        stopped.set()
        await asyncio.wait(tasks)
    for task in tasks:
        task.result()
    return sample


async def _unless_one_fails(tasks, seconds):
    """Wait; a caller that ends before it is told to has failed."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
