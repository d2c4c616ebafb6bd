"""Projections and the daemon that runs them."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import asyncpg
import projection_child
import pytest
import sqlalchemy as sa
from projection_child import Applied, Balances, Deposited, Opened

from eventstore import Event, EventStore, UnknownEvent, embedded, errors, spi
from eventstore.testing import Schedule
from projections import (
    BatchFailed,
    Daemon,
    HandlerFailed,
    InvalidProjection,
    Projection,
    RowMissing,
    TableMissing,
    followers,
    on,
    runner,
)
from projections._operations import checkpoints

pytestmark = pytest.mark.server


class Renamed(Event):
    name: str


async def ask(dsn, sql, *args):
    connection = await asyncpg.connect(dsn, ssl=False)
    try:
        return await connection.fetch(sql, *args)
    finally:
        await connection.close()


async def balances(dsn):
    return {row[0]: (row[1], row[2]) for row in await ask(dsn, "select account_id, balance, events from balances")}


async def folded(store):
    """The state by a fold of the log in plain Python."""
    state = {}
    async for recorded in store.read_all(types=[Opened, Deposited], settle=5):
        balance, events = state.get(recorded.stream_id, (0, 0))
        state[recorded.stream_id] = (balance + getattr(recorded.data, "amount", 0), events + 1)
    return state


async def test_a_projection_catches_up_and_follows(store, database):
    """run_until_caught_up for what is there; run for what comes; the rows are the fold of the log."""
    for n in range(20):
        await store.append(f"account-{n % 5}", [Opened(owner="x"), *(Deposited(amount=i) for i in range(100))])
    async with Daemon(store, [Balances()], create=True) as daemon:
        await daemon.run_until_caught_up()
        assert await balances(database) == await folded(store)

        running = asyncio.create_task(daemon.run())
        await store.append("account-1", Deposited(amount=10**6))
        async with asyncio.timeout(10):
            while await balances(database) != await folded(store):
                await asyncio.sleep(0.01)
        daemon.stop()
        await asyncio.wait_for(running, 10)

    (status,) = await followers(store)
    assert (status.follower, status.behind, status.owner) == ("Balances", 0, None)


async def test_events_of_other_types_move_the_checkpoint(store):
    """A follower with nothing to do counts as there."""
    await store.append("a-1", [Renamed(name=str(n)) for n in range(10)])
    async with Daemon(store, [Balances()], create=True) as daemon:
        await daemon.run_until_caught_up()
        await daemon.run_until_caught_up()

    assert [(s.position, s.behind) for s in await followers(store)] == [(10, 0)]


async def test_categories_limit_what_a_projection_sees(store, database):
    """Only streams of its categories."""

    class Some(Balances):
        categories = ("account",)

    await store.append("account-1", Deposited(amount=1))
    await store.append("other-1", Deposited(amount=1))
    async with Daemon(store, [Some()], create=True) as daemon:
        await daemon.run_until_caught_up()

    assert list(await balances(database)) == ["account-1"]


async def test_a_missing_table_prints_its_ddl(store):
    """Unless create=True."""
    async with Daemon(store, [Balances()]) as daemon:
        with pytest.raises(TableMissing, match=r"(?s)CREATE TABLE balances.*account_id TEXT NOT NULL"):
            await daemon.run_until_caught_up()


async def test_a_failing_handler_names_its_event_and_writes_nothing(store, database):
    """The batch is rolled back; corrected, the projection goes on from its checkpoint."""
    await store.append("account-1", [Deposited(amount=n) for n in range(5)])

    class Broken(Balances):
        name = "Balances"
        broken = True

        @on("Renamed")
        def renamed(self, event, recorded, rows):
            if self.broken:
                raise ValueError("no such name")

    async with Daemon(store, [Broken()], create=True) as daemon:
        await daemon.run_until_caught_up()
        await store.append("account-1", [Deposited(amount=100), Renamed(name="x"), Deposited(amount=100)])
        with pytest.raises(HandlerFailed, match=r"position 7 \(version 7 of stream 'account-1'\).*no such name") as caught:
            await daemon.run_until_caught_up()
        assert (caught.value.follower, caught.value.type) == ("Balances", "Renamed")
        assert await balances(database) == {"account-1": (10, 5)}
        Broken.broken = False
        await daemon.run_until_caught_up()

    assert await balances(database) == await folded(store)


async def test_a_row_that_set_expects_and_a_returned_value_are_errors(store):
    """A silent no-op would hide a bug."""

    class Sets(Projection):
        table = projection_child.balances

        @on(Deposited)
        def deposited(self, event, recorded, rows):
            rows.set(account_id=recorded.stream_id, balance=1)

    class Returns(Projection):
        @on(Deposited)
        async def deposited(self, event, recorded, tx):
            return 7

    await store.append("account-1", Deposited(amount=1))
    async with Daemon(store, [Sets()], create=True) as daemon:
        with pytest.raises(RowMissing, match="account-1"):
            await daemon.run_until_caught_up()
    async with Daemon(store, [Returns()]) as daemon:
        with pytest.raises(HandlerFailed, match="returned 7"):
            await daemon.run_until_caught_up()


async def test_handlers_of_both_kinds_see_each_others_work_in_order(store, database):
    """Rows collected so far are written before SQL of its own runs."""

    class Mixed(Balances):
        @on(Renamed)
        async def renamed(self, event, recorded, tx):
            await tx.execute("update balances set owner = owner || $2 where account_id = $1", recorded.stream_id, event.name)

    await store.append("account-1", [Opened(owner="Ada"), Renamed(name="!"), Deposited(amount=1), Renamed(name="?")])
    async with Daemon(store, [Mixed()], create=True) as daemon:
        await daemon.run_until_caught_up()

    assert [tuple(r) for r in await ask(database, "select owner, balance from balances")] == [("Ada!?", 1)]


def test_malformed_projections_are_refused_at_start():
    """Signatures, types, names and tables are checked before anything runs."""
    store = EventStore("postgresql://nobody@127.0.0.1:1/none")

    class NoHandler(Projection):
        pass

    class WrongNames(Projection):
        table = projection_child.balances

        @on(Opened)
        def opened(self, recorded, event, rows): ...

    class AsyncRows(Projection):
        table = projection_child.balances

        @on(Opened)
        async def opened(self, event, recorded, rows): ...

    class NoTable(Projection):
        @on(Opened)
        def opened(self, event, recorded, rows): ...

    class Twice(Applied):
        @on(Opened)
        async def again(self, event, recorded, tx): ...

    class Keyless(Projection):
        table = sa.Table("keyless", sa.MetaData(), sa.Column("a", sa.Integer))

        @on(Opened)
        def opened(self, event, recorded, rows): ...

    for followers_ in ([NoHandler()], [WrongNames()], [AsyncRows()], [NoTable()], [Twice()], [Keyless()], []):
        with pytest.raises(InvalidProjection):
            Daemon(store, followers_)
    with pytest.raises(InvalidProjection, match="share the name"):
        Daemon(store, [Balances(), Balances()])

    class Stranger(Projection):
        @on(dict)
        async def what(self, event, recorded, tx): ...

    with pytest.raises(errors.UnknownEventType):
        Daemon(store, [Stranger()])


async def test_a_second_daemon_waits_and_takes_over_when_the_first_stops(store, database):
    """One runs, the other looks on; a clean stop hands over within a moment, and nothing is applied twice."""
    async with Daemon(store, [Balances()], create=True, name="first") as first:
        one = asyncio.create_task(first.run())
        await store.append("account-1", Deposited(amount=1))
        async with asyncio.timeout(10):
            while not first.applied:
                await asyncio.sleep(0.01)
        async with Daemon(store, [Balances()], name="second") as second:
            two = asyncio.create_task(second.run())
            await asyncio.sleep(0.3)
            assert second.applied == 0
            first.stop()
            await one
            await first._release()
            await store.append("account-1", Deposited(amount=1))
            async with asyncio.timeout(10):
                while not second.applied:
                    await asyncio.sleep(0.01)
            second.stop()
            await two

    assert await balances(database) == {"account-1": (2, 2)}


async def test_a_stale_owner_writes_nothing(store, database):
    """Two daemons both believe to own the follower: the epoch lets only the later one's batches through."""
    async with Schedule(database):
        old, new = [await spi.connect(store, name, {}) for name in ("old", "new")]
        mine, other = uuid4(), uuid4()
        await old.run(checkpoints.heartbeat(mine, "old", 30))
        async with old.transaction():
            held = await old.run(checkpoints.acquire("F", 0, mine, old.pid))
        await new.run(checkpoints.heartbeat(other, "new", 30))
        async with new.transaction():
            assert await new.run(checkpoints.acquire("F", 0, other, new.pid)) is None
        await old.run(checkpoints.heartbeat(mine, "old", -1))  # its time is over, and nobody told it
        async with new.transaction():
            taken = await new.run(checkpoints.acquire("F", 0, other, new.pid))
        assert taken.epoch == held.epoch + 1

        with pytest.raises(checkpoints.LeaseLost):
            async with old.transaction():
                await old.run(checkpoints.lock("F", 0, held))
        with pytest.raises(checkpoints.LeaseLost):
            async with old.transaction():
                await old.run(checkpoints.save("F", 0, held, 99))
        async with new.transaction():
            await new.run(checkpoints.lock("F", 0, taken))
            assert (await new.run(checkpoints.save("F", 0, taken, 5))).position == 5
        await old.close()
        await new.close()


