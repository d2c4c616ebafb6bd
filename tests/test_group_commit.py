"""Appends that share commits: what one of them does or suffers concerns nobody else."""

import asyncio
import contextlib
import datetime as dt
import random
import uuid

import asyncpg
import pytest

from eventstore import (
    ANY,
    EXISTS,
    NO_STREAM,
    Event,
    EventStore,
    GroupCommit,
    NewEvent,
    UnknownEvent,
    VersionConflict,
    errors,
)
from eventstore.testing import Proxy, Rule, faults

pytestmark = pytest.mark.server

SENDING, COMMITTED = "append.before_send", "append.after_commit"


class Noted(Event):
    n: int


class Gate:
    """A failpoint's action: wait until it is opened."""

    def __init__(self):
        self.opened = asyncio.Event()

    async def strike(self):
        await self.opened.wait()


@contextlib.asynccontextmanager
async def held(point=SENDING, at=1):
    """Hold the lane at a point. Gives a function that lets it go on, and the fault."""
    gate = Gate()
    with faults.armed(point, gate, at=at) as fault:
        try:
            yield gate.opened.set, fault
        finally:
            gate.opened.set()


@pytest.fixture
async def one_lane(database):
    """A store with one connection for appends, so that all of them meet."""
    async with EventStore(database, max_connections=5, application_name="one") as store:
        yield store


@pytest.fixture
async def raw(database):
    """A connection that knows nothing of the library."""
    connection = await asyncpg.connect(database, ssl=False)
    yield connection
    await connection.close()


async def passes():
    """Let every task run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def commits(raw):
    return await raw.fetchval("select count(distinct xmin::text) from eventstore.events")


async def start(*calls):
    """Tasks of calls, begun in this order."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.create_task(call))
        await asyncio.sleep(0)
    return tasks


INSERT = """insert into eventstore.events (stream_id, version, type, event_id, data)
            values ($1, $2, 'Noted', gen_random_uuid(), '{"n": 0}')"""


async def test_appends_that_arrive_together_share_commits_and_each_gets_its_own_result(one_lane, raw):
    """What gathers while one is under way goes as one."""
    async with held() as (release, fault):
        first = asyncio.create_task(one_lane.append("first-1", Noted(n=0)))
        await fault.struck.wait()
        others = [
            asyncio.create_task(one_lane.append(f"a-{n}", [Noted(n=n)] * (n % 3 + 1), expect=NO_STREAM)) for n in range(60)
        ]
        await passes()
        release()
        results = await asyncio.gather(first, *others)
    assert await commits(raw) == 2
    rows = await raw.fetch(
        "select stream_id, max(version) as version, max(position) as position from eventstore.events group by 1"
    )
    found = {row["stream_id"]: (row["version"], row["position"]) for row in rows}
    for n, done in enumerate(results[1:]):
        assert (done.version, done.position) == found[f"a-{n}"]
        assert (done.first_version, done.version) == (1, n % 3 + 1)
        ids = await raw.fetch("select event_id from eventstore.events where stream_id = $1 order by version", f"a-{n}")
        assert list(done.event_ids) == [row["event_id"] for row in ids]
    assert not any(done.deduplicated for done in results)


@pytest.mark.parametrize("most", [5, 11])
async def test_appends_with_tags_share_commits_too(database, raw, most):
    """In a lane of their own, or in that of the others."""
    async with EventStore(database, max_connections=most) as store, held() as (release, fault):
        first = asyncio.create_task(store.append("first-1", NewEvent(Noted(n=0), tags=["t:0"])))
        await fault.struck.wait()
        others = [asyncio.create_task(store.append(f"a-{n}", NewEvent(Noted(n=n), tags=[f"t:{n}"]))) for n in range(20)]
        await passes()
        release()
        await asyncio.gather(first, *others)

    assert await commits(raw) == 2


