"""Decisions over tags are sound: under races, held and rolled-back transactions, kills, restores and failovers.

What a store offers is in the contract (test_contract.py, `DecideContract`); here is what only a server can be put through, and
proof that the tests would notice if a safety line were missing.
"""

import asyncio
import contextlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from conftest import drop_database, new_database, on_database, run_sql
from decisions import QUIET, TYPES, Accepted, Moved, Race, query_of, violations
from replicas import standby_of

from eventstore import Boundary, BoundaryConflict, EventStore, NewEvent, Query, _binaries, embedded, errors, schema, sync
from eventstore._operations.append import append, append_tagged_one
from eventstore._operations.prepare import prepare

pytestmark = pytest.mark.server


@pytest.fixture
async def store(database):
    """An open store on a fresh database, which knows the events of the races."""
    async with EventStore(database, events=TYPES, wake_ups=QUIET) as opened:
        yield opened


RACES = [(2, 1, 60, 0), (8, 3, 25, 0), (64, 5, 4, 0), (16, 2, 20, 12)]
"""Racers, tags, rounds of each, and how many connections are killed meanwhile."""


@pytest.mark.parametrize(("racers", "tags", "rounds", "kills"), RACES)
async def test_every_accepted_decision_was_made_on_all_that_mattered(database, racers, tags, rounds, kills):
    """Overlapping and disjoint questions of one to three items, one and two tags; plain appends; held transactions."""
    race = Race(database, tags, seed=racers * 1000 + tags)
    log, ledger = await race.run(racers, rounds, kills=kills)

    sure = sum(decision.sure for decision in ledger.accepted)
    assert violations(ledger, log) == []
    assert sure >= 5
    assert ledger.conflicts > 0


def at(tag, n=0):
    return NewEvent(Moved(n=n), tags=[tag])


class Schedule:
    """Steps of several connections in one order, and the oracle's word on the outcome."""

    def __init__(self, store):
        self.store = store
        self.accepted = []

    async def decide(self, *items):
        decision = await Boundary(self.store).read(query_of(items))
        return items, decision

    async def append(self, items, decision, stream, event):
        seen = [recorded.event_id for recorded in decision.events]
        with contextlib.suppress(BoundaryConflict):
            done = await decision.append(stream, event)
            self.accepted.append(Accepted(items, seen, done.event_ids))

    async def violations(self):
        log = [recorded async for recorded in self.store.read_all()]
        return violations(self, log)


async def a_plain_append_is_under_way(store):
    """It has its position; the decision is read and appended before it commits."""
    schedule = Schedule(store)
    async with store.transaction() as tx:
        await tx.append("a-1", at("t:1"))
        decided = await schedule.decide((("t:1",), None))
        appending = asyncio.create_task(schedule.append(*decided, "b-1", at("t:1")))
        await asyncio.sleep(0.2)
    await appending
    return await schedule.violations()


async def it_commits_while_the_decision_is_under_way(store):
    """The decision's statement has begun, on a connection that waits; then the other commits."""
    schedule = Schedule(store)
    async with store.transaction() as tx:
        items, _ = await schedule.decide((("t:1",), None))
        await tx.append("a-1", at("t:1"))

        async def joined():
            async with store.transaction() as own:
                decision = await Boundary(own).read(query_of(items))
                await schedule.append(items, decision, "b-1", at("t:1"))

        appending = asyncio.create_task(joined())
        await asyncio.sleep(0.2)
    await appending
    return await schedule.violations()


async def a_later_position_is_visible_first(store):
    """The log's end is beyond an event that nobody can see yet, of a tag that the decision asks about."""
    schedule = Schedule(store)
    async with store.transaction() as tx:
        await tx.append("a-1", at("t:1"))
        await store.append("c-1", at("t:2"))
        decided = await schedule.decide((("t:1",), None), (("t:2",), None))
    await schedule.append(*decided, "b-1", at("t:1"))
    return await schedule.violations()


LEVEL = "default_transaction_isolation"


async def test_a_database_that_is_serializable_by_default_decides_all_the_same(database):
    """The connections of a store say what they need."""
    raw = await asyncpg.connect(database, ssl=False)
    await raw.execute(
        f"do $$ begin execute format('alter database %I set {LEVEL} = serializable', current_database()); end $$"
    )
    await raw.close()
    race = Race(database, 2, seed=7)
    log, ledger = await race.run(8, 10)

    assert violations(ledger, log) == []
    assert any(decision.sure for decision in ledger.accepted)


