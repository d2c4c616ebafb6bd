"""Readers that wait for somebody else's transaction say for whose."""

import asyncio
import json
import logging

import pytest
from test_cli import cli

from eventstore import Event, EventStore, WakeUps, telemetry
from eventstore.feed import blocked
from eventstore.testing import Schedule
from projections import Daemon, Projection, on
from projections.status import blocked as blocked_now

pytestmark = pytest.mark.server

INSERT = """insert into eventstore.events (stream_id, version, type, event_id, data)
            values ($1, 1, 'Noted', gen_random_uuid(), '{}') returning position"""


class Noted(Event):
    pass


@pytest.fixture
def soon(monkeypatch):
    """Thresholds that a test can wait for."""
    monkeypatch.setattr(blocked, "BLOCKED_SECONDS", 0.2)
    monkeypatch.setattr(blocked, "REPEAT_SECONDS", 0.3)


@pytest.fixture
async def schedule(database):
    async with Schedule(database) as made:
        yield made


async def hold(session, stream="held-1"):
    await session.do("begin", "begin")
    await session.do("insert", INSERT, stream)


async def read(store, upto):
    async with store.subscribe() as live:
        async for recorded in live:
            if recorded.position == upto:
                return


async def until(condition, seconds=10):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_blocked_reader_names_who_blocks_and_says_when_it_goes_on(database, schedule, soon, caplog):
    """A warning and a signal: pid, application, state, since when, last statement; repeated; and the end of it."""
    slow, quick = await schedule.session("the culprit"), await schedule.session("quick")
    signals = []
    async with EventStore(database, telemetry=signals.append, wake_ups=WakeUps(poll_seconds=0.05)) as store:
        await quick.do("insert", INSERT, "a-1")
        await hold(slow)
        await quick.do("insert", INSERT, "a-2")
        task = asyncio.create_task(read(store, 3))
        await until(lambda: len(signals) >= 2)
        await slow.do("commit", "commit")
        await asyncio.wait_for(task, 10)
        await until(lambda: isinstance(signals[-1], telemetry.FeedUnblocked))

    first = signals[0]
    (blocker,) = first.blockers
    assert first.position == 1
    assert first.seconds >= 0.2
    assert signals[1].seconds > first.seconds
    assert (blocker.pid, blocker.application, blocker.state) == (slow.pid, "schedule the culprit", "idle in transaction")
    assert blocker.user
    assert "insert into eventstore.events" in blocker.query
    assert blocker.seconds >= 0.2
    assert blocker.since is not None
    assert signals[-1].position == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any(f"pid {slow.pid} (schedule the culprit" in text and "position 1" in text for text in warnings), warnings


async def test_nobody_is_named_where_no_reader_waits(database, schedule, soon, caplog):
    """A transaction that is open for long is nobody's business until it keeps somebody waiting."""
    slow = await schedule.session("slow")
    signals = []
    async with EventStore(database, telemetry=signals.append, wake_ups=WakeUps(poll_seconds=0.05)) as store:
        await hold(slow)
        await store.append("a-1", Noted())
        await asyncio.sleep(0.8)
        assert signals == []
        await slow.do("rollback", "rollback")
        task = asyncio.create_task(read(store, 2))
        await asyncio.wait_for(task, 10)
    assert signals == []


async def test_only_those_that_may_fill_the_hole_are_named(database, schedule, soon):
    """Not one that has begun since, nor one that only reads."""
    slow, late, reader, quick = [await schedule.session(name) for name in ("slow", "late", "reader", "quick")]
    signals = []
    async with EventStore(database, telemetry=signals.append, wake_ups=WakeUps(poll_seconds=0.05)) as store:
        await hold(slow)
        await quick.do("insert", INSERT, "a-1")
        await reader.do("begin", "begin")
        await reader.do("read", "select count(*) from eventstore.events")
        task = asyncio.create_task(read(store, 2))
        await until(lambda: store._frontier._rounds)
        await hold(late, "late-1")
        await until(lambda: signals)
        assert [one.pid for one in signals[0].blockers] == [slow.pid]
        await slow.do("commit", "commit")
        await asyncio.wait_for(task, 10)
        await late.do("rollback", "rollback")


