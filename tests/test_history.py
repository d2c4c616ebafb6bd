"""Time travel: as of a version, a time, a valid time; an answer once given never changes."""

import asyncio
import datetime as dt

import pytest

from eventstore import Event, EventStore, NewEvent, errors
from eventstore.history import History
from eventstore.testing import Schedule

pytestmark = pytest.mark.server

INSERT = """insert into eventstore.events (stream_id, version, type, event_id, data)
            values ($1, $2, 'Noted', gen_random_uuid(), '{"n": 0}') returning position, recorded_at"""


class Noted(Event):
    n: int


async def recorded_times(store):
    return [(r.position, r.recorded_at) async for r in store.read_all(settle=5)]


async def test_as_of_is_exact_between_any_two_events(store):
    """At each event's recording time and just before it, whatever the time marks' spacing."""
    for n in range(30):
        await store.append(f"a-{n % 3}", Noted(n=n))
    history = History(store)
    tick = dt.timedelta(microseconds=1)

    for position, at in await recorded_times(store):
        assert await history.as_of(at) == position
        assert await history.as_of(at - tick) == position - 1
    assert await history.as_of(dt.datetime(2001, 1, 1, tzinfo=dt.UTC)) == 0


async def test_a_late_commit_does_not_change_an_answer_that_was_given(store, database):
    """T1 inserts, the question is asked, T1 commits: asked again, the answer is the same."""
    async with Schedule(database) as schedule:
        slow, quick = await schedule.session("slow"), await schedule.session("quick")
        await quick.do("insert", INSERT, "a-1", 1)
        await slow.do("begin", "begin")
        await slow.do("insert", INSERT, "slow-1", 1)
        last = (await quick.do("insert", INSERT, "a-1", 2))[0]
        history = History(store)
        asked = last["recorded_at"]
        answer = await history.as_of(asked, settle=0.1)
        assert answer == 1
        await slow.do("commit", "commit")
        await quick.do("insert", INSERT, "a-1", 3)

        assert await history.as_of(asked) == answer
        now = (await quick.do("clock", "select clock_timestamp()"))[0][0]
        assert await history.as_of(now) == 4
        assert await history.as_of(asked) == answer


async def test_an_answer_given_behind_a_held_lock_holds_nothing_recorded_later(store, database):
    """A transaction that holds the table and has drawn nothing: appends go on while the question waits for it."""
    async with Schedule(database) as schedule:
        idle = await schedule.session("idle")
        await store.append("a-1", Noted(n=1))
        await idle.do("begin", "begin")
        await idle.do("hold the table", "lock table eventstore.events in row exclusive mode")
        asked = (await idle.do("clock", "select clock_timestamp()"))[0][0]

        async def append():
            for n in range(20):
                await store.append("a-1", Noted(n=n))
                await asyncio.sleep(0.02)

        appending = asyncio.create_task(append())
        answer = await History(store).as_of(asked, settle=0.3)
        later = [await History(store).as_of(asked + dt.timedelta(milliseconds=n * 50), settle=0.1) for n in range(6)]
        await appending
        await idle.do("rollback", "rollback")

        assert answer == 1
        times = await recorded_times(store)
        for n, found in enumerate(later):
            at = asked + dt.timedelta(milliseconds=n * 50)
            assert await History(store).as_of(at) == found
            assert not [p for p, recorded in times if recorded > at and p <= found]


async def test_questions_stay_within_the_connection_budget(database):
    """Forty at once, each of which needs a new mark."""
    async with EventStore(database, max_connections=5, application_name="budget") as store:
        await store.append("a-1", Noted(n=1))
        async with store.transaction() as tx:
            now = await tx.connection.fetchval("select clock_timestamp()")
        asked = [asyncio.create_task(History(store).as_of(now + dt.timedelta(microseconds=n))) for n in range(40)]
        most = 0
        while not all(task.done() for task in asked):
            async with store.transaction() as tx:
                sql = "select count(*) from pg_stat_activity where application_name like 'budget %' and datname = current_database()"
                most = max(most, await tx.connection.fetchval(sql))
        assert {task.result() for task in asked} == {1}
        assert most <= 4