SCHEDULES = [a_plain_append_is_under_way, it_commits_while_the_decision_is_under_way, a_later_position_is_visible_first]


WAITING = """select pid from pg_locks where locktype = 'advisory' and not granted
             and database = (select oid from pg_database where datname = current_database())"""
LOCKS = """select (classid::bigint << 32) | objid::bigint as key, mode from pg_locks
           where locktype = 'advisory' and granted and pid = $1"""


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("pooled", [False, True])
async def test_no_interleaving_gets_past_the_locks(database, schedule, pooled):
    """Each of these catches one of the mutants below. On connections of our own, and on a user's, which run other statements."""
    async with (
        asyncpg.create_pool(database, ssl=False, max_size=8, min_size=0) as pool,
        EventStore(pool if pooled else database, events=TYPES, wake_ups=QUIET) as store,
    ):
        assert await schedule(store) == []


async def test_one_append_takes_the_locks_that_a_group_takes(database, store):
    """By either function: an append and a decision exclude each other, whichever sends them."""
    one = prepare(store._registry, "a-1", [at("t:1"), at("t:2")], limits=store._limits)
    decision = await Boundary(store).read(Query(tags=["t:3"]))
    decided = prepare(store._registry, "a-2", at("t:4"), token=decision._token, limits=store._limits)
    others = one._replace(tenant_id="acme")
    raw = await asyncpg.connect(database, ssl=False)
    found = []
    try:
        for each in (one, decided, others):
            for operation in (append_tagged_one(each), append([each])):
                statement = next(operation)
                async with contextlib.AsyncExitStack() as stack:
                    transaction = raw.transaction()
                    await transaction.start()
                    stack.push_async_callback(transaction.rollback)
                    await raw.fetch(statement.sql, *statement.args)
                    found.append({(row["key"], row["mode"]) for row in await raw.fetch(LOCKS, raw.get_server_pid())})
    finally:
        await raw.close()

    assert [len(locks) for locks in found] == [5, 5, 5, 5, 5, 5]
    assert found[0] == found[1] and found[2] == found[3] and found[4] == found[5]
    assert not {key for key, mode in found[0] if mode == "ExclusiveLock"} & {key for key, _ in found[4]}


async def test_locks_are_taken_in_the_order_of_their_keys(database, store):
    """So that no two who wait can wait for each other."""
    tags = [f"t:{n}" for n in range(20)]
    raw = await asyncpg.connect(database, ssl=False)
    keys = dict(
        await raw.fetch(
            "select u.tag, l.key from unnest($1::text[]) u (tag), eventstore.tag_locks_v1(null, '{\"\"}', array[u.tag]) l "
            "where not l.shared",
            tags,
        )
    )
    middle = sorted(tags, key=keys.__getitem__)[10]

    async def wait():
        async with store.transaction() as tx:
            await tx.append("b-1", NewEvent(Moved(n=1), tags=tags))

    try:
        async with store.transaction() as tx:
            await tx.append("a-1", at(middle))
            waiting = asyncio.create_task(wait())
            async with asyncio.timeout(5):
                while not (pid := await raw.fetchval(WAITING)):
                    await asyncio.sleep(0.02)
            held = {row["key"] for row in await raw.fetch(LOCKS, pid)}
        await waiting
    finally:
        await raw.close()

    assert {tag for tag, key in keys.items() if key in held} == set(sorted(tags, key=keys.__getitem__)[:10])


def without_locks_on_plain_appends(sql):
    return sql.replace("lock_tags) t", "case when logs is not null then lock_tags end) t").replace(
        "lock_tags) l", "case when logs is not null then lock_tags end) l"
    )


def with_the_check_before_the_locks(sql):
    """The order of the two, the other way round."""
    if "    if waiting then" not in sql:
        return sql
    begin, end = sql.index("    if waiting then"), sql.index("    if request_ids is not null then")
    check = sql[sql.index("    if logs is not null then\n        conflicts") : sql.index("    with inserted as")]
    early = check.replace("versions[hit.head] := is_overtaken;", "").replace("versions[a.head] >= 0", "true")
    early = early.replace("versions[l.n] >= 0", "true")
    late = "    if conflicts is not null then for hit in select n as head from unnest(conflicts) with ordinality as c (position, n)"
    late += " where c.position is not null loop versions[hit.head] := is_overtaken; end loop; end if;\n"
    return sql[:begin] + early + sql[begin:end] + sql[end:].replace(check, late)