async def test_an_expired_owner_that_holds_its_row_is_terminated(store, database):
    """A stopped process inside a batch would block its successor for ever."""
    old, new = [await spi.connect(store, name, {"lock_timeout": "3s"}) for name in ("old", "new")]
    mine, other = uuid4(), uuid4()
    await new.run(checkpoints.heartbeat(mine, "old", 30))
    async with old.transaction():
        held = await old.run(checkpoints.acquire("F", 0, mine, old.pid))
    with pytest.raises(errors.ConnectionLost):
        async with old.transaction():
            await old.run(checkpoints.lock("F", 0, held))
            await new.run(checkpoints.heartbeat(mine, "old", -1))
            await new.run(checkpoints.end_expired("F", 0, mine))  # not its own
            await old.run(checkpoints.stands_at("F", 0))
            await new.run(checkpoints.end_expired("F", 0, other))
            async with new.transaction():
                assert await new.run(checkpoints.acquire("F", 0, other, new.pid)) is not None
            await old.run(checkpoints.save("F", 0, held, 99))
    assert await new.run(checkpoints.stands_at("F", 0)) == 0
    await old.close()
    await new.close()


async def test_a_taker_that_may_not_terminate_takes_over_all_the_same(database):
    """The expired owner belongs to a superuser; the taker may follow, and nothing more. The epoch does the fencing."""
    for sql in (
        "create table applied (event_id uuid primary key, times int)",
        "grant all on applied to public",
        "do $$ begin create role pges_taker login; exception when duplicate_object or unique_violation then null; end $$",
        "grant eventstore_follow to pges_taker",
        "grant pg_read_all_stats to pges_taker",
    ):
        await ask(database, sql)
    as_taker = database.replace("postgres@", "pges_taker@", 1).replace("postgres:", "pges_taker:", 1)
    async with EventStore(database) as owner, EventStore(as_taker) as store:
        await owner.append("a-1", Deposited(amount=1))
        old, mine = await spi.connect(owner, "old", {}), uuid4()
        await old.run(checkpoints.heartbeat(mine, "old", 30))
        async with old.transaction():
            held = await old.run(checkpoints.acquire("Applied", 0, mine, old.pid))
        await old.run(checkpoints.heartbeat(mine, "old", -1))
        new = await spi.connect(store, "new", {})
        with pytest.raises(errors.PermissionDenied):
            await new.run(checkpoints.end_expired("Applied", 0, uuid4()))
        await new.close()
        async with Daemon(store, [Applied()]) as daemon:
            await asyncio.wait_for(daemon.run_until_caught_up(), 20)
            assert daemon.applied == 1
        with pytest.raises(checkpoints.LeaseLost):
            async with old.transaction():
                await old.run(checkpoints.lock("Applied", 0, held))
        await old.close()


