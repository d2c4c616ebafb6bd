"""Each statement that runs often uses the index that its header names, whatever the planner knows of the tables.

A plan that was made for an empty table is kept by prepared statements; none may be a sequential scan, a sort, a node that
is switched off or a compiled one: on a fresh table, on one that has grown since, and on one of a million rows.
"""

import re

import pytest
from plans import (
    FILES,
    FIRST_MARKS,
    FOLDERS,
    FOLLOW,
    FOLLOWERS,
    FOLLOWING,
    FUNCTIONS,
    GROW,
    MARKS,
    PLAIN,
    READERS,
    READS,
    ROOT,
    TAGGERS,
    TAGGING,
    WRITERS,
    WRITING,
    cold,
    complaints,
    explain,
    function_faults,
    indexes,
    plain_faults,
    prepare,
)

from eventstore._operations.statement import load_sql

pytestmark = pytest.mark.server


def test_each_query_is_tried_here_or_says_why_its_plan_does_not_matter():
    """No file escapes, and no entry is left over."""
    hot = {name for name in FILES if indexes(name)}
    tried = {*PLAIN, *FUNCTIONS}

    assert hot == tried
    assert [name for name in FILES if name not in hot and not cold(name)] == []
    assert [name for name in FILES if name in hot and cold(name)] == []


async def test_a_bad_plan_is_complained_of(sessions):
    """The judge can find a plan guilty of each thing."""
    raw = await sessions({"enable_indexscan": "off", "enable_indexonlyscan": "off"})
    await prepare(raw, "read_log")

    bitmap = list(complaints(await explain(raw, "read_log"), wanted={"events_pkey"}))
    await raw.execute("set enable_bitmapscan = off; deallocate all")
    await prepare(raw, "read_log")
    scan = list(complaints(await explain(raw, "read_log")))
    await raw.execute("set enable_seqscan = off; deallocate all")
    await prepare(raw, "head")
    disabled = list(complaints(await explain(raw, "head")))
    compiled = list(complaints({"Plan": {"Node Type": "Result", "Total Cost": 1.0}, "JIT": {}}))

    assert any(line.startswith("a Bitmap Heap Scan") for line in bitmap)
    assert "does not use events_pkey, but ['events_position_key']" in bitmap
    assert {"scans events from end to end", "a Sort"} <= set(scan)
    assert any(line.startswith("a disabled") for line in disabled)
    assert compiled == ["is compiled (JIT)"]


@pytest.mark.parametrize(
    ("settings", "queries"),
    [(READERS, READS), (FOLLOWERS, FOLLOWING), (WRITERS, WRITING), (TAGGERS, TAGGING)],
    ids=["reads", "following", "writing", "tagging"],
)
async def test_a_statement_keeps_to_its_index_while_the_tables_grow(sessions, settings, queries):
    """Prepared while they are empty, with a generic plan, and never again."""
    raw = await sessions(settings)
    for name in queries:
        await prepare(raw, name)
    fresh = await plain_faults(raw, queries)
    await raw.execute(GROW, 0, 20_000)
    for sql in FOLLOW:
        await raw.execute(sql)

    assert fresh == []
    assert await plain_faults(raw, queries) == []


async def test_a_read_keeps_to_its_index_on_a_table_of_one_page(sessions):
    """Where the planner knows that to scan it is cheapest: the plan outlives the page."""
    raw = await sessions(READERS)
    await raw.execute(GROW, 0, 10)
    await raw.execute("analyze eventstore.events")
    for name in READS:
        await prepare(raw, name)

    assert await plain_faults(raw, READS) == []


def test_a_boundary_is_read_by_one_text():
    """On connections of the library's own, and in the function for all others."""
    own = load_sql(FOLDERS[0], "read_boundary_own")
    for n, name in enumerate(("of_tenant", "asked_tags", "item_tags", "item_types"), 1):
        own = re.sub(rf"\${n}::text(\[\])?", name, own)
    function = load_sql(ROOT / "eventstore/sql/schema", "14_boundary_v1")

    assert " ".join(own.split()) in " ".join(function.split())


async def test_functions_keep_to_their_indexes_while_the_tables_grow(sessions):
    """Called first while they are next to empty, so that their inner plans are of that time."""
    raw = await sessions({"plan_cache_mode": "force_generic_plan"})
    await raw.execute(FIRST_MARKS)
    fresh = await function_faults(raw, FUNCTIONS)
    await raw.execute(GROW, 2000, 20_000)
    await raw.execute(MARKS)

    assert fresh == []
    assert await function_faults(raw, FUNCTIONS) == []
