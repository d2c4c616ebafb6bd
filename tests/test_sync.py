"""The blocking store: the same promises, from threads, in forked children, on users' connections."""

import asyncio
import contextlib
import inspect
import pickle
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psycopg
import pytest
from conftest import on_database, run_sql
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

import eventstore
from eventstore import EXISTS, NO_STREAM, Event, NewEvent, Query, WakeUps, sync, telemetry
from eventstore import EventStore as AsyncEventStore
from eventstore import transaction as async_transaction
from eventstore._drivers import psycopg_pools
from eventstore.errors import (
    AppendUnknown,
    AuthenticationFailed,
    CannotConnect,
    ConnectionLost,
    DatabaseRefused,
    EventStoreError,
    IdempotencyMismatch,
    InvalidArgument,
    InvalidEvent,
    InvalidUrl,
    LockTimeout,
    LogReplaced,
    LogRewound,
    Retryable,
    SchemaMissing,
    StoreClosed,
    VersionConflict,
)
from eventstore.feed import blocked
from eventstore.sync import Boundary, EventStore
from eventstore.testing import COMMIT, Awaitable, Proxy, Rule

pytestmark = pytest.mark.server

WAIT_SECONDS = 10
"""How long a test waits for what must come."""


class Noted(Event):
    n: int = 0


class Renamed(Event):
    n: int = 0


QUICK = WakeUps(poll_seconds=0.05)


@pytest.fixture
def blocking(database):
    """An open blocking store on a fresh database."""
    with EventStore(database, wake_ups=QUICK) as store:
        yield store


def numbers(recorded):
    return [one.data.n for one in recorded]


class Follower:
    """A subscription in a thread of its own."""

    def __init__(self, store, **options):
        self.seen, self.error, self._changed = [], None, threading.Condition()
        self.live = store.subscribe(**options)
        self.live.__enter__()
        self.thread = threading.Thread(target=self._follow)
        self.thread.start()

    def _follow(self):
        try:
            for recorded in self.live:
                with self._changed:
                    self.seen.append(recorded)
                    self._changed.notify_all()
        except EventStoreError as error:
            self.error = error

    def has(self, count, seconds=WAIT_SECONDS):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.seen) >= count, seconds), (
                f"{len(self.seen)} of {count} in {seconds} s"
            )

    def end(self):
        self.live.close()
        self.thread.join(WAIT_SECONDS)
        assert not self.thread.is_alive()


@pytest.fixture
def follow(blocking):
    """Start followers; each is ended."""
    started = []

    def go(store=blocking, **options):
        started.append(Follower(store, **options))
        return started[-1]

    yield go
    for one in started:
        one.end()


# -- appends and reads


def test_what_is_appended_is_read(blocking):
    """Versions, positions, ids; by stream, backwards, in parts."""
    first = blocking.append("a-1", [Noted(n=1), Noted(n=2)], expect=NO_STREAM)
    second = blocking.append("a-1", NewEvent(Noted(n=3), metadata={"by": "me"}), expect=2)
    blocking.append("b-1", Noted(n=4), expect=0)

    assert (first.first_version, first.version, second.version) == (1, 2, 3)
    assert second.position > first.position
    read = list(blocking.read_stream("a-1"))
    assert numbers(read) == [1, 2, 3]
    assert [one.event_id for one in read] == [*first.event_ids, *second.event_ids]
    assert read[2].metadata == {"by": "me"}
    assert numbers(blocking.read_stream("a-1", backwards=True, limit=2)) == [3, 2]
    assert numbers(blocking.read_stream("a-1", after=1, before=3)) == [2]
    assert blocking.stream_version("a-1") == 3
    assert blocking.stream_version("c-1") == 0
    assert blocking.head() == 4


def test_a_stream_of_many_batches_is_read_whole_both_ways(blocking):
    """The batches join without a gap or a double."""
    blocking.append("a-1", [Noted(n=n) for n in range(1500)])

    assert numbers(blocking.read_stream("a-1")) == list(range(1500))
    assert numbers(blocking.read_stream("a-1", backwards=True)) == list(range(1499, -1, -1))
    assert numbers(blocking.read_stream("a-1", limit=1001)) == list(range(1001))
    assert numbers(blocking.read_all(limit=1001)) == list(range(1001))


def test_refusals_are_those_of_the_async_store(blocking):
    """By class, before anything is sent where that can be."""
    blocking.append("a-1", Noted())

    with pytest.raises(VersionConflict) as caught:
        blocking.append("a-1", Noted(), expect=7)
    assert (caught.value.stream_id, caught.value.expected, caught.value.actual) == ("a-1", 7, 1)
    assert pickle.loads(pickle.dumps(caught.value)).actual == 1
    with pytest.raises(VersionConflict):
        blocking.append("b-1", Noted(), expect=EXISTS)
    with pytest.raises(InvalidArgument):
        blocking.append("a-1", [])
    with pytest.raises(InvalidEvent):
        blocking.append("a-1", NewEvent(Noted(), metadata={"x": "\0"}))
    with pytest.raises(InvalidArgument):
        list(blocking.read_stream("a-1", after=-1))
    with pytest.raises(InvalidArgument, match="sequences"):
        blocking.read_all(types="Noted")
    assert blocking.stream_version("a-1") == 1