async def test_a_lost_connection_is_made_again_and_nothing_is_applied_twice(store, database):
    """Terminate the batches' connection again and again while it works."""
    await ask(database, "create table applied (event_id uuid primary key, times int)")
    for n in range(300):
        await store.append(f"account-{n % 7}", [Deposited(amount=i) for i in range(20)])
    async with Daemon(store, [Balances(), Applied()], create=True) as daemon:
        running = asyncio.create_task(daemon.run_until_caught_up())
        for _ in range(10):
            await asyncio.sleep(0.1)
            await ask(
                database,
                "select pg_terminate_backend(pid, 1000) from pg_stat_activity"
                " where application_name like '%projection%' and datname = current_database()",
            )
        await asyncio.wait_for(running, 60)

    assert await balances(database) == await folded(store)
    assert [tuple(r) for r in await ask(database, "select count(*), max(times) from applied")] == [(6000, 1)]


async def test_a_stop_lets_the_batch_under_way_finish(store, database):
    """What a handler has begun takes effect; the next daemon does not do it again."""
    await ask(database, "create table applied (event_id uuid primary key, times int)")
    begun = asyncio.Event()

    class Slow(Applied):
        name = "Applied"

        @on(Renamed)
        async def renamed(self, event, recorded, tx):
            begun.set()
            await asyncio.sleep(0.5)
            await tx.execute("insert into applied values ($1, 1)", recorded.event_id)

    await store.append("a-1", [Renamed(name="x"), Deposited(amount=1)])
    async with Daemon(store, [Slow()]) as daemon:
        running = asyncio.create_task(daemon.run())
        await begun.wait()
        daemon.stop()
        await asyncio.wait_for(running, 10)
    assert await ask(database, "select count(*) from applied") == [(2,)]
    async with Daemon(store, [Slow()]) as daemon:
        await daemon.run_until_caught_up()
        assert daemon.applied == 0


