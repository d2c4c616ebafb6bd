"""The gap-safe feed: schedules on real connections, held open while the reader looks."""

import asyncio
import datetime as dt
import uuid

import pytest

from eventstore import Event, EventStore, WakeUps, embedded, errors
from eventstore import store as store_module
from eventstore._operations import marks
from eventstore.feed import frontier
from eventstore.testing import Schedule

pytestmark = pytest.mark.server

INSERT = """insert into "eventstore".events (stream_id, version, type, event_id, data)
            values ($1, 1, $2, gen_random_uuid(), '{}') returning position"""


class Wanted(Event):
    pass


class Other(Event):
    pass


class Reader:
    """A subscription in a task, and what it has delivered."""

    def __init__(self, store, **how):
        self.store, self.how, self.seen = store, how, []

    async def upto(self, count):
        async with self.store.subscribe(after=self.how.pop("after", 0), **self.how) as live:
            async for recorded in live:
                self.seen.append(recorded.position)
                if len(self.seen) == count:
                    return self.seen

    def looks(self):
        """How often the store's frontier has looked whether it can go on."""
        return self.store._frontier.looks


async def insert(session, stream, type_="Wanted"):
    return (await session.do(f"insert {stream}", INSERT, stream, type_))[0][0]


async def hold(session, stream, type_="Wanted"):
    """Insert and leave the transaction open; return the position that is now undecided."""
    await session.do("begin", "begin")
    return await insert(session, stream, type_)


@pytest.fixture
async def schedule(database):
    async with Schedule(database) as made:
        yield made


async def test_an_event_committed_late_is_delivered_in_its_place(store, schedule):
    """T1 draws 1, T2 draws 2 and commits: the reader waits for T1, then delivers 1 and 2."""
    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    reader = Reader(store)
    await hold(slow, "a-1")
    await insert(quick, "b-1")

    step = schedule.start("reader", reader.upto(2), looks=reader.looks)
    await schedule.blocks(step)
    assert reader.seen == []
    await slow.do("commit", "commit")

    assert await schedule.unblocks(step) == [1, 2]


async def test_a_rolled_back_hole_is_passed(store, schedule):
    """T1 draws 1 and rolls back: the reader goes on with 2, and stays behind what it has seen."""
    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    reader = Reader(store)
    await hold(slow, "a-1")
    await insert(quick, "b-1")

    step = schedule.start("reader", reader.upto(1), looks=reader.looks)
    await schedule.blocks(step)
    await slow.do("rollback", "rollback")

    assert await schedule.unblocks(step) == [2]


async def test_the_prefix_before_a_hole_is_delivered_at_once(store, schedule):
    """Only what lies behind the hole waits."""
    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    reader = Reader(store)
    await insert(quick, "b-1")
    await hold(slow, "a-1")
    await insert(quick, "b-2")

    step = schedule.start("reader", reader.upto(3), looks=reader.looks)
    await schedule.blocks(step)
    async with asyncio.timeout(10):
        while reader.seen != [1]:
            await asyncio.sleep(0.01)
    await slow.do("commit", "commit")

    assert await schedule.unblocks(step) == [1, 2, 3]


async def test_a_writer_that_began_later_is_not_waited_for(store, schedule):
    """Only the holders of that moment matter: a stream of newcomers does not starve the reader."""
    slow, quick, late = [await schedule.session(name) for name in ("slow", "quick", "late")]
    reader = Reader(store)
    await hold(slow, "a-1")
    await insert(quick, "b-1")
    step = schedule.start("reader", reader.upto(2), looks=reader.looks)
    await schedule.blocks(step)
    await hold(late, "c-1")
    await slow.do("commit", "commit")

    assert await schedule.unblocks(step) == [1, 2]


async def test_the_owner_ends_between_the_readers_statements(database, schedule):
    """Whichever statement of the settled mark a writer ends before or after, no mark passes its event."""
    reader = await schedule.session("reader")
    requests = 4  # last given, holders, pause, holders
    for end in ("commit", "rollback"):
        for moment in range(requests + 1):
            writer, quick = await schedule.session("writer"), await schedule.session("quick")
            position = await hold(writer, f"a-{uuid.uuid4()}")
            await insert(quick, f"b-{uuid.uuid4()}")
            stepper, ended = reader.stepper(marks.settle()), False
            for step in range(20):
                if step == moment:
                    await writer.do(end, end)
                if await stepper.step():
                    ended = True
                    break
                assert step < moment + 4, "the mark was never made"
            if not ended or step < moment:
                await writer.do(end, end)
                pytest.fail(f"the mark {stepper.result} was made while position {position} was undecided")
            assert stepper.result.position > position