async def test_appends_that_join_keep_to_one_lock_a_tag(one_lane, raw):
    """More tags than these would be locked by whole buckets, and hold up neighbours."""
    async with held() as (release, fault):
        first = asyncio.create_task(one_lane.append("first-1", NewEvent(Noted(n=0), tags=["t:0"])))
        await fault.struck.wait()
        news = [NewEvent(Noted(n=n), tags=[f"t:{n}", f"u:{n}"]) for n in range(500)]
        others = [asyncio.create_task(one_lane.append("a-1", new)) for new in news]
        await passes()
        release()
        await asyncio.gather(first, *others)
    rows = await raw.fetch("select count(*) as events from eventstore.events group by xmin::text order by 1")

    assert [row["events"] for row in rows] == [1, 116, 128, 128, 128]


async def test_a_group_of_one_sends_each_append_alone(database, raw):
    """Off by option."""
    async with EventStore(database, group_commit=GroupCommit(appends=1)) as store:
        await asyncio.gather(*(store.append(f"a-{n}", Noted(n=n)) for n in range(50)))
        await asyncio.gather(*(store.append("b-1", Noted(n=n)) for n in range(10)))
    assert await commits(raw) == 60


@pytest.mark.parametrize("bound", [{"appends": 7}, {"size": 7 * len('{"n":0}')}])
async def test_groups_end_at_so_many_appends_or_characters(database, raw, bound):
    """Twenty that have gathered go as seven, seven, six; a larger one goes alone."""
    async with EventStore(database, max_connections=5, group_commit=GroupCommit(**bound)) as store:
        async with held() as (release, fault):
            first = asyncio.create_task(store.append("first-1", Noted(n=0)))
            await fault.struck.wait()
            tasks = await start(*(store.append(f"a-{n}", Noted(n=0)) for n in range(20)))
            release()
            await asyncio.gather(first, *tasks)
        assert await commits(raw) == 1 + 3
        if "size" in bound:
            done = await store.append("large-1", [Noted(n=n) for n in range(100)])
            assert done.version == 100


@pytest.mark.parametrize("wrong", [{"appends": 0}, {"size": -1}, {"queue_appends": True}, {"queue_size": 1.5}])
def test_bounds_that_cannot_work_are_refused(wrong):
    """By name."""
    with pytest.raises(errors.InvalidArgument, match=f"GroupCommit.{next(iter(wrong))} must be"):
        GroupCommit(**wrong)


async def test_a_conflict_concerns_its_own_append_only(one_lane):
    """All four expectations in one group, met and not."""
    await one_lane.append("old-1", [Noted(n=n) for n in range(3)])
    async with held() as (release, fault):
        first = asyncio.create_task(one_lane.append("first-1", Noted(n=0)))
        await fault.struck.wait()
        calls = {
            "old-1": 2,
            "a-1": NO_STREAM,
            "b-1": EXISTS,
            "c-1": ANY,
            "d-1": 7,
        }
        tasks = await start(*(one_lane.append(name, Noted(n=1), expect=expect) for name, expect in calls.items()))
        release()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
    _, old, new, missing, any_, high = results
    assert (old.stream_id, old.expected, old.actual) == ("old-1", 2, 3)
    assert (new.version, any_.version) == (1, 1)
    assert (missing.expected, missing.actual) == ("EXISTS", 0)
    assert (high.expected, high.actual) == (7, 0)
    assert all(isinstance(error, VersionConflict) for error in (old, missing, high))
    assert await one_lane.stream_version("old-1") == 3


async def test_calls_for_one_stream_are_served_in_their_order(one_lane):
    """Each expects what the one before leaves; of many with ANY each is told its own place."""
    exact = await start(*(one_lane.append("a-1", Noted(n=n), expect=n) for n in range(40)))
    assert [(await task).version for task in exact] == list(range(1, 41))
    async with held() as (release, fault):
        first = asyncio.create_task(one_lane.append("first-1", Noted(n=0)))
        await fault.struck.wait()
        mixed = await start(
            *(one_lane.append("b-1", [Noted(n=n)] * (n % 2 + 1), expect=n if n == 0 else ANY) for n in range(20))
        )
        release()
        await first
    version, results = 0, [await task for task in mixed]
    positions = []
    for n, done in enumerate(results):
        assert (done.first_version, done.version) == (version + 1, version + n % 2 + 1)
        version = done.version
        positions.append(done.position)
    assert positions == sorted(positions)
    stored = [recorded async for recorded in one_lane.read_stream("b-1")]
    assert [recorded.data.n for recorded in stored] == [n for n in range(20) for _ in range(n % 2 + 1)]
    by_position = {recorded.position: recorded.event_id for recorded in stored}
    assert all(by_position[done.position] == done.event_ids[-1] for done in results)


