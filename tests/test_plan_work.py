"""What the hot statements cost: at a million rows, and among entries of an index that lead to nothing any more."""

import asyncio

import pytest
from plans import (
    FIRST_MARKS,
    FOLLOW,
    FOLLOWERS,
    FOLLOWING,
    FUNCTIONS,
    GROW,
    INNER,
    MARKS,
    READERS,
    READS,
    TABLES,
    explain,
    function_faults,
    indexes,
    plain_faults,
    prepare,
)

pytestmark = pytest.mark.server

DEAD = 200_000
DEAD_ROWS = """insert into eventstore.events (stream_id, version, type, event_id, data)
               select 'a-7', 1000 + n, 'T', gen_random_uuid(), '{}' from generate_series(1, $1::int) n"""
STREAM = ("stream_version", "read_stream", "read_stream_backwards", "known_ids")
ENDS = {**dict.fromkeys(STREAM), "head": None, "newest_upto": "1000000000", "advance": "20000, 10000"}
"""Arguments with which a query comes to the end of the log, or of the stream; None: its usual ones."""

LEAF_ENTRIES = 200
"""A page of an index holds more (measured: 365 of events_position_key, 260 of events_pkey)."""


async def blocks(raw, name, arguments=None):
    """How many pages an execution looks at."""
    plan = (await explain(raw, name, arguments=arguments, analyze=True))["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


async def test_a_million_rows_change_no_plan(sessions):
    """With no statistics at all, and with those of ANALYZE; and no read looks at more than its rows' pages."""
    maker, reader, follower = await sessions({}), await sessions(READERS), await sessions(FOLLOWERS)
    await maker.execute(GROW, 0, 1_000_000)
    for sql in (*FOLLOW, FIRST_MARKS, MARKS):
        await maker.execute(sql)

    faults = []
    for statistics in ("absent", "present"):
        if statistics == "present":
            await maker.execute("vacuum analyze eventstore.events, eventstore.time_marks")
            await maker.execute("analyze eventstore.checkpoints, eventstore.leases, eventstore.daemons")
        for raw, queries in ((reader, READS), (follower, FOLLOWING)):
            await raw.execute("deallocate all")
            for name in queries:
                await prepare(raw, name)
            faults += [f"{statistics}: {fault}" for fault in await plain_faults(raw, queries)]
        faults += [f"{statistics}: {fault}" for fault in await function_faults(maker, FUNCTIONS)]
    looked_at = {name: await blocks(reader, name) for name in READS}

    assert faults == []
    assert {name: pages for name, pages in looked_at.items() if pages > 1100} == {}


async def test_rolled_back_inserts_are_walked_over_once(sessions):
    """The first look marks their index entries as dead; from then on index pages alone are read, until a vacuum.

    Measured with 200,000 at the log's head and in one stream: 3,200 pages and 35 ms, then 550 and 0.6 ms, then 6.
    """
    maker, reader = await sessions({}), await sessions(READERS)
    await maker.execute(GROW, 0, 20_000)
    for name in ENDS:
        await prepare(reader, name)
    clean = {name: await blocks(reader, name, arguments) for name, arguments in ENDS.items()}
    transaction = maker.transaction()
    await transaction.start()
    await maker.execute(DEAD_ROWS, DEAD)
    await transaction.rollback()

    for name in ("head", "stream_version"):
        await blocks(reader, name)
    marked = {name: await blocks(reader, name, arguments) for name, arguments in ENDS.items()}
    faults = await plain_faults(reader, ENDS)
    await maker.execute("vacuum eventstore.events")
    vacuumed = {name: await blocks(reader, name, arguments) for name, arguments in ENDS.items()}

    assert faults == []
    assert max(clean.values()) < 30
    assert max(marked.values()) < DEAD / LEAF_ENTRIES
    assert max(vacuumed.values()) < 40


async def test_rows_under_way_are_looked_at_by_who_goes_to_the_end_alone(sessions):
    """A batch up to a settled position sees nothing of an import that has not committed; the head walks over its rows.

    And so does the look for holes. Measured with 200,000 rows: 3,200 pages and 20 to 50 ms a look.
    """
    maker, reader = await sessions({}), await sessions(READERS)
    await maker.execute(GROW, 0, 20_000)
    for name in ("read_log", "read_log_filtered", "event_id_at", "newest_upto", "head", "advance"):
        await prepare(reader, name)
    clean = await blocks(reader, "read_log", "19000, 20000, 1000")
    transaction = maker.transaction()
    await transaction.start()
    await maker.execute(DEAD_ROWS, DEAD)

    settled = {
        "read_log": await blocks(reader, "read_log", "19000, 20000, 1000"),
        "read_log_filtered": await blocks(reader, "read_log_filtered", "19000, 20000, 1000, '{T}', null"),
        "newest_upto": await blocks(reader, "newest_upto", "20000"),
        "event_id_at": await blocks(reader, "event_id_at", "20000"),
    }
    ends = {"head": await blocks(reader, "head"), "advance": await blocks(reader, "advance", "20000, 10000")}
    await transaction.rollback()

    assert max(settled.values()) <= clean + 5
    assert max(ends.values()) < DEAD / 50


async def nothing_older(raw):
    """Wait until every transaction of today has ended, in the other tests' databases too: each holds back all pruning."""
    newest = await raw.fetchval("select pg_current_xact_id()::text::bigint")
    async with asyncio.timeout(60):
        while await raw.fetchval("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint") <= newest:
            await raw.execute("select pg_current_xact_id()")
            await asyncio.sleep(0.1)


async def test_a_held_snapshot_costs_followers_a_page_for_many_updates_and_nothing_afterwards(sessions):
    """Each look walks through the versions that it keeps alive, by the index; the first one after it is gone cleans up.

    Measured with 20,000 batches: 150 pages and 0.4 ms a look, then 3.
    """
    maker, follower, holder = await sessions({}), await sessions(FOLLOWERS), await sessions({})
    for sql in FOLLOW:
        await maker.execute(sql)
    for name in FOLLOWING:
        await prepare(follower, name)
    clean = {name: await blocks(follower, name) for name in FOLLOWING}
    updates = 5_000
    await maker.execute("set synchronous_commit = off")
    snapshot = holder.transaction(isolation="repeatable_read")
    await snapshot.start()
    await holder.fetchval("select count(*) from eventstore.checkpoints")
    for sql in (
        "update eventstore.checkpoints set position = position + 1 where follower = 'f-7'",
        "update eventstore.leases set taken_at = clock_timestamp() where follower = 'f-7'",
    ):
        await maker.execute(f"do $$ begin for i in 1..{updates} loop {sql}; commit; end loop; end $$")

    held = {name: await blocks(follower, name) for name in FOLLOWING}
    await maker.execute("analyze eventstore.checkpoints, eventstore.leases, eventstore.daemons")
    faults = await plain_faults(follower, FOLLOWING)
    await snapshot.rollback()
    await nothing_older(maker)
    released = {name: await blocks(follower, name) for name in FOLLOWING}  # prunes what no snapshot can see any more
    released = {name: await blocks(follower, name) for name in FOLLOWING}

    assert faults == []
    assert max(held.values()) < updates / 50
    assert max(released.values()) <= max(clean.values()) + 5


async def scans(raw, call, index):
    """Run a call; return how often tables of ours were scanned from end to end, and how often the index was used."""
    async with raw.transaction():
        await raw.execute(f"select from eventstore.{call}")
        whole = await raw.fetchval(
            "select sum(seq_scan) from pg_stat_xact_user_tables where relname = any($1::text[])", sorted(TABLES)
        )
        return whole, await raw.fetchval("select pg_stat_get_xact_numscans(('eventstore.' || $1)::regclass)", index)


@pytest.mark.parametrize(("name", "least"), [("append", 50), ("as_of", 1), ("publish_mark", 1)])
@pytest.mark.parametrize("rows", [0, 20_000])
async def test_a_function_that_was_planned_on_empty_tables_uses_its_indexes(sessions, name, least, rows):
    """As the server counts, not as it explains: 50 streams are 50 look-ups in the primary key."""
    maker, raw = await sessions({}), await sessions({"plan_cache_mode": "force_generic_plan"})
    await maker.execute(FIRST_MARKS)
    async with raw.transaction():
        await raw.execute("select from eventstore." + FUNCTIONS[name].replace("'a-'", "'warm-'"))
    await maker.execute(GROW, 2000, 2000 + rows)
    if rows:
        await maker.execute(MARKS)

    for index in sorted(indexes(name)):
        whole, used = await scans(raw, FUNCTIONS[name], index)
        assert whole == 0, INNER[name]
        assert used >= least
