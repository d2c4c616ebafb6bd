"""Each hot statement uses the index that its header names: on a fresh table, and on one that has grown since.

A plan that was made for an empty table is kept by prepared statements; none may be a sequential scan then.
"""

import re
from pathlib import Path

import pytest

from eventstore import Event, EventStore
from eventstore._drivers.asyncpg import READER_SETTINGS
from eventstore.spi import connect

pytestmark = pytest.mark.server

ROOT = Path(__file__).parent.parent
QUERIES = ROOT / "eventstore/sql/queries"
ARGUMENTS = {
    "read_stream": ("text, text, bigint, bigint, int", "'', 'a-7', 0, 100, 100"),
    "read_stream_backwards": ("text, text, bigint, bigint, int", "'', 'a-7', 0, 100, 100"),
    "read_log": ("bigint, bigint, int", "100, 100000, 1000"),
    "read_log_filtered": ("bigint, bigint, int, text[], text[]", "100, 100000, 1000, '{T}', null"),
    "head": ("", ""),
    "stream_version": ("text, text", "'', 'a-7'"),
    "newest_upto": ("bigint", "7"),
    "event_id_at": ("bigint", "7"),
    "advance": ("bigint, int", "100, 1000"),
    "known_ids": ("text, text[]", "'', '{a-7,a-8}'"),
}


class T(Event):
    pass


async def grow(raw, start, count):
    await raw.execute(
        """insert into eventstore.events (stream_id, version, type, event_id, data)
           select 'a-' || n % 2000, n / 2000 + 1, 'T', gen_random_uuid(), '{}' from generate_series($1::int, $2::int) n""",
        start,
        start + count - 1,
    )


async def plan_of(raw, name):
    _, arguments = ARGUMENTS[name]
    rows = await raw.fetch(f"explain execute p_{name}" + (f" ({arguments})" if arguments else ""))
    return "\n".join(row[0] for row in rows)


@pytest.fixture
async def reader(database):
    async with EventStore(database) as store:
        connection = await connect(store, "test", {**READER_SETTINGS, "plan_cache_mode": "force_generic_plan"})
        await connection.raw.execute("alter table eventstore.events set (autovacuum_enabled = off)")
        yield connection.raw
        await connection.close()


@pytest.mark.parametrize("name", ARGUMENTS)
async def test_a_read_uses_its_index_on_a_fresh_and_on_a_grown_table(reader, name):
    """Prepared while the table is empty, with a generic plan, and never again."""
    text = (QUERIES / f"{name}.sql").read_text()
    (index,) = re.findall(r"Index: (\w+)", text)
    types, _ = ARGUMENTS[name]
    body = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    await reader.execute(f"prepare p_{name}" + (f" ({types})" if types else "") + f" as {body}")
    for rows in (0, 20_000):
        if rows:
            await grow(reader, 0, rows)
        plan = await plan_of(reader, name)
        assert index in plan, plan
        assert "Seq Scan on events" not in plan, plan
        assert "Bitmap" not in plan, plan
        if name.startswith("read_log"):
            assert "Sort" not in plan, plan


async def inside(raw, function, index_reads):
    """Run something; return how often the table was scanned from end to end, and how often the index was used."""
    sql = """select s.seq_scan, s.seq_tup_read, i.idx_scan from pg_stat_xact_user_tables s
             join pg_stat_user_indexes i0 on i0.relid = s.relid and i0.indexrelname = $1
             join lateral (select pg_stat_get_xact_numscans(i0.indexrelid) as idx_scan) i on true
             where s.relid = 'eventstore.events'::regclass"""
    async with raw.transaction():
        await function()
        return await raw.fetchrow(sql, index_reads)


@pytest.mark.parametrize("rows", [0, 20_000])
async def test_an_append_looks_heads_up_in_the_primary_key(database, rows):
    """Called first while the table is empty, so that its inner plans are of that time; then on the grown table."""
    call = """select * from eventstore.append_v1(array_fill(''::text, array[50]), array(select 'a-' || n from generate_series(1, 50) n),
        array_fill(-1::bigint, array[50]), array(select generate_series(1, 50)), array_fill(1, array[50]), array_fill('T'::text, array[50]),
        array_fill(1::smallint, array[50]), array(select gen_random_uuid() from generate_series(1, 50)), array_fill(null::text, array[50]),
        array_fill(null::uuid, array[50]), array_fill(null::timestamptz, array[50]), array_fill('{}'::jsonb, array[50]),
        array_fill('{}'::jsonb, array[50]))"""
    async with EventStore(database) as store:
        connection = await connect(store, "test", {"plan_cache_mode": "force_generic_plan"})
        raw = connection.raw
        await raw.execute("alter table eventstore.events set (autovacuum_enabled = off)")
        await raw.fetch(call.replace("'a-'", "'warm-'"))
        if rows:
            await grow(raw, 2000, rows)
        scans = await inside(raw, lambda: raw.fetch(call), "events_pkey")
        await connection.close()

    assert scans["seq_scan"] == 0
    assert scans["idx_scan"] >= 50


async def test_as_of_reads_marks_by_their_key_and_events_by_position(database):
    """Even where the planner knows nothing of the tables."""
    async with EventStore(database) as store:
        connection = await connect(store, "test", {"plan_cache_mode": "force_generic_plan"})
        raw = connection.raw
        await raw.fetch("select eventstore.as_of_v1(now())")
        await grow(raw, 0, 20_000)
        await raw.fetch("select eventstore.publish_mark_v1(20000, now() + interval '1 hour', true)")
        scans = await inside(raw, lambda: raw.fetch("select eventstore.as_of_v1(now())"), "events_position_key")
        await connection.close()

    assert scans["seq_scan"] == 0
    assert scans["idx_scan"] == 1