async def test_a_prepared_transaction_is_named_by_its_name(database, schedule, soon):
    """It has no process that could be terminated."""
    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    if (await quick.do("look", "show max_prepared_transactions"))[0][0] == "0":
        pytest.skip("the server has max_prepared_transactions = 0")
    signals = []
    async with EventStore(database, telemetry=signals.append, wake_ups=WakeUps(poll_seconds=0.05)) as store:
        await hold(slow)
        await slow.do("prepare", "prepare transaction 'forgotten'")
        await quick.do("insert", INSERT, "a-1")
        task = asyncio.create_task(read(store, 2))
        await until(lambda: signals)
        (blocker,) = signals[0].blockers
        assert (blocker.pid, blocker.prepared) == (None, "forgotten")
        assert blocker.seconds >= 0.2
        assert "'forgotten'" in str(signals[0])
        await quick.do("commit", "commit prepared 'forgotten'")
        await asyncio.wait_for(task, 10)


async def test_what_the_role_may_not_see_is_left_out(database, schedule, soon):
    """Without pg_read_all_stats: pid, application and user, and a word on who could see the rest."""
    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    role = f"watcher_{slow.pid}"
    await quick.do("role", f"create role {role} login")
    await quick.do("grant", f"grant eventstore_read to {role}")
    url = database.replace("://postgres", f"://{role}", 1)
    signals = []
    try:
        async with EventStore(url, telemetry=signals.append, wake_ups=WakeUps(poll_seconds=0.05)) as store:
            await hold(slow)
            await quick.do("insert", INSERT, "a-1")
            task = asyncio.create_task(read(store, 2))
            await until(lambda: signals)
            await slow.do("commit", "commit")
            await asyncio.wait_for(task, 10)
        (blocker,) = signals[0].blockers
        assert (blocker.pid, blocker.application, blocker.query) == (slow.pid, "schedule slow", None)
        assert "pg_read_all_stats" in str(blocker)
    finally:
        await quick.do("drop", f"drop role {role}")


async def test_a_telemetry_hook_that_fails_hinders_nobody(database, schedule, soon, caplog):
    """It is logged."""

    def broken(signal):
        raise RuntimeError("no metrics today")

    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    async with EventStore(database, telemetry=broken, wake_ups=WakeUps(poll_seconds=0.05)) as store:
        await hold(slow)
        await quick.do("insert", INSERT, "a-1")
        task = asyncio.create_task(read(store, 2))
        await until(lambda: any("telemetry hook failed" in r.message for r in caplog.records))
        await slow.do("commit", "commit")
        await asyncio.wait_for(task, 10)


class Everything(Projection):
    @on(Noted)
    async def noted(self, event, recorded, tx):
        pass


async def test_projections_status_has_a_row_for_whoever_blocks_the_log(database, schedule, monkeypatch):
    """And none when nobody does."""
    slow, quick = await schedule.session("the culprit"), await schedule.session("quick")
    async with EventStore(database) as store:
        await store.append("a-1", Noted())
        async with Daemon(store, [Everything()]) as daemon:
            await daemon.run_until_caught_up()
        await hold(slow)
        assert await blocked_now(store, at_least_seconds=0) is None  # a hole at the end keeps nobody waiting
        await quick.do("insert", INSERT, "a-2")
        found = await blocked_now(store, at_least_seconds=0)
        assert found.position == 1
        assert [one.pid for one in found.blockers] == [slow.pid]
        assert await blocked_now(store, at_least_seconds=60) is None

    await asyncio.sleep(5.2)
    text = await asyncio.to_thread(status, database)
    assert "(the log)" in text
    assert "blocked" in text
    assert f"by pid {slow.pid} (schedule the culprit" in text
    documents = [json.loads(line) for line in (await asyncio.to_thread(status, database, "--json")).splitlines()]
    assert documents[0]["follower"] == "Everything"
    assert documents[1]["state"] == "blocked"
    assert documents[1]["blockers"][0]["pid"] == slow.pid
    await slow.do("rollback", "rollback")
    assert "blocked" not in await asyncio.to_thread(status, database)


def status(url, *options):
    return cli("status", *options, url=url, command="projections")


def test_a_blocker_is_told_in_one_line():
    """Whatever is known of it."""
    known = telemetry.Blocker(7, "psql", "ada", "idle in transaction", None, 61.4, "insert\n  into t", None)
    assert str(known) == (
        "pid 7 (psql, user ada): idle in transaction, transaction begun 61 s ago; last statement: insert into t"
    )
    unknown = telemetry.Blocker(7, None, None, None, None, None, None, None)
    assert "no application_name" in str(unknown)
    assert "not visible" in str(unknown)
    assert str(telemetry.FeedBlocked(3, 12.0, ())) == (
        "readers have been waiting at position 3 for 12 s, for nobody who could be seen"
    )