async def test_64_writers_of_one_stream_all_get_through(one_lane):
    """Each loads, decides, appends, and tries again after a conflict: progress, one winner a version, no event lost."""

    async def write(n):
        for tries in range(1000):
            version = await one_lane.stream_version("hot-1")
            try:
                return await one_lane.append("hot-1", Noted(n=n), expect=version)
            except VersionConflict as conflict:
                assert conflict.actual > version, tries
        raise AssertionError("starved")

    async with asyncio.timeout(60):
        done = await asyncio.gather(*(write(n) for n in range(64)))
    assert sorted(one.version for one in done) == list(range(1, 65))
    assert {recorded.data.n async for recorded in one_lane.read_stream("hot-1")} == set(range(64))


@pytest.mark.parametrize("how", ["append", "insert"])
async def test_a_neighbour_that_holds_a_stream_delays_nobody_else(one_lane, database, raw, how):
    """In an open transaction: of this library, or a plain INSERT, which takes no lock that could be tried."""
    async with EventStore(database) as other, contextlib.AsyncExitStack() as stack:
        if how == "append":
            tx = await stack.enter_async_context(other.transaction())
            await tx.append("held-1", Noted(n=0))
        else:
            transaction = raw.transaction()
            await transaction.start()
            await raw.execute(INSERT, "held-1", 1)
        hanging = await start(
            one_lane.append("held-1", Noted(n=1)),
            one_lane.append("held-1", Noted(n=2), expect=1),
        )
        for _ in range(5):
            async with asyncio.timeout(5):
                done = await asyncio.gather(*(one_lane.append(f"free-{n}", Noted(n=n)) for n in range(20)))
            assert len(done) == 20
        assert not any(task.done() for task in hanging)
        if how == "append":
            await stack.aclose()
        else:
            await transaction.commit()
        first, second = await asyncio.gather(*hanging, return_exceptions=True)
    assert first.version == 2
    assert isinstance(second, VersionConflict)
    assert second.actual == 2


async def test_several_held_streams_delay_nobody_else(one_lane, database):
    """More of them than connections to queue on; those that come free go on while others are held."""
    async with EventStore(database, max_connections=30) as other, contextlib.AsyncExitStack() as stack:
        blocks = [other.transaction() for _ in range(4)]
        for n, block in enumerate(blocks):
            tx = await block.__aenter__()
            await tx.append(f"held-{n}", Noted(n=0))
        hanging = await start(*(one_lane.append(f"held-{n}", Noted(n=1)) for n in range(4)))
        async with asyncio.timeout(5):
            await asyncio.gather(*(one_lane.append(f"free-{n}", Noted(n=n)) for n in range(20)))
        for n in (3, 1, 2, 0):
            await blocks[n].__aexit__(None, None, None)
            async with asyncio.timeout(10):
                assert (await hanging[n]).version == 2
        await stack.aclose()


@pytest.mark.parametrize(("most", "why"), [(5, "has been appending to 'held-1'"), (11, "lock_timeout")])
async def test_a_stream_that_is_held_for_too_long_is_given_up(database, monkeypatch, most, why):
    """With the names of what to look for, in its lane and aside; the next append to it goes on."""
    monkeypatch.setattr("eventstore.group_commit.ASIDE_SECONDS", 1)
    async with EventStore(database, max_connections=most) as store, EventStore(database) as other:
        async with other.transaction() as tx:
            await tx.append("held-1", Noted(n=0))
            with pytest.raises(errors.LockTimeout, match=why):
                await store.append("held-1", Noted(n=1))
        assert (await store.append("held-1", Noted(n=1))).version == 2