async def test_a_writer_between_the_two_statements_is_not_in_the_mark(schedule):
    """It drew after the position was read: the mark lies below it."""
    reader, writer = await schedule.session("reader"), await schedule.session("writer")
    stepper = reader.stepper(marks.settle())
    await stepper.step()  # last given
    position = await hold(writer, "a-1")
    await stepper.step()  # holders: the newcomer is among them, and is waited for needlessly, never wrongly
    assert stepper.result is None
    await writer.do("commit", "commit")
    while not await stepper.step():
        pass

    assert stepper.result.position == position - 1


async def test_a_prepared_transaction_is_waited_for_under_its_name(store, schedule):
    """PREPARE leaves a holder without a process, while the reader waits for it, and before another begins to."""
    if not int((await (await schedule.session("ask")).do("ask", "show max_prepared_transactions"))[0][0]):
        pytest.skip("the server has max_prepared_transactions = 0")
    writer, quick = await schedule.session("writer"), await schedule.session("quick")
    reader = Reader(store)
    gid = f"pges-{uuid.uuid4()}"
    await hold(writer, "a-1")
    await insert(quick, "b-1")
    step = schedule.start("reader", reader.upto(2), looks=reader.looks)
    await schedule.blocks(step)
    await writer.do("prepare", f"prepare transaction '{gid}'")
    try:
        await schedule.blocks(step)
        await schedule.blocks(step)
        assert reader.seen == []
        late = store.read_all(settle=0.1)
        assert [r async for r in late] == []
        assert late.settled is False
    finally:
        await quick.do("commit prepared", f"commit prepared '{gid}'")

    assert await schedule.unblocks(step) == [1, 2]


async def test_a_terminated_writers_hole_is_passed(store, schedule):
    """Its transaction is rolled back by the server."""
    writer, quick = await schedule.session("writer"), await schedule.session("quick")
    reader = Reader(store)
    await hold(writer, "a-1")
    await insert(quick, "b-1")
    step = schedule.start("reader", reader.upto(1), looks=reader.looks)
    await schedule.blocks(step)
    await schedule.terminate(writer)

    assert await schedule.unblocks(step) == [2]


async def test_a_plain_insert_from_psql_is_safe_too(store, schedule):
    """Writers need no cooperation: COPY, INSERT ... SELECT, a function, a savepoint."""
    writer, quick = await schedule.session("writer"), await schedule.session("quick")
    reader = Reader(store)
    await writer.do("begin", "begin")
    await writer.do("savepoint", "savepoint s")
    await writer.do(
        "insert select",
        "insert into eventstore.events (stream_id, version, type, event_id, data)"
        " select 'bulk', n, 'Wanted', gen_random_uuid(), '{}' from generate_series(1, 3) n",
    )
    await writer.do("release", "release savepoint s")
    await insert(quick, "b-1")
    step = schedule.start("reader", reader.upto(4), looks=reader.looks)
    await schedule.blocks(step)
    await writer.do("commit", "commit")

    assert await schedule.unblocks(step) == [1, 2, 3, 4]


async def test_an_ancient_hole_behind_an_idle_writer_costs_nothing(database, schedule):
    """A hole below the published mark is dead, whoever holds the table now."""
    writer, quick = await schedule.session("writer"), await schedule.session("quick")
    await hold(writer, "a-1")
    await writer.do("rollback", "rollback")
    await insert(quick, "b-1")
    async with EventStore(database) as first:
        assert len([r async for r in first.read_all()]) == 1
        await first._frontier.publish(marks.Mark(2, dt.datetime.now(dt.UTC)))
    idle = await hold(writer, "a-2")

    async with EventStore(database, wake_ups=WakeUps(poll_seconds=0.05, listen=False)) as later:
        reader = Reader(later)
        step = schedule.start("reader", reader.upto(1), looks=reader.looks)
        assert await schedule.unblocks(step) == [2]
        assert [r.position async for r in later.read_all(settle=0)] == [2]
    assert idle == 3


