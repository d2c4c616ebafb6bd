"""Wake-ups: notifications make readers quick, and everything works without them.

Where a test is to show that a notification did it, the poll's bound is half a minute: an event that comes sooner was notified.
"""

import asyncio
import contextlib
import logging
import time

import asyncpg
import pytest

from eventstore import Event, EventStore, WakeUps, errors
from eventstore._drivers import asyncpg as asyncpg_driver
from eventstore._operations import marks
from eventstore._operations.statement import Statement
from eventstore.feed import wakeups
from eventstore.testing import Proxy

pytestmark = pytest.mark.server

NEVER = 30.0
"""Seconds between polls where they are not to help."""

INSERT = """insert into eventstore.events (stream_id, version, type, event_id, data)
            values ($1, 1, 'Noted', gen_random_uuid(), '{}') returning position"""


class Noted(Event):
    pass


class Reader:
    """A subscription in a task."""

    def __init__(self, store):
        self.store, self.seen = store, []
        self.arrived = asyncio.Condition()
        self.task = asyncio.create_task(self.read())

    async def read(self):
        async with self.store.subscribe() as live:
            async for recorded in live:
                async with self.arrived:
                    self.seen.append(recorded.position)
                    self.arrived.notify_all()

    async def has(self, count, seconds=10):
        """Wait until so many events have arrived."""
        async with asyncio.timeout(seconds), self.arrived:
            await self.arrived.wait_for(lambda: len(self.seen) >= count)


@contextlib.asynccontextmanager
async def reading(url, *, deaf=False, **wake_ups):
    """A store with a subscription that has caught up with what there is, and listens if it is to."""
    async with EventStore(url, application_name="reader", wake_ups=WakeUps(**wake_ups)) as store:
        reader = Reader(store)
        try:
            if wake_ups.get("listen", True) and not deaf:
                await listens(store)
            yield store, reader
        finally:
            reader.task.cancel()
            await asyncio.gather(reader.task, return_exceptions=True)


async def until(condition, seconds=10):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def listens(store, connects=1):
    """Wait until its listener has begun to listen so many times, and the first looks that follow are over."""
    listener = store._frontier.listener
    await until(lambda: listener.listening and listener.connects >= connects)


async def sleeps(*stores):
    """Return once their next poll is as far away as it ever is."""
    for store in stores:
        frontier = store._frontier
        await until(lambda frontier=frontier: frontier._waiters)
        while (pause := frontier._idle_pause) < frontier._poll_bound():
            frontier._idle_pause = NEVER
            await asyncio.sleep(pause + 0.1)  # the one that is under way ends, and no other event has reset it


@pytest.fixture
async def writer(database):
    async with EventStore(database, application_name="writer") as store:
        yield store


@pytest.fixture
async def raw(database):
    connection = await asyncpg.connect(database, ssl=False)
    yield connection
    await connection.close()


async def test_an_append_wakes_a_reader_of_another_store(database, writer):
    """By a notification after the commit: the poll would come half a minute later."""
    async with reading(database, poll_seconds=NEVER) as (store, reader):
        for n in (1, 2):
            await sleeps(store)
            await writer.append(f"a-{n}", Noted())
            await reader.has(n)


async def test_a_transaction_wakes_readers_when_it_commits(database, writer):
    """Not before."""
    async with reading(database, poll_seconds=NEVER) as (store, reader):
        await sleeps(store)
        async with writer.transaction() as tx:
            await tx.append("a-1", Noted())
            await asyncio.sleep(0.2)
            assert reader.seen == []
        await reader.has(1)


async def test_wake_tells_readers_here_and_elsewhere_of_a_commit_that_the_store_did_not_see(database, writer, raw):
    """As with an INSERT on a connection of the user's own."""
    async with (
        reading(database, poll_seconds=NEVER) as (other, elsewhere),
        reading(database, poll_seconds=NEVER) as (store, here),
    ):
        await sleeps(store, other)
        await raw.execute(INSERT, "a-1")
        await asyncio.sleep(0.3)
        assert (here.seen, elsewhere.seen) == ([], [])
        store.wake()
        await here.has(1)
        await elsewhere.has(1)


@pytest.mark.parametrize(("notify", "listen"), [(False, True), (True, False), (False, False)])
async def test_everything_works_with_notifications_switched_off(database, notify, listen):
    """On either side: the poll finds what is new."""
    async with (
        EventStore(database, application_name="writer", wake_ups=WakeUps(notify=notify)) as quiet,
        reading(database, poll_seconds=0.05, listen=listen) as (store, reader),
    ):
        for n in range(3):
            await quiet.append(f"a-{n}", Noted())
            await reader.has(n + 1, wakeups.LISTENING_POLL_SECONDS + 2)
        assert store._frontier.listener.connects == listen