async def test_events_of_a_group_keep_what_is_unusual_about_them(one_lane):
    """Every column, set for some and not for others, and documents that look like several."""
    moment = dt.datetime(2020, 1, 2, tzinfo=dt.UTC)
    odd = UnknownEvent("Odd", None, 7, document='[1, {"a": [2]}, "],["]')
    news = [
        NewEvent(Noted(n=1)),
        NewEvent(Noted(n=2), metadata={"k": "],["}, correlation_id="c-1"),
        NewEvent(odd, causation_id=uuid.UUID(int=5), occurred_at=moment),
        NewEvent(UnknownEvent("Plain", "text"), correlation_id="c-2"),
    ]
    async with held() as (release, fault):
        first = asyncio.create_task(one_lane.append("first-1", Noted(n=0)))
        await fault.struck.wait()
        names = ["a-1", "ü \"'{}\\,-1", "c-1", "d-1"]
        tasks = await start(*(one_lane.append(name, news[n:]) for n, name in enumerate(names)))
        release()
        await asyncio.gather(first, *tasks)
    for n, name in enumerate(names):
        found = [recorded async for recorded in one_lane.read_stream(name)]
        assert [one.metadata for one in found] == [{}, {"k": "],["}, {}, {}][n:]
        assert [one.correlation_id for one in found] == [None, "c-1", None, "c-2"][n:]
        assert [one.causation_id for one in found] == [None, None, uuid.UUID(int=5), None][n:]
        assert [one.schema_version for one in found] == [1, 1, 7, 1][n:]
        assert [one.occurred_at == moment for one in found] == [False, False, True, False][n:]
        assert found[-1].data.data == "text"
        if n < 3:
            assert found[-2].data.data == [1, {"a": [2]}, "],["]
    for wrong in ('1, {"n": 2}', "[1", "", "NaN", '{"a": 1}]'):
        with pytest.raises(errors.InvalidEvent, match="is not JSON"):
            await one_lane.append("a-1", UnknownEvent("Odd", None, document=wrong))


@pytest.mark.parametrize("bad", [{0}, {3, 4, 9}])
async def test_what_the_server_refuses_concerns_its_own_append_only(one_lane, raw, bad):
    """A rule of the user's on the table, met by the server only."""
    await raw.execute("alter table eventstore.events add constraint no_bad check ((data ->> 'n')::int >= 0)")
    async with held() as (release, fault):
        first = asyncio.create_task(one_lane.append("first-1", Noted(n=0)))
        await fault.struck.wait()
        tasks = await start(*(one_lane.append(f"a-{n}", Noted(n=-n - 1 if n in bad else n)) for n in range(12)))
        merged = await start(*(one_lane.append("b-1", Noted(n=-1 if n in bad else n)) for n in range(12)))
        release()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
        hot = await asyncio.gather(*merged, return_exceptions=True)
    assert results[0].version == 1
    for found in (results[1:], hot):
        assert {n for n, one in enumerate(found) if isinstance(one, errors.DatabaseRefused)} == bad
    assert [one.version for one in hot if not isinstance(one, Exception)] == list(range(1, 13 - len(bad)))


async def test_a_lost_race_concerns_its_own_append_only(database, raw):
    """A version taken by a plain INSERT between the look and the insert: the group is sent apart, the loser tries again."""
    await raw.execute("""
        create function public.race() returns trigger language plpgsql as $$
        begin
            if new.stream_id = 'raced-1' and not exists (select from public.done) then
                insert into public.done values (1);
                raise unique_violation using constraint = 'events_pkey', message = 'a race';
            end if;
            return new;
        end $$;
        create table public.done (n int);
        create table public.lost (n int);
        """)
    await raw.execute("create trigger race before insert on eventstore.events for each row execute function public.race()")
    async with EventStore(database, max_connections=5) as store, held() as (release, fault):
        first = asyncio.create_task(store.append("first-1", Noted(n=0)))
        await fault.struck.wait()
        tasks = await start(*(store.append(name, Noted(n=0)) for name in ("a-1", "raced-1", "b-1")))
        release()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
        # the trigger's own row is rolled back with each attempt: raced-1 can never win, and says so; the others do
        assert [one.version for n, one in enumerate(results) if n != 2] == [1, 1, 1]
        assert isinstance(results[2], errors.LockTimeout)