async def test_many_questions_at_once_agree_for_ever(store, database):
    """Writers, publishers and questioners side by side; every answer is asked again at the end."""
    answers = {}
    done = asyncio.Event()

    async def write(name):
        for n in range(60):
            await store.append(f"{name}-{n % 5}", Noted(n=n))

    async def ask():
        async with EventStore(database) as own:
            while not done.is_set():
                async with own._driver.acquire("read") as connection:
                    now = await connection.raw.fetchval("select clock_timestamp()")
                for back in (0, 5, 50, 500):
                    at = now - dt.timedelta(milliseconds=back)
                    answers.setdefault(at, []).append(await History(own).as_of(at))

    questioners = [asyncio.create_task(ask()) for _ in range(3)]
    await asyncio.gather(*(write(f"w{n}") for n in range(6)))
    done.set()
    await asyncio.gather(*questioners)

    history = History(store)
    ordered = sorted(answers)
    for at in ordered:
        assert {await history.as_of(at)} == set(answers[at])
    positions = [answers[at][0] for at in ordered]
    assert positions == sorted(positions)
    for position, at in await recorded_times(store):
        for asked, (found, *_) in answers.items():
            assert not (at > asked and position <= found), "an event of a later time was included"


async def test_a_clock_that_goes_back_changes_no_answer(store, database):
    """Marks of a time that is over are not written; answers stay, and new ones are still ordered."""
    async with Schedule(database) as schedule:
        session = await schedule.session("session")
        await store.append("a-1", Noted(n=1))
        now = (await session.do("clock", "select clock_timestamp()"))[0][0]
        history = History(store)
        assert await history.as_of(now) == 1
        hour = dt.timedelta(hours=1)
        publish = "select eventstore.publish_mark_v1($1, $2, true)"
        assert not (await session.do("a mark of an hour ago", publish, 1, now - hour))[0][0]
        await store.append("a-1", Noted(n=2))
        assert (await session.do("a mark in the future", publish, 2, now + hour))[0][0]
        assert await history.as_of(now) == 1
        assert await history.as_of(now + hour / 2) == 2
        await store.append("a-1", Noted(n=3))
        assert await history.as_of(now) == 1


async def test_the_future_and_naive_times_are_refused(store):
    """Their answers could still change, or mean anything."""
    history = History(store)
    with pytest.raises(errors.TimeInFuture, match="clock says"):
        await history.as_of(dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
    with pytest.raises(errors.InvalidArgument, match="zone"):
        await history.as_of(dt.datetime(2020, 1, 1))
    for wrong in ({}, {"version": 1, "at": dt.datetime.now(dt.UTC)}, {"valid_at": dt.datetime(2020, 1, 1)}):
        with pytest.raises(errors.InvalidArgument):
            await history.stream("a-1", **wrong)


async def test_a_stream_is_cut_by_version_by_recording_and_by_validity(store):
    """A correction recorded late belongs to an earlier valid time and a later recorded one."""

    def on(day):
        return dt.datetime(2020, 1, day, tzinfo=dt.UTC)

    await store.append("a-1", NewEvent(Noted(n=1), occurred_at=on(1)))
    await store.append("a-1", NewEvent(Noted(n=3), occurred_at=on(3)))
    before = [r async for r in store.read_stream("a-1")][-1].recorded_at
    await store.append("a-1", NewEvent(Noted(n=2), occurred_at=on(2)))
    history = History(store)

    async def cut(**how):
        found = await history.stream("a-1", **how)
        return [r.data.n for r in found.events], [r.data.n for r in found.since]

    assert await cut(version=1) == ([1], [3, 2])
    assert await cut(at=before) == ([1, 3], [2])
    assert await cut(valid_at=on(2)) == ([1, 2], [3])
    assert await cut(version=0) == ([], [1, 3, 2])


async def test_whoever_may_not_publish_is_told_so(database, server):
    """A reading role can ask about the past up to the last mark; a newer time needs a mark."""
    async with EventStore(database) as store:
        await store.append("a-1", Noted(n=1))
        async with store.transaction() as tx:
            await tx.connection.execute("set local role eventstore_read")
            with pytest.raises(Exception, match="permission denied"):
                async with tx.connection.transaction():
                    await tx.connection.fetchval("select eventstore.publish_mark_v1(1, now(), true)")
