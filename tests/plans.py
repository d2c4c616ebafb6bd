"""The statements that run often, what they are run with, and what is wrong with a plan."""

import json
import re
from pathlib import Path

import asyncpg

from eventstore._drivers.budget import READER_SETTINGS, WRITER_SETTINGS
from eventstore._operations.statement import load_sql
from projections.runner import CONNECTION_SETTINGS

ROOT = Path(__file__).parent.parent
FOLDERS = (ROOT / "eventstore/sql/queries", ROOT / "projections/sql/queries")
FILES = {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.sql"))}

EAGER = {"plan_cache_mode": "force_generic_plan", "jit_above_cost": "0"}
"""A plan made without the parameters must do as well; and a server may compile whatever it is not told not to."""

READERS = {**READER_SETTINGS, **EAGER}
FOLLOWERS = {**CONNECTION_SETTINGS, **EAGER}
WRITERS = {**WRITER_SETTINGS, "jit_above_cost": "0"}
TAGGERS = {**dict(re.findall(r"set_config\('(\w+)', '(\w+)', true\)", load_sql(FOLDERS[0], "lock_tags"))), **EAGER}

SOMEBODY = "00000000-0000-0000-0000-000000000001"

BOUNDARY = "'', '{t:1,t:2,t:3}', array[e't:1\\x01t:2', 't:3'], array['T', null]"
STREAM = ("varchar, varchar, bigint, bigint, int", "'', 'a-7', 0, 1000000, 100")
FOLLOWER = ("text, int", "'f-7', 0")

READS = {
    "read_stream": STREAM,
    "read_stream_backwards": STREAM,
    "read_log": ("bigint, bigint, int", "100, 100000, 1000"),
    "read_log_filtered": ("bigint, bigint, int, text[], text[]", "100, 100000, 1000, '{T}', null"),
    "head": ("", ""),
    "stream_version": ("varchar, varchar", "'', 'a-7'"),
    "newest_upto": ("bigint", "7"),
    "event_id_at": ("bigint", "7"),
    "event_at": ("bigint", "7"),
    "read_log_tagged": (
        "bigint, bigint, int, varchar, text[], text[], text[], varchar",
        "100, 100000, 1000, 't:7', '{t:8,t:9}', null, null, ''",
    ),
    "events_between": ("varchar, varchar, bigint, bigint", "'', 'a-7', 0, 5"),
    "find_request": ("text, text", "'', 'r-7'"),
    "advance": ("bigint, int", "100, 1000"),
    "known_ids": ("text, text[]", "'', '{a-7,a-8}'"),
    "read_boundary_own": ("varchar, text[], text[], text[]", BOUNDARY),
    "missing_tags": ("text[], text[], bigint[]", "'{\"\",\"\"}', '{t:7,t:8}', '{7,8}'"),
}
"""Of the log, with the settings of readers: types of the parameters, and arguments."""

UNORDERED = {"known_ids"}
"""Reads that take all they find, in any order: a bitmap will do."""

SORTING = {
    "append_group",
    "append",
    "append_tagged",
    "append_tagged_one",
    "read_boundary",
    "read_boundary_own",
    "note_tags",
    "add_tags",
}
"""Sort what they are given, or what they have found, never what is stored."""

FOLLOWING = {
    "lock_checkpoint": FOLLOWER,
    "read_checkpoint": FOLLOWER,
    "begin_batch": ("text, int, bigint, bigint, bigint", "'f-7', 0, 7, 0, 0"),
    "save_checkpoint": ("text, int, bigint, bigint", "'f-7', 0, 7, 0"),
    "read_lease": FOLLOWER,
    "end_backend": ("text, int, uuid", f"'f-7', 0, '{SOMEBODY}'"),
    "heartbeat": ("uuid, text, float", f"'{SOMEBODY}', 'n', 30"),
}
"""Of checkpoints, leases and heartbeats, with the settings of followers."""

NAMES = r"\x01".join(f"a-{n}" for n in range(50))
TYPES = r"\x01".join("T" * 50)
IDS = ",".join(f"'00000000-0000-0000-0000-{n:012}'" for n in range(50))
DOCUMENTS = ",".join(["{}"] * 50)

WRITING = {
    "append_group": (
        "text, text, bigint[], int[], text, uuid[], text, text, text, smallint[], int[], uuid[], timestamptz[]",
        f"e'{NAMES}', null, array_fill(-1::bigint, array[50]), null, e'{TYPES}', array[{IDS}]::uuid[], null, "
        f"'[{DOCUMENTS}]', null, null, null, null, null",
    ),
    "append_one": (
        "text, text, bigint, text, uuid, text, text, smallint, text, uuid, timestamptz",
        "'', 'a-7', -1, 'T', gen_random_uuid(), '{}', '{}', 1, null, null, null",
    ),
    "prune_requests": ("float, int", "60, 10"),
}
"""Of appends, with the settings of writers."""

TAGGING = {
    "note_tags": ("bigint", "100"),
    "add_tags": ("text[], text[], bigint[], text[]", "'{\"\",\"\"}', '{t:7,t:8}', '{7,8}', '{T,T}'"),
}
"""Of imports and back-fills, with the settings that lock_tags.sql gives the rest of their transaction."""

PLAIN = {**READS, **FOLLOWING, **WRITING, **TAGGING}

ARRAYS = {
    "tenants": "(array_fill(''::text, array[50]))",
    "streams": "(array(select 'a-' || n from generate_series(1, 50) n))",
    "expects": "(array_fill(-1::bigint, array[50]))",
    "heads": "(array(select generate_series(1, 50)))",
    "ordinals": "(array_fill(1, array[50]))",
    "types": "(array_fill('T'::text, array[50]))",
    "event_ids": "(array(select gen_random_uuid() from generate_series(1, 50)))",
    "datas": "(array_fill('{}'::text, array[50]))",
    "metadatas": "(null::text[])",
    "schema_versions": "(null::smallint[])",
    "correlation_ids": "(null::text[])",
    "causation_ids": "(null::uuid[])",
    "occurred_ats": "(null::timestamptz[])",
    "request_ids": "(array_fill('r'::text, array[50]))",
    "digests": "(array_fill('x'::bytea, array[50]))",
}
TAGS = {
    "taggings": "(array(select 'u:' || n from generate_series(1, 50) n))",
    "lock_heads": "(array(select generate_series(1, 50)))",
    "lock_tags": "(array(select 'u:' || n from generate_series(1, 50) n))",
    "logs": "(null::text[])",
    "ask_heads": "(array(select generate_series(1, 50)))",
    "ask_tags": "(array(select 't:' || n from generate_series(1, 50) n))",
    "ask_seens": "(array_fill(1000000::bigint, array[50]))",
    "ask_events": "(null::uuid[])",
    "ask_types": "(null::text[])",
    "ask_others": "(array_fill('t:99'::text, array[50]))",
}

REQUESTS = "array(select gen_random_uuid()::text from generate_series(1, 50))"
LOGS = "array(select type::text from eventstore.boundary_v1('', '{t:1}', '{}', '{}'), generate_series(1, 50))"
BEFORE = {name: text for name, text in ARRAYS.items() if name not in ("request_ids", "digests")}
TAGGED = ", ".join({**BEFORE, **TAGS, "logs": LOGS, "request_ids": REQUESTS, "digests": ARRAYS["digests"]}.values())
ONE_TAGGED = ", ".join(
    (
        *("''", "'a-7'", "-1", "'{T}'", "array[gen_random_uuid()]", "'{\"{}\"}'", *["null"] * 5, "'{u:7}'", "'{t:7,u:7}'"),
        "(select type from eventstore.boundary_v1('', '{t:1}', '{}', '{}'))",
        *("'{t:7}'", "'{1000000}'", "null", "null", "'{t:99}'"),
    )
)
ALL = ", ".join({**ARRAYS, "request_ids": REQUESTS}.values())
FUNCTIONS = {
    "append": f"append_v2({ALL}, true, '1s')",
    "append_tagged": f"append_tagged_v1({TAGGED}, false, '1s')",
    "append_tagged_one": f"append_tagged_one_v1({ONE_TAGGED})",
    "read_boundary": f"boundary_v1({BOUNDARY})",
    "as_of": "as_of_v1(now() - interval '1 hour')",
    "publish_mark": "publish_mark_v1(7, clock_timestamp(), true)",
}
"""Those that call a function of ours, with the settings of appends and their own: the call."""

VARIABLES = {
    **ARRAYS,
    **TAGS,
    "of_stream": "'a-7'",
    "expected": "-1::bigint",
    "of_log": "(select type::text from eventstore.boundary_v1('', '{t:1}', '{}', '{}'))",
    "unlocked": "true",
    "asked_tags": "('{t:1,t:2,t:3}'::text[])",
    "of_tenant": "''",
    "item_tags": "(array[e't:1\\x01t:2', 't:3'])",
    "item_types": "(array['T', null])",
    "is_overtaken": "-8",
    "versions": "(array_fill(0::bigint, array[50]))",
    "obtained": "(array_fill(true, array[50]))",
    "is_known": "-5",
    "is_mismatched": "-6",
    "is_contended": "-7",
    "asked": "now()",
    "earlier": "7::bigint",
    "later": "100::bigint",
}
INNER = {
    "append": "append_v2",
    "append_tagged": "append_tagged_v1",
    "append_tagged_one": "append_tagged_one_v1",
    "read_boundary": "boundary_v1",
    "as_of": "as_of_v1",
    "publish_mark": "publish_mark_v1",
}
"""The function that holds the queries that count."""

GROW = """with grown as (
              insert into eventstore.events (stream_id, version, type, event_id, data)
              select 'a-' || n % 2000, n / 2000 + 1, 'T', gen_random_uuid(), '{}' from generate_series($1::int, $2::int - 1) n
              returning position, type)
          insert into eventstore.event_tags (tag, position, type)
          select 't:' || position / 100, position, type from grown where position % 10 = 0"""
FIRST_MARKS = "insert into eventstore.time_marks (at, position) values ('-infinity', 0), ('infinity', 1000000)"
MARKS = """insert into eventstore.time_marks (at, position)
           select now() - (1000 - n) * interval '1 minute', n from generate_series(1, 1000) n"""
FOLLOW = (
    "insert into eventstore.checkpoints (follower) select 'f-' || n from generate_series(1, 1000) n",
    "insert into eventstore.daemons (owner, name, expires_at) select gen_random_uuid(), 'd', now() from generate_series(1, 1000)",
    """insert into eventstore.leases (follower, owner, pid, backend_start)
       select 'f-' || row_number() over (), owner, 1, now() from eventstore.daemons""",
)
"""How the tables grow."""

TABLES = {"events", "time_marks", "checkpoints", "leases", "daemons", "requests", "event_tags"}
DISABLED_COST = 1e10
"""What PostgreSQL 17 and older add to the cost of a node that is switched off."""


def indexes(name):
    """The indexes that a file's header names; none for a cold one."""
    found = re.search(r"Index: ([^.]*)", FILES[name].read_text())
    return set(re.findall(r"\w+_(?:pkey|key|brin|idx)", found[1])) if found else set()


def cold(name):
    """Whether its header says why its plan does not matter."""
    return re.search(r"^-- Cold: \w+", FILES[name].read_text(), re.MULTILINE) is not None


def nodes(plan):
    """A plan's nodes, from above."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def used(plan):
    """The indexes of a plan; the arbiter of an ON CONFLICT is one."""
    return {node["Index Name"] for node in nodes(plan) if "Index Name" in node}.union(
        *(node.get("Conflict Arbiter Indexes", ()) for node in nodes(plan))
    )


def complaints(explained, *, wanted=(), sorts=False, bitmaps=False):
    """What is wrong with an EXPLAIN (FORMAT JSON): one line a fault."""
    plan = explained["Plan"]
    for node in nodes(plan):
        kind = node["Node Type"]
        if kind == "Seq Scan" and node.get("Relation Name") in TABLES:
            yield f"scans {node['Relation Name']} from end to end"
        if kind.startswith("Bitmap") and not bitmaps:
            yield f"a {kind}: neither in order nor from a point on"
        if "Sort" in kind and not sorts:
            yield f"a {kind}"
        if node.get("Disabled") or node["Total Cost"] >= DISABLED_COST:
            yield f"a disabled {kind}"
    if "JIT" in explained:
        yield "is compiled (JIT)"
    for index in sorted(set(wanted) - used(plan)):
        yield f"does not use {index}, but {sorted(used(plan))}"


async def prepare(raw, name):
    """Prepare a query, as a driver does; its generic plan is made at the first EXPLAIN."""
    types = PLAIN[name][0]
    await raw.execute(f"prepare p_{name}" + (f" ({types})" if types else "") + f" as {load_sql(FILES[name].parent, name)}")


async def explain(raw, name, *, arguments=None, analyze=False):
    """The plan that the prepared query is executed with. With `analyze` it is executed, and rolled back."""
    arguments = PLAIN[name][1] if arguments is None else arguments
    options = "analyze, buffers, " if analyze else ""
    transaction = raw.transaction()
    await transaction.start()
    try:
        text = await raw.fetchval(
            f"explain ({options}format json) execute p_{name}" + (f" ({arguments})" if arguments else "")
        )
    finally:
        await transaction.rollback()
    return json.loads(text)[0]


async def inner_plans(raw, function):
    """The plans of the queries in a function of ours, under the function's own settings."""
    source, settings = await raw.fetchrow("select prosrc, proconfig from pg_proc where proname = $1", function)
    body = re.sub(r"\binto [\w,\s]+?(?=from\b)", "", source.replace("perform ", "select "))
    found = (
        re.search(r"\b(?:with|select)\b.*\bfrom\b.*", text, re.DOTALL)
        for text in body.split(";")
        if "raise exception" not in text
    )
    queries = [re.split(r"\bloop\b", match[0])[0] for match in found if match]
    statements = [re.sub(r"\b\w+\b", lambda word: VARIABLES.get(word[0], word[0]), text) for text in queries]
    async with raw.transaction():
        for setting in settings or ():
            await raw.execute("select set_config($1, $2, true)", *setting.split("="))
        return [json.loads(await raw.fetchval(f"explain (format json) {text}"))[0] for text in statements]


async def logged_plans(raw, call):
    """The plans that a call of a function really ran with, by auto_explain; None where the server lacks it."""
    try:
        await raw.execute("load 'auto_explain'")
    except asyncpg.UndefinedFileError:
        return None
    settings = {"log_min_duration": "0", "log_nested_statements": "on", "log_format": "json", "log_level": "notice"}
    for name, value in settings.items():
        await raw.execute(f"set auto_explain.{name} = '{value}'")
    heard = []
    listen = lambda _, message: heard.append(message.message)  # noqa: E731
    raw.add_log_listener(listen)
    transaction = raw.transaction()
    await transaction.start()
    await raw.execute(f"select from eventstore.{call}")
    await transaction.rollback()
    raw.remove_log_listener(listen)
    await raw.execute("set auto_explain.log_min_duration = '-1'")
    return [json.loads(text[text.index("{") :]) for text in heard if "{" in text]


async def plain_faults(raw, queries):
    """What is wrong with the plans of prepared queries."""
    return [
        f"{name} {complaint}"
        for name in queries
        for complaint in complaints(
            await explain(raw, name), wanted=indexes(name), bitmaps=name in UNORDERED, sorts=name in SORTING
        )
    ]


async def function_faults(raw, names):
    """What is wrong inside of functions: by their text everywhere, by what the server did where it tells."""
    faults = []
    for name in names:
        plans = await inner_plans(raw, INNER[name])
        assert plans
        for found in (plans, await logged_plans(raw, FUNCTIONS[name])):
            if found is not None:
                faults += [f"{name} {line}" for plan in found for line in complaints(plan, sorts=name in SORTING)]
                missing = indexes(name) - {index for plan in found for index in used(plan["Plan"])}
                faults += [f"{name} does not use {missing}"] if missing else []
    return faults
