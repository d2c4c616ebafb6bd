"""Crash points: a process killed, stopped or hindered at every one of them leaves what is right."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import projection_child
import pytest
from fault_child import LEASE_SECONDS, append
from projection_child import Applied, Balances, Deposited, Opened

from eventstore import EventStore, WakeUps, _failpoints, errors, spi
from eventstore.testing import faults
from projections import Daemon, runner
from projections.status import followers

pytestmark = pytest.mark.server

HERE = Path(__file__).parent
FAR = {
    "runner.before_commit": 3,
    "runner.after_commit": 3,
    "feed.after_read": 2,
    "append.after_commit": 4,
}
"""Points that are struck a second time, later: at which hit."""


@pytest.fixture(autouse=True)
def nothing_stays_armed():
    yield
    faults.disarm()


async def ask(url, sql, *args):
    async with EventStore(url) as store:
        connection = await spi.connect(store, "ask", {})
        try:
            return await connection.raw.fetch(sql, *args)
        finally:
            await connection.close()


@contextlib.contextmanager
def child(url, failpoint="", *how):
    """The process of fault_child.py; killed at the end if it still lives."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), faults.VARIABLE: failpoint}
    command = [sys.executable, str(HERE / "fault_child.py"), url, *how]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def run_child(url, failpoint=""):
    """Run it to its end; return its exit code and what it complained of."""
    with child(url, failpoint) as process:
        _, said = await asyncio.to_thread(process.communicate, timeout=60)
        return process.returncode, said


async def check(url):
    """State equals the fold of the log, and every event has taken effect once."""
    async with EventStore(url) as store:
        async with Daemon(store, [Balances(), Applied()], create=True) as daemon:
            await asyncio.wait_for(daemon.run_until_caught_up(), 60)
        expected = {}
        count = 0
        async for recorded in store.read_all():
            count += 1
            owner, balance, events = expected.get(recorded.stream_id, (None, 0, 0))
            if recorded.type == "Opened":
                owner = recorded.data.owner
            else:
                balance += recorded.data.amount
            expected[recorded.stream_id] = (owner, balance, events + 1)
    found = await ask(url, "select account_id, owner, balance, events from balances")
    assert {row[0]: tuple(row)[1:] for row in found} == expected
    assert [tuple(r) for r in await ask(url, "select count(*), max(times) from applied")] == [(count, 1)]
    rows = "(select tag, position from eventstore.event_tags) t full join (select unnest(tags) as tag, position from eventstore.events) e"
    assert await ask(url, f"select from {rows} using (tag, position) where t is null or e is null") == []
    versions = await ask(url, "select stream_id from eventstore.events group by 1 having max(version) <> count(*)")
    assert versions == []


async def make_applied(url):
    await ask(url, "create table if not exists applied (event_id uuid primary key, times int)")


def strikes():
    """Every point there is, at its first hit, and some later."""
    for point in sorted(_failpoints.registered):
        yield pytest.param(f"{point}:kill", id=point)
        if point in FAR:
            yield pytest.param(f"{point}:kill@{FAR[point]}", id=f"{point}@{FAR[point]}")


@pytest.mark.parametrize("failpoint", list(strikes()))
async def test_a_process_killed_at_any_point_leaves_what_is_right(database, failpoint):
    """Appender and daemon in one process die there; whoever comes next finds the fold, each event applied once."""
    await make_applied(database)
    code, said = await run_child(database, failpoint)
    assert code == -signal.SIGKILL, f"the point was not hit: {said}"

    code, said = await run_child(database)
    assert (code, said) == (0, "")
    await check(database)


STOPS = ["runner.after_lock:stop", "runner.after_handlers:stop", "runner.before_commit:stop", "runner.after_commit:stop",
         "runner.before_batch:stop", "lease.before_take:stop", "lease.after_take:stop"]  # fmt: skip