def test_the_context_goes_into_the_events(blocking):
    """Of the thread that sets it, and of no other."""
    with blocking.context(correlation_id="order-1", actor="ada"):
        blocking.append("a-1", Noted())
        with ThreadPoolExecutor(1) as other:
            other.submit(blocking.append, "b-1", Noted()).result()

    (mine,), (others,) = blocking.read_stream("a-1"), blocking.read_stream("b-1")
    assert (mine.correlation_id, mine.metadata) == ("order-1", {"actor": "ada"})
    assert (others.correlation_id, others.metadata) == (None, {})


def test_a_repeated_append_gives_the_first_result(blocking, database):
    """By its request id, or its event ids at an exact version; other content under the same name is refused."""
    first = blocking.append("a-1", [Noted(n=1), Noted(n=2)], request_id="key-1")
    again = blocking.append("a-1", [Noted(n=1), Noted(n=2)], request_id="key-1")
    assert again == first._replace(deduplicated=True)
    with pytest.raises(IdempotencyMismatch):
        blocking.append("a-1", Noted(n=3), request_id="key-1")

    event = NewEvent(Noted(n=4), event_id=uuid.uuid4())
    second = blocking.append("a-1", event, expect=2)
    assert blocking.append("a-1", event, expect=2) == second._replace(deduplicated=True)
    with pytest.raises(VersionConflict):
        blocking.append("a-1", Noted(n=4), expect=2)
    with blocking.transaction() as tx:
        assert tx.append("a-1", [Noted(n=1), Noted(n=2)], request_id="key-1").deduplicated
        joined = tx.append("b-1", Noted(n=5), request_id="key-2")
    assert blocking.append("b-1", Noted(n=5), request_id="key-2") == joined._replace(deduplicated=True)

    assert numbers(blocking.read_all()) == [1, 2, 4, 5]


@pytest.mark.parametrize("contended", [False, True])
def test_one_thread_wins_each_version(blocking, contended):
    """Eight threads want the same version again and again: one gets it, the others are told which it is at."""
    threads, rounds = 8, 15
    barrier = threading.Barrier(threads)

    def race(me):
        won = []
        for version in range(rounds):
            barrier.wait(WAIT_SECONDS)
            try:
                blocking.append("hot-1", Noted(n=me), expect=version)
                won.append(version)
            except VersionConflict as error:
                assert error.actual == version + 1
            if contended:
                blocking.append("hot-2", Noted(n=me))
        return won

    with ThreadPoolExecutor(threads) as pool:
        wins = list(pool.map(race, range(threads)))

    assert sorted(version for won in wins for version in won) == list(range(rounds))
    written = [one.data.n for one in blocking.read_stream("hot-1")]
    assert [me for me, won in enumerate(wins) for _ in won] == sorted(written)
    assert blocking.stream_version("hot-2") == (threads * rounds if contended else 0)