async def test_a_filtered_reader_stops_at_the_mark(store, schedule):
    """It cannot see holes: an event of its type may yet appear below one of another type."""
    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    reader = Reader(store, types=[Wanted])
    await insert(quick, "b-1", "Wanted")
    await hold(slow, "a-1", "Wanted")
    await insert(quick, "b-2", "Other")
    await insert(quick, "b-3", "Wanted")
    step = schedule.start("reader", reader.upto(3), looks=reader.looks)
    await schedule.blocks(step)
    async with asyncio.timeout(10):
        while reader.seen != [1]:
            await asyncio.sleep(0.01)
    await slow.do("commit", "commit")

    assert await schedule.unblocks(step) == [1, 2, 4]


@pytest.mark.parametrize("types", [None, [Wanted]])
async def test_read_all_ends_before_the_first_open_hole_and_says_so(store, schedule, types):
    """And ends settled once the hole is decided."""
    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    await insert(quick, "b-1")
    await hold(slow, "a-1")
    await insert(quick, "b-2")

    early = store.read_all(types=types, settle=0.1)
    assert [r.position async for r in early] == [1]
    assert early.settled is False
    await slow.do("commit", "commit")
    late = store.read_all(types=types)
    assert [r.position async for r in late] == [1, 2, 3]
    assert late.settled is True


async def test_a_transaction_that_only_reads_or_writes_elsewhere_is_not_waited_for(store, schedule):
    """An old snapshot of the cluster, or a held transaction on another table, stops nobody."""
    old, quick = await schedule.session("old"), await schedule.session("quick")
    await old.do("begin", "begin isolation level repeatable read")
    await old.do("read", "select count(*) from eventstore.events")
    await old.do("write elsewhere", "create table elsewhere (n int)")
    await insert(quick, "b-1")

    reader = store.read_all(settle=5)
    assert [r.position async for r in reader] == [1]
    assert reader.settled is True


async def test_the_readers_connection_dies_and_it_goes_on(database, schedule):
    """Holders known before the reconnect are forgotten; the mark is begun anew and still does not pass the hole."""
    slow, quick, killer = [await schedule.session(name) for name in ("slow", "quick", "killer")]
    async with EventStore(database, wake_ups=WakeUps(poll_seconds=0.05, listen=False), application_name="cut") as store:
        reader = Reader(store)
        await hold(slow, "a-1")
        await insert(quick, "b-1")
        step = schedule.start("reader", reader.upto(2), looks=reader.looks)
        await schedule.blocks(step)
        for _ in range(3):
            await killer.do(
                "terminate the reader",
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where application_name like 'cut %' and datname = current_database()",
            )
            await schedule.blocks(step)
        assert reader.seen == []
        await slow.do("commit", "commit")

        assert await schedule.unblocks(step) == [1, 2]


async def lose_the_tail(session, keep):
    """What a crash with synchronous_commit=off, or a failover, leaves: the log ends earlier."""
    await session.do("begin", "begin")
    await session.do("allow", "set local eventstore.rewritten_by = 'test'")
    await session.do("lose", "delete from eventstore.events where position > $1", keep)
    await session.do("rewind", "select setval('eventstore.events_position_seq', $1)", keep)
    await session.do("mark", "update eventstore.safe_mark set position = least(position, $1)", keep)
    await session.do("commit", "commit")


@pytest.mark.parametrize("refilled", [False, True])
async def test_a_log_that_lost_its_tail_is_reported_not_skipped_over(database, schedule, refilled):
    """After a reconnect the head lies below the cursor, or another event stands where the last one stood."""
    quick, killer = await schedule.session("quick"), await schedule.session("killer")
    for n in range(3):
        await insert(quick, f"b-{n}")
    async with EventStore(database, wake_ups=WakeUps(poll_seconds=0.05, listen=False), application_name="cut") as store:
        reader = Reader(store)
        step = schedule.start("reader", reader.upto(9), looks=reader.looks)
        while len(reader.seen) < 3:
            await asyncio.sleep(0.01)
        await lose_the_tail(killer, 1)
        if refilled:
            for n in range(2):
                await insert(quick, f"other-{n}")
        await killer.do(
            "restart",
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where application_name like 'cut %' and datname = current_database()",
        )
        with pytest.raises(errors.LogRewound) as caught:
            await schedule.unblocks(step)
        assert caught.value.cursor == 3