async def test_a_deadlock_concerns_the_append_that_was_picked_only(database, raw):
    """The group is sent apart, and the victim's caller is told to try again."""
    await raw.execute("""
        create function public.pick() returns trigger language plpgsql as $$
        begin
            if new.stream_id = 'picked-1' then
                raise deadlock_detected using message = 'deadlock detected';
            end if;
            return new;
        end $$;
        create trigger pick before insert on eventstore.events for each row execute function public.pick()
        """)
    async with EventStore(database, max_connections=5) as store, held() as (release, fault):
        first = asyncio.create_task(store.append("first-1", Noted(n=0)))
        await fault.struck.wait()
        tasks = await start(*(store.append(name, Noted(n=0)) for name in ("a-1", "picked-1", "b-1")))
        release()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)

    assert [one.version for n, one in enumerate(results) if n != 2] == [1, 1, 1]
    assert isinstance(results[2], errors.Retryable)
    assert results[2].sqlstate == "40P01"


async def test_one_that_is_too_large_concerns_nobody_else(one_lane):
    """It is refused before it joins a group: by its event, or by their number."""
    async with held() as (release, fault):
        first = asyncio.create_task(one_lane.append("first-1", Noted(n=0)))
        await fault.struck.wait()
        large = NewEvent(Noted(n=0), metadata={"x": "y" * 2**21})
        tasks = await start(
            one_lane.append("a-1", Noted(n=0)),
            one_lane.append("b-1", large),
            one_lane.append("c-1", [Noted(n=0)] * 10_001),
            one_lane.append("d-1", Noted(n=0)),
        )
        release()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)

    assert [one.version for n, one in enumerate(results) if n not in (2, 3)] == [1, 1, 1]
    assert isinstance(results[2], errors.InvalidEvent)
    assert isinstance(results[3], errors.InvalidArgument)


async def test_a_lone_append_departs_at_once(one_lane, monkeypatch):
    """A few passes of the event loop, and no timer of ours."""
    await one_lane.append("first-1", Noted(n=0))
    await asyncio.sleep(0.01)
    timers, call_later = [], asyncio.get_running_loop().call_later
    async with held() as (release, fault):
        monkeypatch.setattr(
            asyncio.get_running_loop(), "call_later", lambda *args: (timers.append(args), call_later(*args))[1]
        )
        task = asyncio.create_task(one_lane.append("a-1", Noted(n=0)))
        for _ in range(3):
            await asyncio.sleep(0)
        assert fault.struck.is_set()
        assert not [args for args in timers if "group_commit" in getattr(args[1], "__module__", "")]
        release()
        await task


async def test_in_a_small_store_a_contended_stream_takes_no_transaction_from_others(one_lane, raw):
    """Its only connection for transactions stays theirs: the append goes on trying in its lane."""
    async with raw.transaction():
        await raw.execute(INSERT, "held-1", 1)
        waiting = asyncio.create_task(one_lane.append("held-1", Noted(n=1)))
        await asyncio.sleep(0.3)
        async with asyncio.timeout(2), one_lane.transaction() as tx:
            await tx.append("free-1", Noted(n=2))
        assert not waiting.done()

    assert (await waiting).version == 2


async def test_one_that_is_cancelled_before_departure_is_never_sent(one_lane):
    """The others are."""
    async with held() as (release, fault):
        first = asyncio.create_task(one_lane.append("first-1", Noted(n=0)))
        await fault.struck.wait()
        tasks = await start(*(one_lane.append(name, Noted(n=1)) for name in ("a-1", "b-1", "b-1", "c-1")))
        tasks[0].cancel()
        tasks[1].cancel()
        await passes()
        release()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in results] == [False, True, True, False, False]
    assert (results[3].version, results[4].version) == (1, 1)
    assert await one_lane.stream_version("a-1") == 0


