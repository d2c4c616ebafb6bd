"""Appends and loads on logs of 100,000 to 20 million rows, each as a share of its own rate at 100,000.

The streams have 100 events; 5,000 of them grow at a time, an event each in turn, and their names are UUIDs: so a stream's
events lie on as many pages of the table, and each stream somewhere else in the key's index. Appends come from 32 callers. After
a checkpoint each page of an index is written ahead as a whole when it is first changed: an append to a random stream of a
large log pays for that nearly every time, which is what the bytes written ahead show. pgbench pays it too. With `--full` the private
server has a quarter of the machine's memory for its buffers, as PostgreSQL's manual recommends: the key's index fits into them.
"""

import os
import random
import uuid

from eventstore import ANY, NO_STREAM, EventStore

from .. import calling, pgbench
from ..core import Goal
from ..population import LENGTH, populate, stream_name
from ..sample import event
from ..series import Series

ROWS = (100_000, 1_000_000)
FULL_ROWS = (*ROWS, 5_000_000, 20_000_000)
QUICK_ROWS = (1_000, 3_000)

CALLERS = 32
HOT_STREAMS = 8

ROW_BYTES = 400
"""Of one event with its indexes; each is on the disk twice, in the template and in the clone."""

SPARE_BYTES = 4 * 2**30
"""For the log of changes."""

PGBENCH_SCRIPT = """\\set n random(0, :streams - 1)
\\set version random(1000000, 1000000000000000)
insert into eventstore.events (stream_id, version, type, event_id, data)
values ('account-' || md5(:n::text)::uuid, :version, 'Deposited', gen_random_uuid(), :data::text::jsonb) returning position;
"""
"""The version is any: it lies beside the stream's head in the index, and nobody has to look for that."""


def series(scale):
    """Loads first, since appends make streams longer; pgbench last, since its versions leave holes."""
    rows = scale.pick(FULL_ROWS if scale.full else ROWS, QUICK_ROWS)
    goals = (Goal("20M", 0.9),) if scale.full and not scale.quick else ()
    works = (
        ("load", f"loading a stream of {LENGTH} events", load, "loads/s", ()),
        ("random", f"append to random streams, {CALLERS} callers", append_to_random, "appends/s", goals),
        ("hot", f"append to {HOT_STREAMS} hot streams, {CALLERS} callers", append_to_hot, "appends/s", ()),
        ("new", f"append to new streams, {CALLERS} callers", append_to_new, "appends/s", ()),
        ("pgbench", f"pgbench's INSERT into random streams, {CALLERS} clients", insert, "appends/s", ()),
    )
    for name, title, run, unit, goals in works:
        yield Series(
            topic="growth",
            key=f"growth.{name}",
            title=title,
            run=run,
            rows=rows,
            fill=populate,
            seconds=scale.pick(5.0, 0.3),
            warmup=scale.pick(1.0, 0.1),
            unit=unit,
            goals=goals,
            shared_buffers=f"{_quarter_of_memory()}MB" if scale.full and not scale.quick else "",
            disk_bytes=2 * ROW_BYTES * sum(rows) + SPARE_BYTES,
            missing=pgbench.missing if run is insert else str,
        )


def _quarter_of_memory():
    """In MiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 // 4


async def load(arena, seconds, rows):
    """`EventStore.read_stream` of a random stream, typed, one after the other."""
    async with EventStore(arena.dsn) as store:

        async def call(_caller, _n):
            events = [recorded.data async for recorded in store.read_stream(_any_stream(rows))]
            if len(events) != LENGTH:
                raise RuntimeError(f"expected a stream of {LENGTH} events, got {len(events)}")

        return await calling.measure(arena.meter, 1, seconds, call)


async def append_to_random(arena, seconds, rows):
    """Another stream each time, of those that are there."""
    return await _appends(arena, seconds, lambda _caller: _any_stream(rows))


async def append_to_hot(arena, seconds, rows):
    """A few of those that are there."""
    hot = [_any_stream(rows) for _ in range(HOT_STREAMS)]
    return await _appends(arena, seconds, lambda caller: hot[caller % HOT_STREAMS])


async def append_to_new(arena, seconds, _rows):
    """A stream that is not there, and is expected not to be."""
    return await _appends(arena, seconds, lambda _caller: f"account-{uuid.uuid4()}", expect=NO_STREAM)


async def insert(arena, seconds, rows):
    """What PostgreSQL itself loses."""
    variables = {"streams": rows // LENGTH, "data": event(1).model_dump_json()}
    return await pgbench.run(arena, PGBENCH_SCRIPT, variables, CALLERS, seconds)


async def _appends(arena, seconds, stream, expect=ANY):
    async with EventStore(arena.dsn) as store:

        async def call(caller, n):
            await store.append(stream(caller), event(n), expect=expect)

        return await calling.measure(arena.meter, CALLERS, seconds, call)


def _any_stream(rows):
    return stream_name(random.randrange(rows // LENGTH))