def test_more_threads_than_connections_take_turns(blocking):
    """The budget holds, and nobody fails."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: blocking.append(f"a-{n}", Noted(n=n)), range(200)))

    assert sorted(numbers(blocking.read_all())) == list(range(200))
    kinds = (
        "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'eventstore append'"
    )
    assert run_sql(blocking.dsn, kinds) == 2


def test_whoever_waits_too_long_for_a_connection_is_told(blocking, monkeypatch):
    """What is taken, and what to do."""
    monkeypatch.setattr(psycopg_pools, "ACQUIRE_SECONDS", 0.1)
    with contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(blocking.transaction())

        with pytest.raises(Retryable, match="3\\)") as caught, blocking.transaction():
            pass
        assert caught.value.sqlstate == "53300"
    with blocking.transaction() as tx:
        tx.append("a-1", Noted())


# -- reading the log


def test_read_all_filters_and_ends_at_a_settled_mark(blocking):
    """Types by class or name, categories; `settled` says that nothing earlier can follow."""
    blocking.append("a-1", [Noted(n=1), Renamed(n=2)])
    blocking.append("b-1", [Noted(n=3)])

    everything = blocking.read_all()
    assert numbers(everything) == [1, 2, 3]
    assert everything.settled is True
    assert numbers(blocking.read_all(types=[Renamed])) == [2]
    assert numbers(blocking.read_all(types=["Noted"], categories=["b"])) == [3]
    assert numbers(blocking.read_all(after=1)) == [2, 3]
    limited = blocking.read_all(limit=2)
    assert numbers(limited) == [1, 2]
    assert limited.settled is None
    with pytest.raises(LogRewound):
        list(blocking.read_all(after=1000))


def test_read_all_ends_before_a_transaction_that_is_still_open(blocking, database):
    """What was committed behind it comes with the next reading; `settled` says so."""
    blocking.append("a-1", Noted(n=1))
    with psycopg.connect(database) as held:
        tx = blocking.join(held)
        tx.append("b-1", Noted(n=2))
        blocking.append("c-1", Noted(n=3))

        first = blocking.read_all(settle=0.05)
        assert numbers(first) == [1]
        assert first.settled is False
    second = blocking.read_all()
    assert numbers(second) == [1, 2, 3]
    assert second.settled is True


def test_read_all_waits_for_a_transaction_that_ends_in_time(blocking, database):
    """And delivers what it has committed."""
    with psycopg.connect(database) as held:
        blocking.join(held).append("b-1", Noted(n=1))
        blocking.append("c-1", Noted(n=2))
        with ThreadPoolExecutor(1) as pool:
            reader = blocking.read_all(settle=WAIT_SECONDS)
            read = pool.submit(lambda: numbers(reader))
            waits_for_holder(database)
            held.commit()
            assert read.result(WAIT_SECONDS) == [1, 2]
    assert reader.settled is True


def waits_for_holder(database):
    """Until somebody has asked who may still commit."""
    deadline = time.monotonic() + WAIT_SECONDS
    asked = "select count(*) from pg_stat_activity where application_name = 'eventstore read' and query like '%pg_locks%' and datname = current_database()"
    while not run_sql(database, asked):
        assert time.monotonic() < deadline


def test_a_subscriber_sees_the_past_and_then_what_comes(blocking, follow):
    """From where it was told to begin, in order, once each."""
    blocking.append("a-1", [Noted(n=n) for n in range(300)])
    one = follow(after=100)
    one.has(200)
    for n in range(300, 310):
        blocking.append(f"b-{n}", Noted(n=n))
    one.has(210)

    assert numbers(one.seen) == list(range(100, 310))


async def test_an_append_elsewhere_is_seen_within_the_poll(database):
    """By an async store in the same database, which nobody tells us about."""
    with EventStore(database, wake_ups=WakeUps(poll_seconds=0.1)) as store:
        one = Follower(store)
        try:
            async with AsyncEventStore(database, wake_ups=WakeUps(notify=False, listen=False)) as other:
                await other.append("a-1", Noted(n=1))
                await asyncio.to_thread(one.has, 1)
        finally:
            one.end()


def test_a_subscriber_never_passes_a_hole(blocking, database, follow):
    """Sixteen threads append, some of them roll back: each committed event comes once, in order."""
    one = follow()
    rolled_back = 0

    def work(n):
        if n % 3:
            blocking.append(f"a-{n}", Noted(n=n))
            return
        with contextlib.suppress(ZeroDivisionError), blocking.transaction() as tx:
            tx.append(f"a-{n}", Noted(n=n))
            if n % 2:
                raise ZeroDivisionError

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(300)))
    rolled_back = len([n for n in range(300) if n % 3 == 0 and n % 2])
    one.has(300 - rolled_back)

    positions = [recorded.position for recorded in one.seen]
    assert positions == sorted(set(positions))
    assert len(positions) == run_sql(database, "select count(*) from eventstore.events")
    assert max(positions) > len(positions)  # there were holes


def test_a_subscriber_waits_at_a_held_transaction_and_goes_on(blocking, database, follow):
    """Also where what it held is rolled back, which leaves the hole for ever."""
    one = follow()
    with psycopg.connect(database) as held:
        blocking.join(held).append("a-1", Noted(n=1))
        blocking.append("b-1", Noted(n=2))
        blocking.append("c-1", Noted(n=3))
        waits_for_holder(database)
        assert one.seen == []
        held.rollback()
    one.has(2)

    assert numbers(one.seen) == [2, 3]


def test_a_blocked_subscriber_says_by_whom(database, monkeypatch):
    """After a while, to telemetry, with the pid that holds."""
    monkeypatch.setattr(blocked, "BLOCKED_SECONDS", 0.1)
    signals, told = [], threading.Event()

    def note(signal):
        signals.append(signal)
        told.set()

    with EventStore(database, wake_ups=QUICK, telemetry=note) as store, psycopg.connect(database) as held:
        one = Follower(store)
        try:
            store.join(held).append("a-1", Noted(n=1))
            holder = held.info.backend_pid
            store.append("b-1", Noted(n=2))
            assert told.wait(WAIT_SECONDS)
            held.commit()
            one.has(2)
        finally:
            one.end()
    assert isinstance(signals[0], telemetry.FeedBlocked)
    assert [blocker.pid for blocker in signals[0].blockers] == [holder]


def test_close_of_a_subscription_ends_its_loop_from_another_thread(blocking, follow):
    """While it waits, without an error; nothing comes after."""
    one = follow()
    one.end()
    blocking.append("a-1", Noted())

    assert one.error is None
    assert one.seen == []


def test_close_of_the_store_ends_subscribers_with_an_error(database):
    """They must not take silence for the end."""
    store = EventStore(database, wake_ups=WakeUps(poll_seconds=60)).open()
    one = Follower(store)
    store.close()
    one.thread.join(WAIT_SECONDS)

    assert isinstance(one.error, StoreClosed)


def test_batches_also_say_that_nothing_came(blocking):
    """And a loop that was left goes on with the next event."""
    blocking.append("a-1", [Noted(n=n) for n in range(5)])
    with blocking.subscribe() as live:
        for recorded in live:
            if recorded.data.n == 2:
                break
        assert live.position == recorded.position
        batches = live.batches(idle_seconds=0.05)
        assert numbers(next(batches).events) == [3, 4]
        assert list(next(batches).events) == []
        batches.close()
    with pytest.raises(InvalidArgument, match="with store.subscribe"):
        next(iter(live))
    with pytest.raises(LogRewound), blocking.subscribe(after=1000):
        pass


def test_a_subscriber_survives_that_its_connections_are_terminated(blocking, database, follow):
    """It reads again where it was."""
    one = follow()
    for n in range(5):
        run_sql(
            database,
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'eventstore read' and datname = current_database()",
        )
        blocking.append("a-1", Noted(n=n))
        one.has(n + 1)

    assert numbers(one.seen) == list(range(5))


@pytest.mark.parametrize("what", ["replaced", "rewound"])
def test_a_subscriber_notices_another_log_after_a_reconnect(blocking, database, follow, what):
    """Another epoch, or another event where the last one stood."""
    blocking.append("a-1", [Noted(n=1), Noted(n=2)])
    one = follow()
    one.has(2)

    kill = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'eventstore read' and datname = current_database()"
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("set session_replication_role = replica")  # no triggers
        if what == "replaced":
            owner.execute("update eventstore.safe_mark set log_epoch = gen_random_uuid()")
        else:
            owner.execute("update eventstore.events set event_id = gen_random_uuid() where version = 2")
        owner.execute(kill)
    blocking.append("b-1", Noted(n=3))
    one.thread.join(WAIT_SECONDS)

    assert type(one.error) is {"replaced": LogReplaced, "rewound": LogRewound}[what]


# -- transactions and joins


def test_a_transaction_is_all_or_nothing(blocking):
    """Over several streams; it sees its own appends, and a conflict leaves it usable."""
    with blocking.transaction() as tx:
        tx.append("a-1", [Noted(n=1), Noted(n=2)], expect=NO_STREAM)
        with pytest.raises(VersionConflict):
            tx.append("a-1", Noted(n=9), expect=7)
        tx.append("b-1", Noted(n=3))
        assert numbers(tx.read_stream("a-1")) == [1, 2]
        assert numbers(tx.read_stream("a-1", backwards=True, limit=1)) == [2]
        assert (tx.stream_version("a-1"), tx.stream_version("c-1")) == (2, 0)
        assert blocking.stream_version("a-1") == 0
        assert tx.connection.execute("select count(*) from eventstore.events").fetchone() == (3,)
    with pytest.raises(ZeroDivisionError), blocking.transaction() as tx:
        tx.append("c-1", Noted(n=4))
        raise ZeroDivisionError
    with blocking.transaction() as tx:
        tx.append("d-1", Noted(n=5))
        raise psycopg.Rollback

    assert numbers(blocking.read_all()) == [1, 2, 3]


HOSTILE = {
    "as it comes": {},
    "rows are dicts": {"row_factory": dict_row},
    "cursors bind on the client": {"cursor_factory": psycopg.ClientCursor},
    "never prepares": {"prepare_threshold": None},
    "repeatable read": {"options": "-c default_transaction_isolation=repeatable\\ read"},
    "serializable": {"options": "-c default_transaction_isolation=serializable"},
}


def test_a_failed_statement_that_was_swallowed_fails_the_block(blocking):
    """PostgreSQL answers COMMIT with ROLLBACK then, and psycopg takes that for a yes."""
    with pytest.raises(DatabaseRefused, match="nothing was committed") as caught, blocking.transaction() as tx:
        tx.append("a-1", Noted(n=1))
        with pytest.raises(psycopg.errors.DivisionByZero):
            tx.connection.execute("select 1/0")
    with blocking.transaction() as tx:
        tx.append("a-1", Noted(n=2), expect=0)
        with pytest.raises(psycopg.errors.DivisionByZero), tx.connection.transaction():
            tx.connection.execute("select 1/0")

    assert caught.value.sqlstate == "25P02"
    assert [recorded.data.n for recorded in blocking.read_stream("a-1")] == [2]


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("setting", HOSTILE)
def test_a_join_is_part_of_the_users_transaction(blocking, database, setting, autocommit):
    """Committed and rolled back with it, whatever the connection is set to; also if the append is its first statement."""
    with psycopg.connect(database, autocommit=autocommit, **HOSTILE[setting]) as mine:
        block = mine.transaction if autocommit else contextlib.nullcontext
        with block():
            tx = blocking.join(mine)
            tx.append("a-1", Noted(n=1), expect=NO_STREAM)
            with pytest.raises(VersionConflict):
                tx.append("a-1", Noted(n=2), expect=NO_STREAM)
            assert blocking.stream_version("a-1") == 0
            mine.execute("create table t (n int)")
        if not autocommit:
            mine.commit()
        assert blocking.stream_version("a-1") == 1

        with contextlib.suppress(psycopg.Rollback), block():
            tx = blocking.join(mine)
            tx.append("a-1", Noted(n=3))
            assert tx.connection is mine
            assert numbers(tx.read_stream("a-1")) == [1, 3]
            if not autocommit:
                mine.rollback()
            else:
                raise psycopg.Rollback

    assert numbers(blocking.read_stream("a-1")) == [1]


def test_a_join_loses_a_race_without_losing_the_transaction(blocking, database):
    """Two joined writers want one version: the one that waits finds itself refused, and goes on."""
    with psycopg.connect(database) as first, psycopg.connect(database) as second, ThreadPoolExecutor(1) as pool:
        second.execute("create table t (n int)")
        blocking.join(first).append("a-1", Noted(n=1), expect=NO_STREAM)
        tx = blocking.join(second)
        waiting = pool.submit(tx.append, "a-1", Noted(n=2), expect=NO_STREAM)
        blocked = "select count(*) from pg_locks where not granted"
        while not run_sql(database, blocked):
            assert not waiting.done()
        first.commit()
        with pytest.raises(VersionConflict):
            waiting.result(WAIT_SECONDS)
        tx.append("a-1", Noted(n=3), expect=1)

    assert numbers(blocking.read_stream("a-1")) == [1, 3]
    assert run_sql(database, "select count(*) from t") == 0


def test_what_cannot_be_joined_is_refused(blocking, database):
    """No transaction to be part of, no connection at all, a connection that is gone, a store that is not open."""
    with psycopg.connect(database, autocommit=True) as mine:
        with pytest.raises(InvalidArgument, match="with connection.transaction"):
            blocking.join(mine).append("a-1", Noted())
        with pytest.raises(StoreClosed):
            EventStore(database).join(mine)
        with mine.transaction():
            tx = blocking.join(mine)
    with pytest.raises(ConnectionLost):
        tx.read_stream("a-1")
    with pytest.raises(ConnectionLost):
        tx.append("a-1", Noted())
    with pytest.raises(InvalidArgument, match=r"got .*str"):
        blocking.join("postgresql://")
    assert blocking.head() == 0


def test_wake_tells_subscribers_of_a_joined_commit(database):
    """At once, not at the next poll."""
    with EventStore(database, wake_ups=WakeUps(poll_seconds=3600)) as store, psycopg.connect(database) as mine:
        one = Follower(store)
        try:
            store.append("a-1", Noted(n=1))
            one.has(1)
            store.join(mine).append("b-1", Noted(n=2))
            mine.commit()
            store.wake()
            one.has(2)
        finally:
            one.end()
    store.wake()  # closed: no error


# -- others


async def test_an_append_notifies_other_processes_and_publishes_a_mark(database):
    """An async store that polls once an hour sees it at once; the mark is published within about a second."""
    heard = asyncio.Event()
    listener = await asyncpg.connect(database, ssl=False)
    await listener.add_listener("eventstore_log", lambda *_: heard.set())

    def append(n):
        store.append(f"a-{n}", Noted(n=n))

    store = await asyncio.to_thread(EventStore(database).open)
    try:
        await asyncio.to_thread(append, 1)
        await asyncio.wait_for(heard.wait(), WAIT_SECONDS)
        await asyncio.to_thread(append, 2)
        deadline = time.monotonic() + WAIT_SECONDS
        while await listener.fetchval("select position from eventstore.safe_mark") != 2:
            assert time.monotonic() < deadline
    finally:
        await asyncio.to_thread(store.close)
        await listener.close()


def test_closing_publishes_and_notifies_what_is_due(database):
    """A script that appends and ends leaves no mark behind."""
    with EventStore(database) as store:
        store.append("a-1", [Noted(), Noted()])

    assert run_sql(database, "select position from eventstore.safe_mark") == 2


def test_a_held_transaction_bounds_the_mark(blocking, database):
    """It is published up to the hole, and beyond once that is closed."""
    with psycopg.connect(database) as held:
        blocking.append("a-1", Noted())
        blocking.join(held).append("b-1", Noted())
        blocking.append("c-1", Noted())
        blocking.close()
        assert run_sql(database, "select position from eventstore.safe_mark") == 1
    with EventStore(database) as again:
        again.append("d-1", Noted())
    assert run_sql(database, "select position from eventstore.safe_mark") == 4


def test_no_append_fails_where_nobody_can_be_told(database, caplog):
    """The thread that notifies loses its connection, and says so."""
    with EventStore(database, wake_ups=WakeUps(poll_seconds=0.05)) as store:
        one = Follower(store)
        try:
            kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'eventstore marks' and datname = current_database()"
            for n in range(20):
                store.append("a-1", Noted(n=n))
                run_sql(database, kill)
            one.has(20)
        finally:
            one.end()


# -- trouble


async def test_a_connection_that_dies_in_an_append_makes_it_unknown(database):
    """The server has committed, the client never hears of it; the ids say what to look for."""
    async with Proxy(database) as proxy:
        store = await asyncio.to_thread(EventStore(proxy.url, wake_ups=WakeUps(notify=False)).open)
        try:
            await asyncio.to_thread(store.append, "a-1", Noted(n=1))
            strike = proxy.cut_when(Rule("server", "P", b"append_v"), forward=True)
            with pytest.raises(AppendUnknown) as caught:
                await asyncio.to_thread(store.append, "a-1", Noted(n=2))
            await strike.wait()
            proxy.heal()
            read = await asyncio.to_thread(lambda: list(store.read_stream("a-1")))
        finally:
            await asyncio.to_thread(store.close)

    assert caught.value.stream_ids == ("a-1",)
    assert read[-1].event_id == caught.value.event_ids[0]


async def test_a_connection_that_dies_in_a_commit_makes_the_transaction_unknown(database):
    """With all that it appended; before the commit it is just lost."""
    async with Proxy(database) as proxy:
        store = await asyncio.to_thread(EventStore(proxy.url, wake_ups=WakeUps(notify=False)).open)

        def go(fail_at):
            with store.transaction() as tx:
                tx.append("a-1", Noted(n=1))
                tx.append("b-1", Noted(n=2))
                if fail_at == "append":
                    run_sql(database, f"select pg_terminate_backend({tx.connection.info.backend_pid})")
                    tx.append("c-1", Noted(n=3))

        try:
            with pytest.raises(ConnectionLost):
                await asyncio.to_thread(go, "append")
            proxy.cut_when(COMMIT, forward=True)
            with pytest.raises(AppendUnknown) as caught:
                await asyncio.to_thread(go, "commit")
            proxy.heal()
            head = await asyncio.to_thread(store.stream_version, "b-1")
        finally:
            await asyncio.to_thread(store.close)

    assert caught.value.stream_ids == ("a-1", "b-1")
    assert head == 1


@pytest.mark.parametrize("forward", [True, False])
async def test_a_store_that_resolves_finds_out_itself(database, forward):
    """Whether the server has committed before the connection died, or never saw it: once, and the caller is told."""
    async with Proxy(database) as proxy:
        options = {"resolve_unknown": True, "wake_ups": WakeUps(notify=False)}
        store = await asyncio.to_thread(EventStore(proxy.url, **options).open)

        def go():
            with store.transaction() as tx:
                tx.append("b-1", Noted(n=2))

        try:
            strikes = [proxy.cut_when(Rule("server", "P", b"append_v"), forward=forward)]
            done = await asyncio.to_thread(store.append, "a-1", Noted(n=1))
            strikes.append(proxy.cut_when(COMMIT, forward=forward))
            if forward:
                await asyncio.to_thread(go)
            else:
                with pytest.raises(ConnectionLost):
                    await asyncio.to_thread(go)
            read = await asyncio.to_thread(lambda: list(store.read_all()))
        finally:
            await asyncio.to_thread(store.close)

    assert [strike.count for strike in strikes] == [1, 1]
    assert numbers(read) == ([1, 2] if forward else [1])
    assert (done.version, done.deduplicated, done.event_ids) == (1, False, (read[0].event_id,))


@pytest.mark.parametrize("forward", [True, False])
async def test_a_request_of_the_callers_is_followed_up_without_being_asked(database, forward):
    """Its id tells what became of it; the answer is the first result, and there is one event."""
    async with Proxy(database) as proxy:
        store = await asyncio.to_thread(EventStore(proxy.url, wake_ups=WakeUps(notify=False)).open)
        try:
            cut = proxy.cut_when(Rule("server", "P", b"append_v"), forward=forward)
            done = await asyncio.to_thread(store.append, "a-1", Noted(n=1), request_id="r-1")
            read = await asyncio.to_thread(lambda: list(store.read_all()))
        finally:
            await asyncio.to_thread(store.close)

    assert cut.count == 1
    assert numbers(read) == [1]
    assert (done.version, done.event_ids) == (1, (read[0].event_id,))


def test_connections_that_died_while_idle_cost_no_append(blocking, database):
    """As after a restart of the server: the farewell is noticed before the connection is used."""
    blocking.append("a-1", Noted(n=0))
    gone = (
        "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'eventstore %'"
    )
    for n in range(1, 4):
        run_sql(database, gone.replace("count(*)", "count(pg_terminate_backend(pid))"))
        while run_sql(database, gone.replace("like 'eventstore %'", "in ('eventstore append', 'eventstore read')")):
            pass
        blocking.append("a-1", Noted(n=n))
        assert blocking.stream_version("a-1") == n + 1


def with_user(url, user):
    return urlunsplit(urlsplit(url)._replace(netloc=f"{user}@{urlsplit(url).netloc.rpartition('@')[2]}"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda url: on_database(url, "no_such_database"), CannotConnect),
        (lambda url: "postgresql://me:secret@127.0.0.1:1/x", CannotConnect),
        (lambda url: "postgresql://me:secret@no.such.host.invalid/x", CannotConnect),
        (lambda url: with_user(url, "nobody_here:secret"), AuthenticationFailed),
    ],
)
async def test_a_wrong_address_is_said_at_opening(database, change, error):
    """By the classes of the async store, and without the password."""
    with pytest.raises(error) as caught:
        await asyncio.to_thread(EventStore(change(database)).open)
    with pytest.raises(error):
        await AsyncEventStore(change(database)).open()

    assert "secret" not in str(caught.value)


def test_a_store_that_is_not_open_refuses(database, empty_database):
    """Before, after and twice; and a database without the schema says what to do."""
    store = EventStore(database)
    with pytest.raises(StoreClosed):
        store.append("a-1", Noted())
    with store, pytest.raises(InvalidArgument, match="open already"):
        store.open()
    store.close()
    with pytest.raises(StoreClosed):
        store.head()
    with store:  # again
        assert store.head() == 0
    with pytest.raises(SchemaMissing, match="migrate"):
        EventStore(empty_database).open()
    with pytest.raises(InvalidUrl):
        EventStore("mysql://x")
    with pytest.raises(InvalidArgument):
        EventStore(database, max_connections=4)
    with pytest.raises(InvalidArgument, match="give it the URL"):
        EventStore(ConnectionPool(database, open=False))


def test_it_migrates_on_request_and_uses_another_schema(empty_database):
    """All statements go there."""
    with EventStore(empty_database, schema="elsewhere", migrate=True) as store:
        store.append("a-1", Noted(n=1))
        with store.transaction() as tx:
            tx.append("a-1", Noted(n=2))
        with psycopg.connect(empty_database) as mine:
            store.join(mine).append("a-1", Noted(n=3))
        assert numbers(store.read_all()) == [1, 2, 3]
    assert run_sql(empty_database, "select count(*) from elsewhere.events") == 3


def test_sqlalchemys_urls_and_engines_name_the_database(database):
    """Their addresses, not their connections."""
    import sqlalchemy

    url = database.replace("postgresql:", "postgresql+psycopg:")
    engine = sqlalchemy.create_engine(url)
    for address in (url, engine, engine.url, database.replace("postgresql:", "postgresql+asyncpg:")):
        with EventStore(address) as store:
            assert store.head() == 0


def test_closing_waits_for_appends_under_way(database):
    """A caller whose append is committed is told so; one that comes later is refused."""
    store = EventStore(database).open()
    stop, outcomes = threading.Event(), []

    def work(n):
        done = 0
        with contextlib.suppress(StoreClosed):
            while True:
                store.append(f"a-{n}", Noted())
                done += 1
                if done == 5:
                    stop.set()
        outcomes.append(done)

    with ThreadPoolExecutor(4) as pool:
        for n in range(4):
            pool.submit(work, n)
        assert stop.wait(WAIT_SECONDS)
        store.close()

    assert sum(outcomes) == run_sql(database, "select count(*) from eventstore.events")
    assert len(outcomes) == 4


# -- forks

FORKING = """
import gc, os, sys, threading, time
import psycopg
from eventstore import Event, WakeUps
from eventstore.errors import InvalidArgument
from eventstore.sync import Boundary, EventStore