@pytest.mark.parametrize("point", [SENDING, COMMITTED])
async def test_one_that_is_cancelled_after_departure_harms_nobody(one_lane, point):
    """It may be committed; the others are told theirs, and so is the next for the same stream."""
    async with held() as (release, fault):
        first = asyncio.create_task(one_lane.append("first-1", Noted(n=0)))
        await fault.struck.wait()
        tasks = await start(*(one_lane.append(name, Noted(n=1)) for name in ("a-1", "b-1", "b-1", "c-1")))
        async with held(point, at=2) as (release_group, departed):
            if point == SENDING:
                departed.hits = 1  # the first one's hit came before
            release()
            await asyncio.wait_for(departed.struck.wait(), 10)
            tasks[0].cancel()
            tasks[1].cancel()
            await passes()
            later = asyncio.create_task(one_lane.append("a-1", Noted(n=2)))
            release_group()
            results = await asyncio.gather(first, *tasks, later, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in results] == [False, True, True, False, False, False]
    assert (results[3].version, results[4].version, results[5].version) == (2, 1, 2)


@pytest.mark.parametrize("committed", [False, True])
async def test_a_dead_connection_concerns_those_that_were_on_it(database, committed):
    """All of the group learn that nobody knows; the queue behind goes on with a new connection."""
    async with Proxy(database) as proxy, EventStore(proxy.url, max_connections=5, application_name="app") as store:
        await store.append("first-1", Noted(n=0))
        strike = proxy.cut_when(Rule("server", "E"), forward=committed, name="app append")
        async with held() as (release, fault):
            lone = asyncio.create_task(store.append("first-1", Noted(n=1), expect=1))
            await fault.struck.wait()
            release()
            with pytest.raises(errors.AppendUnknown) as caught:
                await lone
        assert caught.value.stream_ids == ("first-1",)
        await strike.wait()
        assert await store.stream_version("first-1") == (2 if committed else 1)

        strike = proxy.cut_when(Rule("server", "B", b"a-0"), forward=committed, name="app append")
        async with held() as (release, fault):
            tasks = [asyncio.create_task(store.append(f"a-{n}", [Noted(n=n), Noted(n=n)])) for n in range(3)]
            await fault.struck.wait()
            behind = await start(*(store.append(f"a-{n}", Noted(n=9)) for n in range(3)))
            release()
            unknown = await asyncio.gather(*tasks, return_exceptions=True)
            known = await asyncio.gather(*behind)
        assert [error.stream_ids for error in unknown] == [("a-0",), ("a-1",), ("a-2",)]
        assert all(len(error.event_ids) == 2 for error in unknown)
        assert len({id(error) for error in unknown}) == 3
        assert [done.version for done in known] == [3 if committed else 1] * 3


async def test_the_queue_is_bounded_and_serves_in_line(database):
    """Whoever finds it full waits; a cancelled one is passed over; nobody overtakes."""
    options = GroupCommit(appends=1, queue_appends=3)
    async with EventStore(database, max_connections=5, group_commit=options) as store, held() as (release, fault):
        first = asyncio.create_task(store.append("a-1", Noted(n=0), expect=0))
        await fault.struck.wait()
        tasks = await start(*(store.append("a-1", Noted(n=n), expect=n if n < 5 else n - 1) for n in range(1, 10) if n != 5))
        assert store._lanes._appends == 3
        assert len(store._lanes._room) == 6
        doomed = asyncio.create_task(store.append("b-1", Noted(n=0)))
        await passes()
        doomed.cancel()
        await passes()
        release()
        results = await asyncio.gather(first, *tasks)
        assert [done.version for done in results] == list(range(1, 10))
        assert (store._lanes._appends, store._lanes._size) == (0, 0)
        assert await store.stream_version("b-1") == 0