def with_one_position_for_all(sql):
    """Nothing beyond the highest position that was seen of any tag."""
    sql = sql.replace("x.seq > coalesce(a.seen, 0)", "x.position > a.seen").replace("and a.seen > 0", "and false")
    return sql.replace("coalesce(l.seq, 0)", '(select coalesce(max(y.position), 0) from "eventstore".event_tags y)')


def with_the_check_of_a_lone_one_before_its_locks(sql):
    """In the function for one append; it dawdles between the two, if it is a decision."""
    if "hit as materialized (" not in sql:
        return sql
    begin = sql.index("hit as materialized (") + len("hit as materialized (")
    check = sql[begin : sql.index("),\n    judged as")]
    early = f"select i.position into conflict from ({check}) i; perform case when of_log is not null then pg_sleep(1) end;"
    locks = "    select bool_and("
    return sql.replace(check, "select conflict as position").replace(locks, f"{early}\n{locks}")


def without_the_locks_of_a_lone_plain_append(sql):
    """In the function for one append; it dawdles before its end, if it is none of a decision."""
    if "hit as materialized (" not in sql:
        return sql
    sql = sql.replace("from unnest(lock_tags) as", "from unnest(case when of_log is not null then lock_tags end) as")
    body, end = sql.rsplit("end\n", 1)
    return f"{body}perform case when of_log is null then pg_sleep(1) end;\nend\n{end}"


async def another_process_appends_while_the_decision_is_under_way(store):
    """Plainly, and commits."""
    schedule = Schedule(store)
    async with EventStore(store.dsn, events=TYPES, wake_ups=QUIET) as other:
        await other.append("c-1", at("t:2"))
        decided = await schedule.decide((("t:1",), None))
        appending = asyncio.create_task(schedule.append(*decided, "b-1", at("t:1")))
        await asyncio.sleep(0.1)
        await other.append("a-1", at("t:1"))
        await appending
    return await schedule.violations()


async def another_process_appends_and_is_slow(store):
    """Plainly; the decision is read and appended before it commits."""
    schedule = Schedule(store)
    async with EventStore(store.dsn, events=TYPES, wake_ups=QUIET) as other:
        appending = asyncio.create_task(other.append("a-1", at("t:1")))
        await asyncio.sleep(0.4)
        await schedule.append(*await schedule.decide((("t:1",), None)), "b-1", at("t:1"))
        await appending
    return await schedule.violations()


async def two_processes_append_by_turns(store):
    """What the first appends last has a number that it drew long before, where sessions keep some."""
    schedule = Schedule(store)
    async with EventStore(store.dsn, events=TYPES, wake_ups=QUIET) as other:
        await other.append("a-1", at("t:1"))
        await store.append("a-2", at("t:1"))
        decided = await schedule.decide((("t:1",), None))
        await other.append("a-1", at("t:1"))
        await schedule.append(*decided, "b-1", at("t:1"))
    return await schedule.violations()


MUTANTS = [
    (without_locks_on_plain_appends, a_plain_append_is_under_way),
    (with_the_check_before_the_locks, it_commits_while_the_decision_is_under_way),
    (with_one_position_for_all, a_later_position_is_visible_first),
    (with_the_check_of_a_lone_one_before_its_locks, another_process_appends_while_the_decision_is_under_way),
    (without_the_locks_of_a_lone_plain_append, another_process_appends_and_is_slow),
]
OF_LONE_ONES = {with_the_check_of_a_lone_one_before_its_locks, without_the_locks_of_a_lone_plain_append}


async def mutate(url, change):
    """Replace the functions by changed ones."""
    raw = await asyncpg.connect(url, ssl=False)
    try:
        changed = 0
        for name in ("append_tagged_v1", "append_tagged_one_v1", "boundary_v1"):
            text = await raw.fetchval("select pg_get_functiondef(('eventstore.' || $1)::regproc)", name)
            mutant = change(text)
            changed += mutant != text
            await raw.execute(mutant)
        assert changed
    finally:
        await raw.close()