async def test_a_store_that_does_not_notify_sends_no_notification(database, raw):
    """Not one."""
    heard = []
    await raw.add_listener("eventstore_log", lambda *args: heard.append(args))
    for notify in (False, True):
        async with EventStore(database, wake_ups=WakeUps(notify=notify)) as store:
            await store.append(f"a-{notify}", Noted())
            await asyncio.sleep(0.3)
        assert bool(heard) == notify


async def test_a_burst_of_appends_is_one_notification_at_once_and_few_after_it(database, writer, raw):
    """The first append after a pause is told at once, then all of the next milliseconds together."""
    heard = []
    await raw.add_listener("eventstore_log", lambda *args: heard.append(time.monotonic()))
    begun = time.monotonic()
    await asyncio.gather(*(writer.append(f"a-{n}", Noted()) for n in range(300)))
    await asyncio.sleep(0.3)

    took = heard[-1] - begun
    assert 1 <= len(heard) <= 2 + took / wakeups.NOTIFY_SECONDS
    assert len(heard) < 300
    assert heard[-1] - heard[0] < took  # the first one came before the last append


async def test_the_log_is_read_again_after_every_listen(database, writer):
    """What was notified while nobody listened would wait for the poll."""
    async with Proxy(database) as proxy, reading(proxy.url, poll_seconds=NEVER) as (store, reader):
        await writer.append("a-1", Noted())
        await reader.has(1)
        proxy.refuse("listen")
        proxy.cut("listen")
        await until(lambda: not store._frontier.listener.listening)
        await sleeps(store)
        await writer.append("a-2", Noted())
        await asyncio.sleep(0.3)
        assert reader.seen == [1]
        proxy.heal()

        await reader.has(2)
        assert store._frontier.listener.connects == 2