class Noted(Event):
    n: int = 0

def pids():
    mine = "datname = current_database() and application_name like 'eventstore%'"
    with psycopg.connect(url) as raw:
        return {row[0] for row in raw.execute(f"select pid from pg_stat_activity where {mine}")}

url, count, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with EventStore(url, wake_ups=WakeUps(poll_seconds=0.02)) as store:
    store.append("parent-1", [Noted(), Noted()])
    list(store.read_all())
    stop = threading.Event()

    def busy():  # connections of every kind are in use, and locks are taken, while the process forks
        while not stop.is_set():
            store.append("busy-1", Noted())
            list(store.read_all(after=store.head() - 1))
            with store.transaction() as tx:
                tx.append("busy-2", Noted())

    threads = [threading.Thread(target=busy) for _ in range(2)]
    [thread.start() for thread in threads]
    time.sleep(0.3)
    before = pids()  # idle ones and others
    assert len(before) > 3, before
    children = []
    for child in range(4):
        with store.transaction() as tx:
            tx.append("parent-2", Noted())
            pid = os.fork()
            if pid == 0:
                try:
                    try:
                        tx.append("parent-2", Noted())
                        os._exit(3)
                    except InvalidArgument as error:
                        assert "process" in str(error), error
                    for n in range(count):
                        store.append(f"child-{child}", Noted(n=n), expect=n)
                    with store.transaction() as mine:
                        mine.append(f"child-{child}", Noted(n=count))
                    assert len(list(store.read_stream(f"child-{child}"))) == count + 1
                    with store.subscribe() as live:
                        for recorded in live:
                            if recorded.stream_id == f"child-{child}":
                                break
                    gc.collect()
                    if mode == "close":
                        store.close()
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(1)
                if mode == "exit":  # as Python exits: through all that the parent has opened
                    sys.exit(0)
                os._exit(0)
            children.append(pid)
        for n in range(count):
            store.append("parent-1", Noted(n=n))
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0] * 4, codes
    stop.set()
    [thread.join() for thread in threads]
    assert before <= pids(), "the parent has lost connections"
    store.append("parent-1", Noted())
    assert len(list(store.read_stream("parent-1"))) == 3 + 4 * count
    assert store.stream_version("parent-2") == 4
    print("reads", len(list(store.read_all())))