async def test_rows_that_the_table_refuses_stop_the_projection_with_their_events(store):
    """A unique column that is hit twice is no race: it is not tried for ever."""

    class Unique(Projection):
        table = sa.Table(
            "owners", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), sa.Column("owner", sa.Text, unique=True)
        )

        @on(Opened)
        def opened(self, event, recorded, rows):
            rows.upsert(id=recorded.stream_id, owner=event.owner)

    await store.append("a-1", Opened(owner="x"))
    await store.append("a-2", Opened(owner="x"))
    async with Daemon(store, [Unique()], create=True) as daemon:
        with pytest.raises(BatchFailed, match="positions 1 to 2.*owners_owner_key"):
            await asyncio.wait_for(daemon.run_until_caught_up(), 10)


async def test_a_handler_that_swallows_its_sql_error_is_found_out(store):
    """The transaction is lost; nothing of it may count as done."""

    class Swallows(Projection):
        @on(Renamed)
        async def renamed(self, event, recorded, tx):
            with contextlib.suppress(Exception):
                await tx.execute("select 1 / 0")

    await store.append("a-1", Renamed(name="x"))
    async with Daemon(store, [Swallows()]) as daemon:
        with pytest.raises(BatchFailed, match="swallow"):
            await daemon.run_until_caught_up()


async def test_slow_handlers_commit_on_the_way(store, database, monkeypatch):
    """A batch is bounded by time, since the server ends transactions that are idle for long."""
    monkeypatch.setattr(runner, "BATCH_SECONDS", 0.05)
    await ask(database, "create table applied (event_id uuid primary key, times int)")

    class Slow(Applied):
        name = "Applied"

        @on(Renamed)
        async def renamed(self, event, recorded, tx):
            await asyncio.sleep(0.02)
            positions.append((await followers(store))[0].position)

    positions = []
    await store.append("a-1", [Renamed(name=str(n)) for n in range(30)])
    async with Daemon(store, [Slow()]) as daemon:
        await daemon.run_until_caught_up()

    assert len(set(positions)) > 3
    assert (await followers(store))[0].position == 30