async def test_another_log_behind_the_same_address_is_reported(database, schedule):
    """A restored copy carries another epoch once its operator gave it one."""
    quick, killer = await schedule.session("quick"), await schedule.session("killer")
    await insert(quick, "b-1")
    async with EventStore(database, wake_ups=WakeUps(poll_seconds=0.05, listen=False), application_name="cut") as store:
        reader = Reader(store)
        step = schedule.start("reader", reader.upto(9), looks=reader.looks)
        while not reader.seen:
            await asyncio.sleep(0.01)
        await killer.do("another log", "update eventstore.safe_mark set log_epoch = gen_random_uuid()")
        await killer.do(
            "restart",
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where application_name like 'cut %' and datname = current_database()",
        )
        with pytest.raises(errors.LogReplaced):
            await schedule.unblocks(step)


async def test_a_position_that_was_never_given_out_is_refused(store):
    """A cursor of another log must not wait in silence until this one has caught up with it."""
    with pytest.raises(errors.LogRewound, match="another log"):
        async with store.subscribe(after=7):
            pass


async def test_a_loop_that_is_left_and_begun_again_misses_nothing(store, schedule):
    """Each event counts as delivered when the loop is at it, not when its batch was read."""
    quick = await schedule.session("quick")
    for n in range(20):
        await insert(quick, f"b-{n}")
    seen = []
    async with store.subscribe() as live:
        for stop in (3, 7, 20):
            async for recorded in live:
                seen.append(recorded.position)
                assert live.position == recorded.position
                if recorded.position == stop:
                    break

    assert seen == list(range(1, 21))


async def test_a_cursor_beyond_the_log_is_refused_whoever_holds_a_transaction(store, schedule):
    """Whether it can be settled does not matter: nothing that far was given out."""
    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    await insert(quick, "b-1")
    await hold(slow, "a-1")

    with pytest.raises(errors.LogRewound):
        async with store.subscribe(after=22):
            pass
    with pytest.raises(errors.LogRewound):
        [r async for r in store.read_all(after=22, settle=0)]


async def test_a_cursor_from_before_is_checked_too_after_a_reconnect(database, schedule):
    """Though this subscription has delivered nothing yet."""
    quick, killer = await schedule.session("quick"), await schedule.session("killer")
    for n in range(3):
        await insert(quick, f"b-{n}")
    async with EventStore(database, wake_ups=WakeUps(poll_seconds=0.05, listen=False), application_name="cut") as store:
        reader = Reader(store, after=3)
        step = schedule.start("reader", reader.upto(9), looks=reader.looks)
        await schedule.blocks(step)
        await lose_the_tail(killer, 1)
        for n in range(2):
            await insert(quick, f"other-{n}")
        await killer.do(
            "restart",
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where application_name like 'cut %' and datname = current_database()",
        )
        with pytest.raises(errors.LogRewound):
            await schedule.unblocks(step)


async def test_a_log_without_its_safe_mark_is_an_error_not_a_silence(database, schedule):
    """As a partial restore leaves it."""
    await (await schedule.session("killer")).do("lose it", "delete from eventstore.safe_mark")
    async with EventStore(database) as store:
        for _ in range(2):
            with pytest.raises(errors.LogReplaced, match="safe_mark"):
                await asyncio.wait_for(anext(aiter(store.read_all())), 10)


async def test_a_server_that_is_gone_is_an_error_for_read_all(tmp_path, monkeypatch):
    """In bounded time; a subscription would wait."""
    monkeypatch.setattr(frontier, "OPEN_SECONDS", 1.0)
    server = await asyncio.to_thread(lambda: embedded.start(tmp_path, durable=False))
    async with EventStore(server.dsn, migrate=True) as store:
        await store.append("a-1", Wanted())
        await asyncio.to_thread(server.stop)
        with pytest.raises(errors.ConnectionLost):
            await asyncio.wait_for(anext(aiter(store.read_all())), 20)