"""


@pytest.mark.parametrize("mode", ["close", "leave", "exit"])
def test_a_forked_child_has_connections_of_its_own(database, mode):
    """Parent and children go on appending; no connection of the parent's dies when a child ends, however it ends."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, database, "10", mode],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reads"), done.stdout
    assert run_sql(database, "select count(*) from eventstore.events where stream_id like 'child-%'") == 4 * 11
    assert done.stderr == ""


WORKERS = """
import multiprocessing, sys
from eventstore import Event
from eventstore.sync import Boundary, EventStore

class Noted(Event):
    n: int = 0

store = EventStore(sys.argv[1])

def work(n):
    for k in range(10):
        store.append(f"a-{n}", Noted(n=k), expect=k)
    return store.stream_version(f"a-{n}")

if __name__ == "__main__":
    store.open()
    store.append("a-0", Noted())
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(work, range(1, 7)) == [10] * 6
        pool.close()
        pool.join()
    assert store.stream_version("a-0") == 1
    store.close()
"""


def test_workers_that_fork_from_an_open_store_need_do_nothing(database):
    """As gunicorn with preload, or Celery's prefork pool: they exit as Python exits."""
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, database], capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_embedded_addresses_work_and_a_childs_end_leaves_the_server_running(tmp_path):
    """A server of its own, its data kept, the schema made."""
    code = """
import os, sys
from eventstore import Event
from eventstore.sync import Boundary, EventStore

class Noted(Event):
    pass

with EventStore("embedded:./data") as store:
    store.append("a-1", Noted())
    pid = os.fork()
    if pid == 0:
        store.append("a-1", Noted())
        store.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    store.append("a-1", Noted())
with EventStore("embedded:./data") as store:
    print("version", store.stream_version("a-1"))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "version 3" in done.stdout


async def test_an_async_face_lets_one_suite_run_on_both(database):
    """Its methods are the async store's, its results the blocking one's."""
    async with Awaitable(EventStore(database, wake_ups=QUICK)) as store:
        with store.context(actor="ada"):
            done = await store.append("a-1", Noted(n=1), expect=NO_STREAM)
        with pytest.raises(ZeroDivisionError):
            async with store.transaction() as tx:
                await tx.append("a-1", Noted(n=9))
                raise ZeroDivisionError
        async with store.transaction() as tx:
            await tx.append("a-1", Noted(n=2))
            assert await tx.stream_version("a-1") == 2
            assert numbers(await tx.read_stream("a-1")) == [1, 2]
        read = [one async for one in store.read_stream("a-1")]
        assert numbers(read) == [1, 2]
        assert read[0].metadata == {"actor": "ada"}
        reader = store.read_all()
        assert [one.data.n async for one in reader] == [1, 2]
        assert reader.settled is True
        assert (await store.head(), await store.stream_version("a-1")) == (read[-1].position, 2)
        async with store.subscribe(after=done.position) as live:
            async for recorded in live:
                assert recorded.data.n == 2
                break
            assert live.position == recorded.position
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(aiter(live))
        mine = await asyncio.to_thread(psycopg.connect, database)
        await store.join(mine).append("b-1", Noted(n=3))
        await asyncio.to_thread(mine.commit)
        await asyncio.to_thread(mine.close)
        assert await store.stream_version("b-1") == 1


# -- decisions


@pytest.mark.parametrize("inside", [False, True], ids=["store", "transaction"])
def test_a_decision_that_was_overtaken_is_made_again_on_what_is_there_now(blocking, monkeypatch, inside):
    """By an event that came between reading and appending; inside a transaction too, which sees what others commit."""
    seen = []

    def decide(events):
        seen.append(numbers(events))
        return {"a-2": NewEvent(Noted(n=2), tags=["t:1"])}

    with blocking.transaction() if inside else contextlib.nullcontext(blocking) as source:
        read = source._read_boundary

        def read_and_be_overtaken(items):
            answer = read(items)
            if not seen:
                blocking.append("a-1", NewEvent(Noted(n=1), tags=["t:1"]))
            return answer

        monkeypatch.setattr(source, "_read_boundary", read_and_be_overtaken)
        Boundary(source).decide(Query(tags=["t:1"]), decide)

    assert seen == [[], [1]]
    assert blocking.stream_version("a-2") == 1


def test_a_decision_does_not_wait_again_for_who_holds_its_tag(database, blocking):
    """The connection's lock_timeout is a limit, and the transaction is usable afterwards."""
    calls = []
    with blocking.transaction() as tx, psycopg.connect(database) as connection:
        tx.append("a-1", NewEvent(Noted(n=1), tags=["t:1"]))
        connection.execute("set lock_timeout = '50ms'")
        joined = blocking.join(connection)

        with pytest.raises(LockTimeout):
            Boundary(joined).decide(Query(tags=["t:1"]), lambda _: calls.append(1) or {"a-2": Noted(n=2)})
        Boundary(joined).decide(Query(tags=["t:2"]), lambda _: {"a-2": Noted(n=3)})
        connection.commit()

    assert len(calls) == 1
    assert numbers(blocking.read_stream("a-2")) == [3]


NOT_FOR_THREADS = {"EventStore.__init__": {"group_commit"}}
"""Threads do not share commits."""


@pytest.mark.parametrize("name", ["EventStore", "Transaction", "Boundary", "Decision"])
def test_the_twin_has_the_names_and_the_arguments_of_the_async_one(name):
    """What one takes the other takes, by the same names and with the same defaults, but for the number of connections."""
    home = async_transaction if name == "Transaction" else eventstore
    one, twin = getattr(home, name), getattr(sync, name)
    methods = ["__init__", *(key for key in dir(one) if not key.startswith("_") and inspect.isfunction(getattr(one, key)))]

    assert len(methods) > 1
    for method in methods:
        theirs = inspect.signature(getattr(one, method)).parameters
        own = inspect.signature(getattr(twin, method)).parameters
        assert set(theirs) - set(own) == NOT_FOR_THREADS.get(f"{name}.{method}", set()), method
        assert set(own) <= set(theirs), method
        assert {key for key in own if own[key].default != theirs[key].default} <= {"max_connections"}, method