@pytest.mark.parametrize(("change", "schedule"), MUTANTS)
async def test_the_oracle_catches_what_is_broken_on_purpose(database, change, schedule):
    """In the schedule that is about it. A store on a pool runs the functions for all connections, its own one the rest."""
    await mutate(database, change)
    lone = change in OF_LONE_ONES
    async with (
        asyncpg.create_pool(database, ssl=False, max_size=8, min_size=0) as pool,
        EventStore(database if lone else pool, events=TYPES, wake_ups=QUIET) as store,
    ):
        assert len(await schedule(store)) == 1


async def test_the_oracle_catches_numbers_that_are_drawn_before_the_lock(database, store):
    """As sessions would that keep a range of them; one at a time they are drawn under it."""
    assert await two_processes_append_by_turns(store) == []
    raw = await asyncpg.connect(database, ssl=False)
    await raw.execute("alter sequence eventstore.event_tags_seq_seq cache 32")
    await raw.close()
    async with EventStore(database, events=TYPES, wake_ups=QUIET) as another:
        assert len(await two_processes_append_by_turns(another)) == 1


async def test_a_race_catches_missing_locks_by_chance(database):
    """So the races above are no mere exercise."""
    await mutate(database, without_locks_on_plain_appends)
    for seed in range(20):
        race = Race(database, 1, seed)
        log, ledger = await race.run(16, 10)
        if violations(ledger, log):
            return
    pytest.fail("twenty races found nothing")


@pytest.mark.parametrize("level", ["repeatable_read", "serializable"])
async def test_other_isolation_levels_decide_nothing(database, store, level):
    """Neither read nor append; tagged appends without a decision work there."""
    raw = await asyncpg.connect(database, ssl=False)
    outside = await Boundary(store).read(Query(tags=["t:1"]))
    try:
        async with raw.transaction(isolation=level):
            tx = store.join(raw)
            with pytest.raises(errors.InvalidArgument, match="READ COMMITTED"):
                await Boundary(tx).read(Query(tags=["t:1"]))
        async with raw.transaction(isolation=level):
            tx = store.join(raw)
            decision = type(outside)(tx, outside.query, [], outside._token)
            with pytest.raises(errors.InvalidArgument, match="READ COMMITTED"):
                await decision.append("a-1", at("t:1"))
            await tx.append("a-1", at("t:1"))
    finally:
        await raw.close()

    assert len((await Boundary(store).read(Query(tags=["t:1"]))).events) == 1


async def test_more_tags_than_locks_take_whole_buckets(database, store):
    """And still exclude whoever takes one lock a tag, both ways round."""
    many = [NewEvent(Moved(n=n), tags=[f"m:{n}"]) for n in range(300)]
    boundary = Boundary(store)
    decision = await boundary.read(Query(tags=["m:7"]))
    async with store.transaction() as tx:
        await tx.append("a-1", many)
        locks = await tx.connection.fetchval(
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        )
        appending = asyncio.create_task(decision.append("b-1", at("m:7")))
        await asyncio.sleep(0.1)
        assert not appending.done()
    with pytest.raises(BoundaryConflict):
        await appending
    async with store.transaction() as tx:
        await tx.append("c-1", at("m:8"))
        appending = asyncio.create_task(store.append("d-1", many))
        await asyncio.sleep(0.1)
        assert not appending.done()
    await appending

    assert 200 < locks < 302


async def test_schemas_do_not_wait_for_each_other(database):
    """The lock's key holds the schema's name."""
    await asyncio.to_thread(schema.migrate, database, schema="other")
    async with (
        EventStore(database, events=TYPES, wake_ups=QUIET) as store,
        EventStore(database, events=TYPES, wake_ups=QUIET, schema="other") as other,
        store.transaction() as tx,
    ):
        await tx.append("a-1", at("t:1"))
        async with asyncio.timeout(3):
            await (await Boundary(other).read(Query(tags=["t:1"]))).append("a-1", at("t:1"))


async def test_a_neighbour_that_holds_a_tag_delays_nobody_elses_group(store):
    """Plain appends have lanes of their own; of tagged ones those wait that share the tag."""
    async with store.transaction() as tx:
        await tx.append("a-1", at("held:1"))
        waiting = asyncio.create_task(store.append("b-1", at("held:1")))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(3):
            await asyncio.gather(
                *(store.append(f"c-{n}", at(f"free:{n}")) for n in range(20)),
                *(store.append(f"d-{n}", Moved(n=n)) for n in range(20)),
            )
        assert not waiting.done()
    assert (await waiting).version == 1