async def test_rounds_do_not_pile_up_behind_a_held_transaction(database, schedule):
    """A forgotten transaction costs some looks a second, not more and more."""
    slow = await schedule.session("slow")
    async with EventStore(database) as store:
        await hold(slow, "a-1")
        most = 0
        for n in range(40):
            await store.append(f"b-{n}", Wanted())
            [r async for r in store.read_all(settle=0)]
            await asyncio.sleep(0.1)
            most = max(most, len(store._frontier._rounds))
        assert most <= 3


async def test_an_answer_that_never_comes_is_given_up(database, schedule, monkeypatch):
    """A network that swallows it: the connection is made anew and the subscription goes on."""
    monkeypatch.setattr(store_module, "WATCH_SECONDS", 0.5)
    quick = await schedule.session("quick")
    async with EventStore(database, wake_ups=WakeUps(poll_seconds=0.05, listen=False)) as store:
        reader = Reader(store)
        step = schedule.start("reader", reader.upto(2), looks=reader.looks)
        await insert(quick, "b-1")
        while not reader.seen:
            await asyncio.sleep(0.01)
        watching = store._frontier._connection.raw._transport
        watching.pause_reading()
        await insert(quick, "b-2")

        assert await schedule.unblocks(step) == [1, 2]


async def test_marks_are_published_at_most_once_a_second_and_only_when_the_log_moved(database, schedule):
    """And a process that appends nothing and reads nothing writes nothing."""
    watcher = await schedule.session("watcher")
    async with EventStore(database) as store:
        for n in range(200):
            await store.append(f"a-{n}", Wanted())
        await asyncio.sleep(1.5)
        marked = (await watcher.do("look", "select count(*), max(position) from eventstore.time_marks"))[0]
        assert marked["max"] == 200
        assert marked["count"] <= 4
        await asyncio.sleep(1.5)
        again = (await watcher.do("look", "select count(*), max(position) from eventstore.time_marks"))[0]
        assert again == marked
        safe = await watcher.do("look", "select position from eventstore.safe_mark")
        assert safe[0][0] == 200


async def test_a_held_transaction_does_not_keep_marks_below_its_hole_from_being_published(database, schedule):
    """What is decided is published, even while a round cannot end."""
    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    async with EventStore(database) as store:
        await store.append("a-1", Wanted())
        await hold(slow, "a-2")
        await store.append("a-3", Wanted())
        for _ in range(100):
            if (await quick.do("look", "select position from eventstore.safe_mark"))[0][0] == 1:
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("the mark was not published")
        await slow.do("rollback", "rollback")


async def test_an_idle_store_sends_no_statement(database, schedule):
    """No subscriber, nothing to publish: not even a poll."""
    watcher = await schedule.session("watcher")
    async with EventStore(database, application_name="idle") as store:
        await store.append("a-1", Wanted())
        await asyncio.sleep(2.5)
        ours = "application_name like 'idle %' and datname = current_database()"
        sql = f"select max(state_change) from pg_stat_activity where {ours}"
        before = (await watcher.do("look", sql))[0][0]
        await asyncio.sleep(1.0)
        assert (await watcher.do("look", sql))[0][0] == before


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_hole_wider_than_a_look_is_waited_for_and_passed(database, schedule, monkeypatch, end):
    """A large transaction under way: nothing within a look's reach can be seen, and what lies behind it must wait."""
    monkeypatch.setattr(marks, "CHUNK", 10)
    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    many = """insert into eventstore.events (stream_id, version, type, event_id, data)
              select 'large-1', n, 'Wanted', gen_random_uuid(), '{}' from generate_series(1, 35) n"""
    async with EventStore(database, wake_ups=WakeUps(poll_seconds=0.05, listen=False)) as store:
        await insert(quick, "a-1")
        await slow.do("begin", "begin")
        await slow.do("many", many)
        await insert(quick, "a-2")
        reader = Reader(store)
        step = schedule.start("reader", reader.upto(37 if end == "commit" else 2), looks=reader.looks)
        await schedule.blocks(step)
        assert reader.seen == [1]
        await slow.do(end, end)

        expected = list(range(1, 38)) if end == "commit" else [1, 37]
        assert await schedule.unblocks(step) == expected