async def test_a_quiet_log_shows_a_follower_that_is_there(store, monkeypatch):
    """Events that it does not handle do not leave it behind for ever."""
    monkeypatch.setattr(runner, "EMPTY_SAVE_SECONDS", 0.2)
    async with Daemon(store, [Balances()], create=True) as daemon:
        running = asyncio.create_task(daemon.run())
        await store.append("account-1", Deposited(amount=1))
        await store.append("a-1", [Renamed(name="x")] * 3)
        async with asyncio.timeout(10):
            while not (found := await followers(store)) or found[0].behind or found[0].position != 4:
                await asyncio.sleep(0.02)
        daemon.stop()
        await running


async def test_a_stop_does_not_wait_for_ever(store, database, monkeypatch):
    """A handler that hangs is rolled back after the grace; its event is there for the next daemon."""
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.3)
    begun = asyncio.Event()

    class Hangs(Projection):
        @on(Renamed)
        async def renamed(self, event, recorded, tx):
            begun.set()
            await asyncio.sleep(3600)

    await store.append("a-1", Renamed(name="x"))
    async with Daemon(store, [Hangs()]) as daemon:
        running = asyncio.create_task(daemon.run())
        await begun.wait()
        daemon.stop()
        await asyncio.wait_for(running, 10)
    assert (await followers(store))[0].position == 0


async def test_a_batch_that_fails_while_it_is_finished_is_told(store):
    """A stop does not swallow what went wrong."""
    begun = asyncio.Event()

    class Fails(Projection):
        @on(Renamed)
        async def renamed(self, event, recorded, tx):
            begun.set()
            await asyncio.sleep(0.2)
            raise ValueError("too late")

    await store.append("a-1", Renamed(name="x"))
    async with Daemon(store, [Fails()]) as daemon:
        running = asyncio.create_task(daemon.run())
        await begun.wait()
        daemon.stop()
        with pytest.raises(HandlerFailed, match=r"too late \(.*test_projections.py:\d+\)"):
            await asyncio.wait_for(running, 10)


async def test_the_heartbeat_outlives_trouble(store, database):
    """A refused statement or a cut connection is tried again."""
    async with Daemon(store, [Balances()], create=True, lease_seconds=1.0) as daemon:
        running = asyncio.create_task(daemon.run())
        async with asyncio.timeout(10):
            while not (found := await followers(store)) or not found[0].alive:
                await asyncio.sleep(0.02)
        await ask(database, "alter table eventstore.daemons rename to hidden")
        await asyncio.sleep(0.7)
        await ask(database, "alter table eventstore.hidden rename to daemons")
        await ask(
            database,
            "select pg_terminate_backend(pid, 1000) from pg_stat_activity"
            " where application_name like '%heartbeat' and datname = current_database()",
        )
        await asyncio.sleep(1.2)
        assert (await followers(store))[0].alive
        assert not running.done()
        daemon.stop()
        await running


def test_an_override_without_on_is_refused():
    """It would not be called, and nobody would notice."""

    class Overrides(Balances):
        def opened(self, event, recorded, rows): ...

    with pytest.raises(InvalidProjection, match="mark it with @on"):
        Daemon(EventStore("postgresql://nobody@127.0.0.1:1/none"), [Overrides()])


async def test_a_database_error_of_a_handler_is_the_handlers(store):
    """A constraint that it violates is not tried again for ever."""

    class Clumsy(Projection):
        @on(Deposited)
        async def deposited(self, event, recorded, tx):
            await tx.execute("select 1 / 0")

    await store.append("a-1", Deposited(amount=1))
    async with Daemon(store, [Clumsy()]) as daemon:
        with pytest.raises(HandlerFailed, match="division by zero"):
            await daemon.run_until_caught_up()