async def test_calls_for_one_stream_keep_their_order_with_and_without_tags(store):
    """They go through one lane while any of them is under way."""
    calls = [store.append("a-1", at("t:1", n) if n % 3 else Moved(n=n)) for n in range(60)]
    done = await asyncio.gather(*calls)

    assert [each.version for each in done] == list(range(1, 61))
    assert [recorded.data.n async for recorded in store.read_stream("a-1")] == list(range(60))


async def test_decisions_that_share_a_commit_are_judged_by_each_other(store):
    """Two that were made on the same facts, sent at once: one wins."""
    boundary = Boundary(store)
    for n in range(20):
        query = Query(tags=[f"t:{n}"])
        decisions = [await boundary.read(query) for _ in range(4)]
        outcomes = await asyncio.gather(
            *(decision.append(f"s-{n}-{k}", at(f"t:{n}")) for k, decision in enumerate(decisions)), return_exceptions=True
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Appended", *["BoundaryConflict"] * 3]


async def test_hundreds_who_want_the_same_take_turns(store):
    """They all get what is there for each of them, by a few decisions each, whatever the number of retries."""
    made = []

    def decide(events):
        made.append(len(events))
        return {f"s-{len(events)}": at("hot:1")}

    done = await asyncio.gather(*(Boundary(store).decide(Query(tags=["hot:1"]), decide) for _ in range(150)))

    assert len(done) == 150
    assert len((await Boundary(store).read(Query(tags=["hot:1"]))).events) == 150
    assert len(made) < 150 * 4


def test_threads_that_want_the_same_take_turns(database):
    """As tasks do."""
    made = []

    def decide(events):
        made.append(len(events))
        return {f"s-{len(events)}": at("hot:1")}

    with sync.EventStore(database, events=TYPES) as blocking, ThreadPoolExecutor(16) as threads:
        boundary = sync.Boundary(blocking)
        calls = [threads.submit(boundary.decide, Query(tags=["hot:1"]), decide) for _ in range(60)]
        assert all(call.result(60) for call in calls)
        assert len(boundary.read(Query(tags=["hot:1"])).events) == 60

    assert len(made) < 60 * 4


async def test_a_blocking_store_and_an_async_one_decide_on_one_log(database, store):
    """Each sees what the other has appended."""

    def enrol(n):
        with sync.EventStore(database, events=TYPES) as blocking:
            boundary = sync.Boundary(blocking)
            return boundary.decide(Query(tags=["c:1"]), lambda events: {f"s-{n}": at("c:1", n)} if len(events) < 5 else None)

    mine = Boundary(store)
    work = [asyncio.to_thread(enrol, n) for n in range(4)]
    work += [
        mine.decide(Query(tags=["c:1"]), lambda events: {"m-1": at("c:1")} if len(events) < 5 else None) for _ in range(4)
    ]
    done = await asyncio.gather(*work)

    assert sum(bool(each) for each in done) == 5
    assert len((await mine.read(Query(tags=["c:1"]))).events) == 5


async def refuse(store, decision, match):
    """By a lone append, and in a transaction, which is sent by another function."""
    with pytest.raises(BoundaryConflict, match=match):
        await decision.append("r-1", at("t:1", 9))
    async with store.transaction() as tx:
        with pytest.raises(BoundaryConflict, match=match):
            await type(decision)(tx, decision.query, [], decision._token).append("r-1", at("t:1", 9))


async def test_a_restored_dump_decides_correctly(server, database, store):
    """Sequences and tags come with the dump; a decision from before the restore is refused, on whichever log it lands."""
    query = Query(tags=["t:1"])
    for n in range(3):
        await store.append("a-1", at("t:1", n))
    binaries = _binaries.find_binaries(None, None)
    parts = urlsplit(database)
    host = parse_qs(parts.query).get("host", [parts.hostname])[0]
    where = ["-h", host, "-p", str(parts.port or 5432), "-U", parts.username or "postgres"]
    dump = subprocess.run(
        [binaries.bindir / "pg_dump", *where, parts.path[1:]], check=True, capture_output=True, text=True
    ).stdout.replace("SET transaction_timeout = 0;\n", "")  # of a pg_dump that is newer than the server
    name = await asyncio.to_thread(new_database, server)
    try:
        await asyncio.to_thread(
            subprocess.run,
            [binaries.bindir / "psql", "-q", "-v", "ON_ERROR_STOP=1", *where, name],
            input=dump,
            check=True,
            capture_output=True,
            text=True,
        )
        before = await Boundary(store).read(query)
        async with EventStore(on_database(server, name), events=TYPES, wake_ups=QUIET) as restored:
            boundary = Boundary(restored)
            stale = type(before)(restored, query, before.events, before._token)
            await refuse(restored, stale, "not the one that was read")
            first, second = await boundary.read(query), await boundary.read(query)
            assert [recorded.data.n for recorded in first.events] == [0, 1, 2]
            await first.append("a-1", at("t:1", 3))
            with pytest.raises(BoundaryConflict, match="position"):
                await second.append("a-1", at("t:1", 4))
            race = Race(on_database(server, name), 2, seed=5)
            log, ledger = await race.run(8, 10)
            assert violations(ledger, [recorded for recorded in log if "t:1" in recorded.tags or recorded.tags]) == []
    finally:
        await asyncio.to_thread(drop_database, server, name)


@pytest.mark.parametrize("left", ["2, true", "1, false"])
async def test_a_sequence_that_lies_behind_is_noticed(store, left):
    """As after a restore that left it out, or where it was never drawn from: what comes would have numbers that were seen before."""
    for n in range(5):
        await store.append("a-1", at("t:1", n))
    async with store.transaction() as tx:
        await tx.connection.fetchval(f"select setval('eventstore.event_tags_seq_seq', {left})")
        with pytest.raises(errors.SequenceBehind, match="event_tags_seq_seq"):
            await Boundary(tx).read(Query(tags=["t:1"]))
    with pytest.raises(errors.SequenceBehind, match="event_tags_seq_seq"):
        await Boundary(store).read(Query(tags=["t:1"]))
    with pytest.raises(errors.SequenceBehind, match="event_tags_seq_seq"):
        await store.append("a-1", at("t:1", 9))
    async with store.transaction() as tx:
        with pytest.raises(errors.SequenceBehind, match="event_tags_seq_seq"):
            await tx.append("a-1", at("t:1", 9))


async def test_a_crash_that_lost_what_was_seen_voids_decisions(store):
    """With synchronous_commit = off, or a disk's snapshot: the numbers come again, for other events, on the same timeline."""
    await store.append("a-1", at("t:1", 1))
    await store.append("a-1", at("t:1", 2))
    query = Query(tags=["t:1"])
    seen, known = await Boundary(store).read(query), await Boundary(store).read(query)
    async with store.transaction() as tx:  # what is there after the crash
        await tx.connection.execute("set local eventstore.rewritten_by = 'a crash'")
        await tx.connection.execute("delete from eventstore.event_tags where seq = 2")
        await tx.connection.execute("delete from eventstore.events where position = 2")
        await tx.connection.execute(
            "select setval('eventstore.event_tags_seq_seq', 1), setval('eventstore.events_position_seq', 1)"
        )

    await refuse(store, seen, "crashed")
    await store.append("a-1", at("t:1", 3))
    for decision in (seen, known):
        await refuse(store, decision, "crashed")

    assert [recorded.data.n for recorded in (await Boundary(store).read(query)).events] == [1, 3]


async def test_a_promoted_standby_decides_correctly(tmp_path_factory):
    """Before the promotion it refuses; afterwards decisions from before, whose facts it may have lost, are refused."""
    folder = tmp_path_factory.mktemp("primary")
    query = Query(tags=["t:1"])
    with await asyncio.to_thread(embedded.start, folder) as server:
        await asyncio.to_thread(run_sql, server.dsn, "create database replicated")
        url = on_database(server.dsn, "replicated")
        await asyncio.to_thread(schema.migrate, url)
        async with EventStore(url, events=TYPES, wake_ups=QUIET) as store:
            await store.append("a-1", at("t:1", 1))
            async with contextlib.AsyncExitStack() as stack:
                standby = standby_of(server, "replicated")
                there = await asyncio.to_thread(standby.__enter__)
                stack.push_async_callback(asyncio.to_thread, standby.__exit__, None, None, None)
                before = await Boundary(store).read(query)
                async with EventStore(there, events=TYPES, wake_ups=QUIET) as replica:
                    with pytest.raises(errors.InvalidArgument, match="standby"):
                        await Boundary(replica).read(query)
                    await asyncio.to_thread(run_sql, there, "select pg_promote()")
                async with EventStore(there, events=TYPES, wake_ups=QUIET) as promoted:
                    stale = type(before)(promoted, query, before.events, before._token)
                    await refuse(promoted, stale, "failed over")
                    decision, late = [await Boundary(promoted).read(query) for _ in range(2)]
                    await decision.append("a-1", at("t:1", 3))
                    with pytest.raises(BoundaryConflict, match="position"):
                        await late.append("a-1", at("t:1", 4))
                    assert [recorded.data.n for recorded in (await Boundary(promoted).read(query)).events] == [1, 3]
                race = Race(there, 2, seed=6)
                log, ledger = await race.run(8, 10)
                assert violations(ledger, log) == []


async def test_a_decision_whose_connection_dies_is_told_apart_by_its_request_id(database):
    """The commit is lost on the way back; asked again, the decision gives its first result."""
    async with EventStore(database, events=TYPES, wake_ups=QUIET, resolve_unknown=True) as store:
        boundary = Boundary(store)
        raw = await asyncpg.connect(database, ssl=False)

        async def kill():
            for _ in range(30):
                await asyncio.sleep(0.01)
                await raw.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and "
                    "pid <> pg_backend_pid() and application_name ~ 'append'"
                )

        async def count(n):
            for k in range(30):
                while True:
                    try:
                        await boundary.decide(
                            Query(tags=[f"n:{n}"]),
                            lambda events, n=n, k=k: {f"n-{n}": at(f"n:{n}", k)},
                        )
                        break
                    except errors.Transient:
                        continue

        try:
            await asyncio.gather(kill(), *(count(n) for n in range(4)))
        finally:
            await raw.close()
        for n in range(4):
            events = (await boundary.read(Query(tags=[f"n:{n}"]))).events
            assert [recorded.data.n for recorded in events] == list(range(30))


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_boundary_that_cannot_be_read_at_first_is_read_again(database, store, monkeypatch, blocking):
    """Nothing is known of it then, not even its turn."""
    failures = [errors.Retryable("too many clients", "53300"), errors.Retryable("out of memory", "53200")]

    def fail_first(read):
        def again(*args):
            if failures:
                raise failures.pop()
            return read(*args)

        return again

    def decide(events):
        return {"a-1": at("t:1")}

    if blocking:
        with sync.EventStore(database, events=TYPES) as of_threads:
            monkeypatch.setattr(of_threads, "_read_boundary", fail_first(of_threads._read_boundary))
            done = await asyncio.to_thread(sync.Boundary(of_threads).decide, Query(tags=["t:1"]), decide)
    else:
        monkeypatch.setattr(store, "_read_boundary", fail_first(store._read_boundary))
        done = await Boundary(store).decide(Query(tags=["t:1"]), decide)

    assert not failures
    assert done["a-1"].version == 1