@pytest.fixture
def impatient(monkeypatch):
    """Probes and polls that do not take a minute."""
    monkeypatch.setattr(wakeups, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(wakeups, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(wakeups, "DEAF_SECONDS", 0.5)
    monkeypatch.setattr(asyncpg_driver, "CONNECT_SECONDS", 1.0)


@pytest.mark.parametrize("to", ["both", "client", "server"])
async def test_a_listener_that_is_half_open_is_found_out_and_replaced(database, writer, impatient, to):
    """Bytes vanish, nothing is closed: the poll goes on delivering, the probe gives the connection up."""
    async with Proxy(database) as proxy, reading(proxy.url, poll_seconds=0.05) as (store, reader):
        proxy.black_hole("listen", to=to)
        await writer.append("a-1", Noted())
        await reader.has(1, wakeups.LISTENING_POLL_SECONDS + 2)
        await until(lambda: not store._frontier.listener.listening)
        await writer.append("a-2", Noted())
        await reader.has(2, 2)
        proxy.heal()

        await listens(store, 2)
        await writer.append("a-3", Noted())
        await reader.has(3)


async def test_lost_notifications_cost_no_more_than_the_poll(database, writer):
    """All of them dropped on the way, while the probe is answered: at most one second, as documented."""
    async with Proxy(database) as proxy, reading(proxy.url, poll_seconds=0.05) as (store, reader):
        proxy.drop("A")
        for n in range(3):
            await sleeps(store)
            await writer.append(f"a-{n}", Noted())
            await reader.has(n + 1, wakeups.LISTENING_POLL_SECONDS + 1)
        assert proxy.dropped("A") >= 3


async def test_a_store_that_cannot_hear_polls_and_says_so_once(database, writer, impatient, caplog):
    """Notifications do not arrive from the start, as behind a pooler: not called listening, polled quickly."""
    async with Proxy(database) as proxy:
        proxy.drop("A")
        async with reading(proxy.url, poll_seconds=0.05, deaf=True) as (store, reader):
            await asyncio.sleep(2.5)  # several attempts
            assert not store._frontier.listener.listening
            await writer.append("a-1", Noted())
            await reader.has(1, 2)
    complaints = [r.message for r in caplog.records if "the log is polled" in r.message]
    assert len(complaints) == 1, complaints
    assert "listen_url" in complaints[0]


async def test_the_listener_may_have_an_address_of_its_own(database, writer):
    """Behind something that swallows notifications, with the direct address for LISTEN alone."""
    async with Proxy(database) as proxy:
        proxy.drop("A")
        async with reading(proxy.url, poll_seconds=NEVER, listen_url=database) as (store, reader):
            assert proxy.links("listen") == []
            await sleeps(store)
            await writer.append("a-1", Noted())
            await reader.has(1)


async def test_a_pool_of_the_users_is_listened_through_too(database, writer):
    """One connection of it, given back at the end."""
    async with asyncpg.create_pool(database, min_size=0, max_size=6, ssl=False) as pool:
        async with reading(pool, poll_seconds=NEVER) as (store, reader):
            await sleeps(store)
            await writer.append("a-1", Noted())
            await reader.has(1)
        assert pool.get_size() == pool.get_idle_size()


async def test_it_works_behind_pgbouncer_with_a_direct_address_for_listen(database, writer, pgbouncer):
    """Transaction pooling, appends and reads through it."""
    url = await asyncio.to_thread(pgbouncer)
    pool = await asyncpg.create_pool(url, min_size=0, max_size=8, ssl=False, statement_cache_size=0)
    async with pool, reading(pool, poll_seconds=NEVER, listen_url=database) as (store, reader):
        await sleeps(store)
        await writer.append("a-1", Noted())
        await reader.has(1)
        await store.append("a-1", Noted(), expect=1)
        await reader.has(2)


async def test_pgbouncer_without_one_is_polled(database, writer, pgbouncer, impatient):
    """LISTEN seems to work through it and hears nothing: that is found out."""
    url = await asyncio.to_thread(pgbouncer)
    pool = await asyncpg.create_pool(url, min_size=0, max_size=8, ssl=False, statement_cache_size=0)
    async with pool, reading(pool, poll_seconds=0.05, deaf=True) as (store, reader):
        await asyncio.sleep(1.5)
        assert not store._frontier.listener.listening
        await writer.append("a-1", Noted())
        await reader.has(1, 3)


async def test_a_thousand_idle_subscribers_cost_one_listener_and_one_watcher(database, raw):
    """As many connections as one subscriber, and one cheap look a second for all of them."""
    count = "select count(*) filter (where application_name = 'many listen'), count(*) from pg_stat_activity "
    count += "where datname = current_database() and application_name like 'many %'"
    async with EventStore(database, application_name="many") as store:
        readers = [Reader(store)]
        await listens(store)
        few = tuple(await raw.fetchrow(count))
        readers += [Reader(store) for _ in range(999)]
        await until(lambda: len(store._frontier._waiters) == 1000, 30)
        await asyncio.sleep(1.5)
        looks, begun = store._frontier.looks, time.monotonic()
        await asyncio.sleep(2.0)
        rate = (store._frontier.looks - looks) / (time.monotonic() - begun)
        many = tuple(await raw.fetchrow(count))
        await store.append("a-1", Noted())
        await asyncio.gather(*(reader.has(1, 20) for reader in readers))
        for reader in readers:
            reader.task.cancel()
        await asyncio.gather(*(reader.task for reader in readers), return_exceptions=True)

    assert few[0] == many[0] == 1
    assert many[1] <= few[1] + 2  # the pool of readers, full for a while; never more than its three
    assert rate <= 1.5


async def test_a_notification_that_the_server_refuses_costs_the_append_nothing(database, raw, monkeypatch, caplog):
    """Its queue is full (54000): told once, the others poll."""

    def refused():
        yield Statement(
            "do $$ begin raise exception 'too many notifications in the NOTIFY queue' using errcode = '54000'; end $$"
        )

    monkeypatch.setattr(marks, "notify", refused)
    async with EventStore(database) as store:
        for n in range(5):
            assert (await store.append(f"a-{n}", Noted())).version == 1
            await asyncio.sleep(0.02)
        assert [r.position async for r in store.read_all()] == [1, 2, 3, 4, 5]
    assert [
        r.levelno for r in caplog.records if "could not be notified" in r.message or "cannot be notified" in r.message
    ] == [logging.WARNING]


async def test_a_reader_near_an_appending_neighbour_misses_nothing_and_keeps_order(database, writer):
    """Several hundred appends from two stores, with the listener cut again and again."""
    async with Proxy(database) as proxy, reading(proxy.url, poll_seconds=0.1) as (store, reader):
        for n in range(200):
            await (writer if n % 2 else store).append(f"a-{n}", Noted())
            if n % 40 == 20:
                proxy.cut("listen")
        await reader.has(200, 20)
        assert reader.seen == list(range(1, 201))


async def test_the_server_restarted_behind_a_pooler_is_noticed(database, raw, monkeypatch):
    """Another start time is another server: whatever was known of holders is forgotten, and the log compared."""
    async with reading(database, poll_seconds=0.05, listen=False) as (store, reader):
        await store.append("a-1", Noted())
        await reader.has(1)
        generation = store._frontier._generation
        store._frontier._started = store._frontier._started.replace(year=2001)
        await store.append("a-2", Noted())
        await reader.has(2)
        assert store._frontier._generation == generation + 1


@pytest.mark.parametrize("seconds", [0, -1, True, "1"])
def test_a_poll_interval_that_is_none_is_refused(seconds):
    """With what was given."""
    with pytest.raises(errors.InvalidArgument, match="poll_seconds must be a positive number"):
        WakeUps(poll_seconds=seconds)


async def test_an_append_does_not_take_the_listeners_question_back(database):
    """A store that does not notify still asks for one notification, to know whether it hears."""
    async with reading(database, poll_seconds=0.05, notify=False, deaf=True) as (store, _):
        for n in range(200):
            await store.append(f"a-{n}", Noted())
            if store._frontier.listener.listening:
                break
        await listens(store)
        store._frontier._echo()
        store._frontier.touch()
        assert store._frontier._sender.due