async def test_a_stored_event_that_does_not_validate_stops_the_projection(store):
    """With its place, and nothing skipped."""
    await store.append("a-1", UnknownEvent("Deposited", {"amount": "x"}))
    async with Daemon(store, [Balances()], create=True) as daemon:
        with pytest.raises(errors.EventCorrupt, match="position 1"):
            await daemon.run_until_caught_up()


@pytest.mark.soak
async def test_twenty_kills_at_random_moments_leave_exactly_the_fold(database, request):
    """SIGKILL to the daemon's process while events keep coming; at the end every event has taken effect once."""
    chance = random.Random(f"{request.config.getoption('randomly_seed', 0)}")
    await ask(database, "create table applied (event_id uuid primary key, times int)")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, str(Path(__file__).parent / "projection_child.py"), database, "1"]
    progress = []
    async with EventStore(database) as store:
        writing = True

        async def write():
            n = 0
            while writing:
                n += 1
                events = [Deposited(amount=chance.randrange(100)) for _ in range(chance.choice((1, 5, 40)))]
                await store.append(f"account-{n % 11}", [Opened(owner="x"), *events] if n <= 11 else events)
                await asyncio.sleep(0.004)

        writer = asyncio.create_task(write())
        for _ in range(20):
            child = await asyncio.to_thread(
                subprocess.Popen, command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            await asyncio.to_thread(child.stdout.readline)
            await asyncio.sleep(chance.uniform(0.0, 1.2))
            child.send_signal(signal.SIGKILL)
            child.stdout.close()
            await asyncio.to_thread(child.wait)
            progress.append(max((s.position for s in await followers(store)), default=0))
        writing = False
        await writer
        async with Daemon(store, [Balances(), Applied()], create=True) as daemon:
            await asyncio.wait_for(daemon.run_until_caught_up(), 60)

        assert len(set(progress)) > 5, f"the kills came before any work: {progress}"
        assert await balances(database) == await folded(store)
        head = await store.head()
        assert [tuple(r) for r in await ask(database, "select count(*), max(times) from applied")] == [(head, 1)]


@pytest.mark.soak
async def test_rows_lost_in_a_crash_of_the_server_are_written_again(tmp_path):
    """Batches do not wait for the disk; what the crash takes of them is done again from events that are there."""
    server = await asyncio.to_thread(embedded.start, tmp_path)
    seen = 0
    async with EventStore(server.dsn, migrate=True) as store, Daemon(store, [Balances()], create=True) as daemon:
        task = asyncio.create_task(daemon.run())
        for n in range(200):
            await store.append(f"account-{n % 7}", [Opened(owner="x"), Deposited(amount=n)])
        last = await store.append("account-1", Deposited(amount=1))
        async with asyncio.timeout(20):
            while daemon.position < last.position:
                await asyncio.sleep(0.001)
        seen = daemon.position
        postmaster = int((tmp_path / "cluster" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)
        server._supervisor.kill()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await asyncio.to_thread(server.stop)

    with await asyncio.to_thread(embedded.start, tmp_path) as again:
        async with EventStore(again.dsn) as store:
            (status,) = await followers(store)
            assert status.position <= seen
            async with Daemon(store, [Balances()]) as daemon:
                await asyncio.wait_for(daemon.run_until_caught_up(), 60)
            assert await balances(again.dsn) == await folded(store)


async def test_only_a_projection_of_rows_commits_without_waiting_for_the_disk(store):
    """One handler with SQL of its own, and it waits."""
    for projection, sets_it in ((Balances(), True), (Applied(), False)):
        run = runner.ProjectionRun(projection, store, uuid4())
        run._writer = None  # its table is of no interest here
        connection = await run._take()
        setting, source = await connection.raw.fetchrow(
            "select setting, source from pg_settings where name = 'synchronous_commit'"
        )
        await run._disconnect()
        assert (source == "client") == sets_it
        assert setting == "off" or not sets_it