async def test_what_the_function_raises_ends_the_attempt(store):
    """Also where it is an error that another attempt would be made after."""
    calls = []

    def decide(events):
        calls.append(events)
        raise errors.VersionConflict("x-1", 1, 2)

    with pytest.raises(errors.VersionConflict, match="x-1"):
        await Boundary(store).decide(Query(tags=["t:1"]), decide)

    assert len(calls) == 1


def test_a_blocking_decision_takes_what_an_append_takes(database):
    """Expectation and request id; it may be appended again, and by append_all once."""
    with sync.EventStore(database, events=TYPES) as store:
        boundary, query = sync.Boundary(store), Query(tags=["t:1"])
        decision = boundary.read(query)
        with pytest.raises(errors.VersionConflict):
            decision.append("a-1", at("t:1"), expect=3)
        first = decision.append("a-1", at("t:1", 1), expect=0, request_id="r-1")
        assert decision.append("a-1", at("t:1", 2), expect=1).version == 2
        again = boundary.read(query).append("a-1", at("t:1", 1), request_id="r-1")
        assert (again.version, again.deduplicated) == (first.version, True)
        whole, late = boundary.read(query), boundary.read(query)
        assert [each.version for each in whole.append_all({"b-1": at("t:1"), "c-1": at("t:1")}).values()] == [1, 1]
        with pytest.raises(errors.InvalidArgument, match="append_all already"):
            whole.append("a-1", at("t:1"))
        with pytest.raises(BoundaryConflict):
            late.append_all({"b-1": at("t:1"), "c-1": at("t:1")})
        assert store.stream_version("b-1") == 1