async def test_the_queue_is_bounded_by_size_and_takes_what_is_larger_alone(database):
    """An append above the bound is let in when nothing else is queued."""
    options = GroupCommit(queue_size=40)
    async with EventStore(database, max_connections=5, group_commit=options) as store, held() as (release, fault):
        large = asyncio.create_task(store.append("a-1", [Noted(n=n) for n in range(50)]))
        await fault.struck.wait()
        tasks = await start(*(store.append(f"b-{n}", Noted(n=n)) for n in range(5)))
        assert len(store._lanes._room) == 5
        release()
        assert (await large).version == 50
        assert [(await task).version for task in tasks] == [1] * 5


async def test_closing_sends_what_is_queued_and_refuses_what_waits_for_room(database):
    """Committed is never reported as failed; nothing hangs."""
    options = GroupCommit(appends=2, queue_appends=5)
    store = await EventStore(database, max_connections=5, group_commit=options).open()
    async with held() as (release, fault):
        tasks = await start(*(store.append(f"a-{n}", Noted(n=n)) for n in range(8)))
        await fault.struck.wait()
        closing = asyncio.create_task(store.close())
        await passes()
        with pytest.raises(errors.StoreClosed):
            await store.append("b-1", Noted(n=1))
        release()
        await closing
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(one, "version", type(one)) for one in results] == [1] * 5 + [errors.StoreClosed] * 3
    async with EventStore(database) as again:
        assert [await again.stream_version(f"a-{n}") for n in range(8)] == [1] * 5 + [0] * 3


async def test_closing_by_force_tells_everybody_something(database, monkeypatch):
    """A group that never ends is given up after the time that closing takes at most."""
    monkeypatch.setattr("eventstore.group_commit.CLOSE_SECONDS", 0.2)
    store = await EventStore(database, max_connections=5, group_commit=GroupCommit(appends=1)).open()
    with faults.armed(SENDING, faults.Hang()) as fault:
        tasks = await start(*(store.append(f"a-{n}", Noted(n=n)) for n in range(3)))
        await fault.struck.wait()
        await store.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in results] == [errors.AppendUnknown, errors.StoreClosed, errors.StoreClosed]


async def test_random_calls_leave_a_log_that_explains_every_answer(database):
    """Two stores, hot and cold streams, all expectations, cancellations, held transactions: what was answered is there."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    answered, refused = [], 0

    async def call(store, n):
        nonlocal refused
        stream = f"s-{chance.choice([0, 0, 0, 1, 2, chance.randrange(3, 60)])}"
        expect = chance.choice([ANY, ANY, EXISTS, NO_STREAM, chance.randrange(20)])
        events = [NewEvent(Noted(n=n), metadata={"call": n}) for _ in range(chance.randrange(1, 4))]
        task = asyncio.create_task(store.append(stream, events, expect=expect))
        if chance.random() < 0.1:
            await asyncio.sleep(chance.random() * 0.003)
            task.cancel()
        try:
            answered.append((stream, await task))
        except VersionConflict:
            refused += 1
        except asyncio.CancelledError:
            pass

    async def hold(store):
        for n in range(15):
            async with store.transaction() as tx:
                with contextlib.suppress(VersionConflict):
                    await tx.append(f"s-{chance.randrange(3)}", Noted(n=-1))
                await asyncio.sleep(chance.random() * 0.03)
                if n % 3 == 0:
                    await tx.connection.execute("rollback; begin")

    async with EventStore(database) as one, EventStore(database) as two:
        holding = [asyncio.create_task(hold(store)) for store in (one, two)]
        for batch in range(12):
            await asyncio.gather(*(call(chance.choice([one, two]), batch * 40 + n) for n in range(40)))
        await asyncio.gather(*holding)
        log = [recorded async for recorded in one.read_all()]
    versions = {}
    for recorded in log:
        versions.setdefault(recorded.stream_id, []).append(recorded)
    for stream, events in versions.items():
        assert [event.version for event in events] == list(range(1, len(events) + 1)), (seed, stream)
    for stream, done in answered:
        events = versions[stream][done.first_version - 1 : done.version]
        assert tuple(event.event_id for event in events) == done.event_ids, seed
        assert events[-1].position == done.position, seed
    assert refused > 0
    assert len(answered) > 100