async def test_a_frontier_whose_last_reader_left_at_a_hole_rests(database, schedule):
    """It does not look for anybody, and sends nothing."""
    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    async with EventStore(database, wake_ups=WakeUps(poll_seconds=0.05, listen=False)) as store:
        await hold(slow, "a-1")
        await insert(quick, "b-1")
        reader = Reader(store)
        step = schedule.start("reader", reader.upto(1), looks=reader.looks)
        await schedule.blocks(step)
        step.task.cancel()
        await asyncio.gather(step.task, return_exceptions=True)
        await asyncio.sleep(1.3)  # for a second it may come back
        before = reader.looks()
        await asyncio.sleep(1.0)
        assert reader.looks() - before <= 3
        await slow.do("rollback", "rollback")


async def test_what_was_read_ahead_from_a_log_that_is_gone_is_not_delivered(database, schedule):
    """The next batch is read while the first is worked on; then another log answers, equal up to there and not beyond."""
    quick = await schedule.session("quick")
    many = """insert into eventstore.events (stream_id, version, type, event_id, data)
              select $1 || n, 1, 'Wanted', gen_random_uuid(), '{}' from generate_series(1, $2::int) n"""
    async with EventStore(database, application_name="cut", wake_ups=WakeUps(poll_seconds=0.05, listen=False)) as store:
        await quick.do("many", many, "old-", 400)
        async with store.subscribe() as live:
            batches = live.batches()
            first = await anext(batches)
            assert first.upto == 100
            await asyncio.sleep(0.3)  # the batch after it has been read ahead
            await quick.do("lose the tail", "set eventstore.rewritten_by = 'a test'")
            await quick.do("lose the tail", "delete from eventstore.events where position > 150")
            await quick.do("lose the tail", "select setval('eventstore.events_position_seq', 150)")
            await quick.do("another tail", many, "new-", 350)
            await quick.do(
                "fail over",
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'cut marks'",
            )
            seen = [recorded.stream_id for recorded in first.events]
            async with asyncio.timeout(20):
                while len(seen) < 500:
                    seen += [recorded.stream_id for recorded in (await anext(batches)).events]
            await batches.aclose()
        expected = [f"old-{n}" for n in range(1, 151)] + [f"new-{n}" for n in range(1, 351)]
        assert seen == expected


async def test_one_round_is_enough_behind_one_transaction(database, schedule):
    """However long it is held, and however the log moves on: what is asked of the lock table does not grow."""
    slow, quick = await schedule.session("slow"), await schedule.session("quick")
    async with EventStore(database, wake_ups=WakeUps(poll_seconds=0.05, listen=False)) as store:
        await hold(slow, "a-1")
        await store.append("b-0", Wanted())
        reader = Reader(store)
        step = schedule.start("reader", reader.upto(5), looks=reader.looks)
        most = 0
        for n in range(1, 5):
            await asyncio.sleep(1.1)
            most = max(most, len(store._frontier._rounds))
            if n % 2:
                await store.append(f"b-{n}", Wanted())
        assert most <= 3
        await slow.do("commit", "commit")
        await quick.do("two more", INSERT, "b-9", "Wanted")
        await quick.do("two more", INSERT, "b-10", "Wanted")
        assert await schedule.unblocks(step) == [1, 2, 3, 4, 5]


async def test_a_loop_left_in_the_middle_of_a_batch_remembers_what_it_delivered(database, schedule):
    """A lost tail that was read but never delivered is no reason to stop."""
    quick = await schedule.session("quick")
    async with EventStore(database, application_name="cut", wake_ups=WakeUps(poll_seconds=0.05, listen=False)) as store:
        for n in range(5):
            await insert(quick, f"a-{n}")
        async with store.subscribe() as live:
            async for recorded in live:
                if recorded.position == 2:
                    break
            await quick.do("lose the tail", "set eventstore.rewritten_by = 'a test'")
            await quick.do("lose the tail", "delete from eventstore.events where position > 2")
            await quick.do(
                "fail over",
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'cut marks'",
            )
            await insert(quick, "b-1")
            async with asyncio.timeout(20):
                async for recorded in live:
                    assert recorded.stream_id == "b-1"
                    break