def state(process):
    """One letter: R, S, D, T (stopped)."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see that a process is stopped")
@pytest.mark.parametrize("failpoint", STOPS)
async def test_an_owner_stopped_past_its_lease_is_replaced_and_writes_nothing_when_it_goes_on(database, failpoint):
    """SIGSTOP inside its work, its lease runs out, another takes over at once, SIGCONT: each event applied once."""
    await make_applied(database)
    async with EventStore(database) as store:
        await append(store)
    with child(database, failpoint, "follow") as zombie:
        async with asyncio.timeout(30):
            while state(zombie) != "T":
                await asyncio.sleep(0.01)
        stopped_at = time.monotonic()
        async with EventStore(database) as store, Daemon(store, [Balances(), Applied()], create=True) as daemon:
            task = asyncio.create_task(daemon.run())
            last = await store.append("account-9", [Opened(owner="z"), Deposited(amount=2)])
            async with asyncio.timeout(40):
                while daemon.position < last.position:
                    await asyncio.sleep(0.02)
                    assert not task.done(), task.result()
            taken_after = time.monotonic() - stopped_at
            assert taken_after < LEASE_SECONDS + runner.TAKE_SECONDS + 4, "it waited for more than the lease"
            zombie.send_signal(signal.SIGCONT)
            for n in range(10):  # let it try
                await store.append("account-9", Deposited(amount=n))
                await asyncio.sleep(0.1)
            epochs = {s.follower: s.daemon for s in await followers(store)}
            assert len(set(epochs.values())) == 1
            daemon.stop()
            await task
        zombie.kill()
    await check(database)


@pytest.mark.parametrize(
    "point", ["runner.after_lock", "runner.after_handlers", "runner.before_commit", "runner.after_commit",
              "feed.before_read", "lease.before_take", "lease.after_take"]
)  # fmt: skip
async def test_a_transient_error_at_any_point_of_a_batch_is_retried(database, point):
    """A connection that fails there costs a retry and nothing else."""
    await make_applied(database)
    async with EventStore(database) as store:
        await store.append("account-1", [Opened(owner="x"), Deposited(amount=1)])
        async with Daemon(store, [Balances(), Applied()], create=True) as daemon:
            with faults.armed(point, faults.Raise()) as fault:
                await asyncio.wait_for(daemon.run_until_caught_up(), 30)
        assert fault.struck.is_set()
    await check(database)


@pytest.mark.parametrize("point", ["feed.before_look", "feed.after_look", "feed.before_notify", "marks.before_publish"])
async def test_a_feed_that_fails_anywhere_goes_on(database, point):
    """Its connection is made anew; subscribers miss nothing."""
    async with EventStore(database, wake_ups=WakeUps(poll_seconds=0.05)) as store:
        with faults.armed(point, faults.Raise()) as fault:
            seen = []
            async with store.subscribe() as live:
                writing = asyncio.create_task(write(store, fault))
                async with asyncio.timeout(20):
                    async for recorded in live:
                        seen.append(recorded.position)
                        if writing.done() and recorded.position == writing.result():
                            break
        assert seen == list(range(1, len(seen) + 1))


async def write(store, fault):
    """Append until the fault has struck, and once more."""
    n = 0
    while not fault.struck.is_set():
        n += 1
        await store.append(f"account-{n}", Opened(owner="x"))
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)
    return (await store.append("account-last", Opened(owner="x"))).position


async def test_an_append_that_hangs_can_be_cancelled(database, monkeypatch):
    """Before it is sent nothing is written, after the commit it is there: the caller knows neither; the store closes."""
    monkeypatch.setattr("eventstore.group_commit.CLOSE_SECONDS", 0.2)
    for point, version in (("append.before_send", 0), ("append.after_commit", 1)):
        async with EventStore(database) as store:
            with faults.armed(point, faults.Hang()) as fault:
                task = asyncio.create_task(store.append("account-1", Opened(owner="x")))
                await asyncio.wait_for(fault.struck.wait(), 10)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert await store.stream_version("account-1") == version
    async with EventStore(database) as store:
        assert (await store.append("account-1", Deposited(amount=1))).version == 2


async def test_an_error_before_the_commit_of_a_transaction_rolls_it_back(database):
    """Nobody sees half of it."""
    async with EventStore(database) as store:
        for point in ("transaction.after_append", "transaction.before_commit"):
            with faults.armed(point, faults.Raise(RuntimeError("stop"))), pytest.raises(RuntimeError, match="stop"):
                async with store.transaction() as tx:
                    await tx.append("account-1", Opened(owner="x"))
            assert await store.stream_version("account-1") == 0


def test_a_point_that_does_not_exist_and_an_action_that_cannot_be_understood_are_refused():
    """With what there is."""
    with pytest.raises(errors.InvalidArgument, match=r"there is no failpoint 'nowhere'; there are append\.after_commit"):
        faults.arm("nowhere", faults.Kill())
    for text in (
        "append.before_send",
        "append.before_send:explode",
        "append.before_send:sleep=x",
        "append.before_send:kill@x",
    ):
        with pytest.raises(errors.InvalidArgument, match="expected point:kill"):
            faults.arm_from_environment(text)
    assert faults.arm_from_environment("") == []
    (slow, dead) = faults.arm_from_environment("append.before_send:sleep=0.5; runner.after_lock:kill@3")
    assert (slow.action, slow.at, dead.action, dead.at) == (faults.Sleep(0.5), 1, faults.Kill(), 3)


async def test_a_fault_strikes_at_the_hit_that_it_is_set_for():
    """And counts the others."""
    with faults.armed("append.before_send", faults.Raise(), at=3) as fault:
        for n in range(1, 6):
            with contextlib.nullcontext() if n != 3 else pytest.raises(errors.ConnectionLost):
                await _failpoints.hit("append.before_send")
    assert fault.hits == 5
    with faults.armed("append.before_send", faults.Sleep(0.0), at=0) as fault:
        await _failpoints.hit("append.before_send")
        await _failpoints.hit("append.before_send")
    assert fault.hits == 2
    assert not _failpoints.armed


def test_every_point_says_what_holds_there():
    """None that the sources name is missing above, and each is passed where it is named."""
    assert projection_child
    named = {}
    for package in ("eventstore", "projections"):
        for file in (HERE.parent / package).rglob("*.py"):
            text = file.read_text()
            for variable, name in re.findall(r'^(\w+): Final = register\(\s*"([a-z_.]+)"', text, re.M):
                named[name] = len(re.findall(rf"await hit\({variable}\)", text))
    assert set(named) == set(faults.points())
    assert all(named.values()), named
    assert len(named) >= 25
    for name, holds in faults.points().items():
        assert name.count(".") == 1, name
        assert len(holds) > 20, name
