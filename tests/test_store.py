"""Appending to streams and reading them back, on a real server."""

import asyncio
import contextlib
import datetime as dt
import os
import signal
import uuid

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from eventstore import (
    ANY,
    EXISTS,
    NO_STREAM,
    Event,
    EventStore,
    Limits,
    NewEvent,
    StreamId,
    UnknownEvent,
    VersionConflict,
    embedded,
    errors,
)
from eventstore._drivers import asyncpg as driver
from eventstore._drivers import urls
from eventstore.testing import Schedule

pytestmark = pytest.mark.server


class Opened(Event):
    owner: str


class Deposited(Event):
    amount: int


class Blob(Event):
    text: str


async def collect(reader):
    return [recorded async for recorded in reader]


async def test_an_append_says_what_it_did_and_reads_back_equal(store):
    """Versions from 1, ids in order, data typed, metadata and times beside it."""
    given = uuid.uuid4()
    when = dt.datetime(2020, 2, 29, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    new = NewEvent(Deposited(amount=5), event_id=given, metadata={"ip": "::1"}, occurred_at=when)

    done = await store.append("account-1", [Opened(owner="Ada"), new], expect=NO_STREAM)

    first, second = await collect(store.read_stream("account-1"))
    assert (done.first_version, done.version, done.position) == (1, 2, second.position)
    assert done.event_ids == (first.event_id, given)
    assert first.event_id.version == 7
    assert (first.data, second.data) == (Opened(owner="Ada"), Deposited(amount=5))
    assert (first.version, second.version, second.type, second.schema_version) == (1, 2, "Deposited", 1)
    assert (second.metadata["ip"], second.occurred_at) == ("::1", when)
    assert first.occurred_at == first.recorded_at <= second.recorded_at
    assert await store.head() == second.position


async def test_all_four_expectations_are_equalities(store):
    """Too low, too high, missing and existing: each refused with the version found, and nothing written."""
    for expect, actual in ((1, 0), (7, 0), (EXISTS, 0)):
        with pytest.raises(VersionConflict) as caught:
            await store.append("account-1", Opened(owner="Ada"), expect=expect)
        assert caught.value.actual == actual
    await store.append("account-1", Opened(owner="Ada"), expect=NO_STREAM)
    await store.append("account-1", Deposited(amount=1), expect=EXISTS)
    await store.append("account-1", Deposited(amount=2), expect=ANY)
    await store.append("account-1", Deposited(amount=3), expect=3)
    for expect in (NO_STREAM, 3, 5):
        with pytest.raises(VersionConflict) as caught:
            await store.append("account-1", Deposited(amount=9), expect=expect)
        assert (caught.value.expected, caught.value.actual) == (expect, 4)

    assert [r.data.amount for r in (await collect(store.read_stream("account-1")))[1:]] == [1, 2, 3]


async def test_a_refused_append_burns_no_position(store):
    """Positions of neighbours stay dense, so followers meet no hole."""
    first = await store.append("a-1", Opened(owner="x"))
    with pytest.raises(VersionConflict):
        await store.append("a-1", Opened(owner="x"), expect=NO_STREAM)
    second = await store.append("a-1", Opened(owner="x"))

    assert second.position == first.position + 1


async def test_racers_for_one_version_have_one_winner(store):
    """All others get a conflict that names the version; no race leaks through."""
    await store.append("a-1", Opened(owner="x"))

    outcomes = await asyncio.gather(
        *(store.append("a-1", Deposited(amount=n), expect=1) for n in range(16)), return_exceptions=True
    )

    assert sum(not isinstance(o, Exception) for o in outcomes) == 1
    assert {o.actual for o in outcomes if isinstance(o, Exception)} == {2}
    assert [r.version for r in await collect(store.read_stream("a-1"))] == [1, 2]


async def test_racers_that_expect_nothing_all_win(database):
    """ANY on one hot stream from many connections: every append lands, versions stay dense."""
    async with EventStore(database, max_connections=16) as store:
        await asyncio.gather(*(store.append("hot-1", Deposited(amount=n)) for n in range(100)))

        events = await collect(store.read_stream("hot-1"))

    assert [r.version for r in events] == list(range(1, 101))
    assert sorted(r.data.amount for r in events) == list(range(100))


async def test_read_stream_bounds_are_exclusive(store):
    """after, before, limit and backwards, across batch borders."""
    await store.append("a-1", [Deposited(amount=n) for n in range(1, 1001)])

    async def versions(**bounds):
        return [r.version async for r in store.read_stream("a-1", **bounds)]

    assert await versions() == list(range(1, 1001))
    assert await versions(after=10, before=13) == [11, 12]
    assert await versions(after=990, limit=3) == [991, 992, 993]
    assert await versions(backwards=True) == list(range(1000, 0, -1))
    assert (await versions(backwards=True, before=500, limit=205))[-1] == 295
    assert await versions(after=1000) == await versions(limit=0) == await versions(before=1) == []
    for bad in ({"after": -1}, {"limit": True}, {"before": "7"}):
        with pytest.raises(errors.InvalidArgument):
            await versions(**bad)


async def test_read_all_filters_by_type_and_category(store):
    """Positions in order; nothing else comes through."""
    await store.append("a-1", [Opened(owner="x"), Deposited(amount=1)])
    await store.append("b-1", [Opened(owner="y"), Deposited(amount=2)])
    await store.append("b", Deposited(amount=3))

    async def told(**how):
        return [r.data async for r in store.read_all(**how)]

    assert len(await told()) == 5
    assert await told(types=[Opened]) == [Opened(owner="x"), Opened(owner="y")]
    assert await told(types=["Deposited"], categories=["b"]) == [Deposited(amount=2), Deposited(amount=3)]
    assert await told(categories=["c"]) == []
    assert await told(after=1, limit=2) == [Deposited(amount=1), Opened(owner="y")]
    with pytest.raises(errors.InvalidArgument):
        store.read_all(types="Opened")
    with pytest.raises(errors.LogRewound):
        await told(after=10**6)


async def test_a_subscription_goes_on_with_what_is_appended_later(store):
    """History first, then live, in order, without a duplicate."""
    await store.append("a-1", [Deposited(amount=n) for n in range(300)])
    seen = []

    async def follow():
        async with store.subscribe(after=0, types=[Deposited]) as live:
            async for recorded in live:
                seen.append(recorded.data.amount)
                if len(seen) == 600:
                    return

    follower = asyncio.create_task(follow())
    for n in range(300, 600):
        await store.append(f"a-{n % 7}", Deposited(amount=n))
    await asyncio.wait_for(follower, 10)

    assert seen == list(range(600))


async def test_a_transaction_is_all_or_nothing_and_reads_its_own_writes(store):
    """Several streams and the caller's own SQL; a conflict leaves it usable."""
    async with store.transaction() as tx:
        await tx.append("a-1", Opened(owner="x"), expect=NO_STREAM)
        with pytest.raises(VersionConflict):
            await tx.append("a-1", Opened(owner="x"), expect=NO_STREAM)
        await tx.append("b-1", Deposited(amount=1))
        await tx.connection.execute("create table mine (n int)")
        assert [r.data for r in await tx.read_stream("a-1")] == [Opened(owner="x")]
        assert await collect(store.read_stream("a-1")) == []
    with pytest.raises(RuntimeError, match="stop"):
        async with store.transaction() as tx:
            await tx.append("a-1", Deposited(amount=9))
            raise RuntimeError("stop")

    assert len(await collect(store.read_all())) == 2


async def test_a_race_inside_a_transaction_leaves_it_usable(store, database):
    """The savepoint takes the lost race; the append is sent again and lands behind the winner."""
    async with Schedule(database) as schedule, store.transaction() as tx:
        winner = await schedule.session("winner")
        await tx.append("b-1", Opened(owner="kept"))
        await winner.do("begin", "begin")
        await winner.do("insert", INSERT, "a-1", 1)
        late = asyncio.create_task(tx.append("a-1", Deposited(amount=2)))
        await _wait_for_lock(winner, "eventstore transaction")
        assert not late.done()
        await winner.do("commit", "commit")

        assert (await asyncio.wait_for(late, 10)).version == 2

    assert len(await collect(store.read_all())) == 3


INSERT = """insert into eventstore.events (stream_id, version, type, event_id, data)
            values ($1, $2, 'Deposited', gen_random_uuid(), '{"amount": 0}')"""


async def test_context_is_written_beside_every_event(store):
    """Correlation, causation, actor and metadata; inner contexts add to outer ones; a NewEvent's own wins."""
    cause = uuid.uuid4()
    with store.context(correlation_id="request 7", actor="ada", region="eu"):
        await store.append("a-1", Opened(owner="x"))
        with store.context(causation_id=cause, actor="bob"):
            await store.append("a-1", NewEvent(Opened(owner="y"), metadata={"region": "us"}, correlation_id="other"))
    await store.append("a-1", Opened(owner="z"))

    first, second, third = await collect(store.read_stream("a-1"))
    assert (first.correlation_id, first.causation_id, dict(first.metadata)) == (
        "request 7",
        None,
        {"actor": "ada", "region": "eu"},
    )
    assert (second.correlation_id, second.causation_id, dict(second.metadata)) == (
        "other",
        cause,
        {"actor": "bob", "region": "us"},
    )
    assert (third.correlation_id, dict(third.metadata)) == (None, {})


NAMES = [
    "a b",
    "it's",
    '"quoted"',
    "emoji-😀",
    "ü-ß-語",
    "x" * 255,
    "back\\slash",
    "a;drop table events",
    "$1",
    "-",
    "ﬁ",
]


@pytest.mark.parametrize("name", NAMES)
async def test_odd_stream_ids_are_kept_to_the_letter(store, name):
    """Spaces, quotes, emoji, 255 bytes."""
    await store.append(name, Blob(text=name), expect=NO_STREAM)

    (recorded,) = await collect(store.read_stream(name))
    assert (recorded.stream_id, recorded.data.text) == (name, name)


@pytest.mark.parametrize("name", ["", "x" * 256, "ü" * 128, "a\0b", "a\nb", "\ud800", 7, None])
async def test_impossible_stream_ids_are_refused_before_anything_is_sent(store, name):
    """With what was expected and what was found."""
    with pytest.raises(errors.InvalidArgument, match="stream id"):
        await store.append(name, Blob(text="x"))


def test_a_stream_id_refuses_a_dash_in_its_category():
    """The id begins after the first dash."""
    assert StreamId("purchase_order", "7-b") == "purchase_order-7-b"
    assert StreamId("purchase_order", "7-b").id == "7-b"
    with pytest.raises(errors.InvalidArgument, match="dash"):
        StreamId("purchase-order", 7)


async def test_sizes_are_limited_with_a_clear_error(database):
    """1 MiB an event fits, one byte more does not; so many events, so many bytes."""
    limits = Limits(append_events=3, append_bytes=3 * 2**20 - 100)
    async with EventStore(database, limits=limits) as store:
        fits = "é" * ((2**20 - len('{"text":""}') - 2) // 2)
        await store.append("a-1", Blob(text=fits))
        (recorded,) = await collect(store.read_stream("a-1"))
        assert recorded.data.text == fits
        with pytest.raises(errors.InvalidEvent, match="1048576"):
            await store.append("a-1", Blob(text=fits + "éé"))
        with pytest.raises(errors.InvalidArgument, match="1 to 3 events"):
            await store.append("a-1", [Blob(text="")] * 4)
        with pytest.raises(errors.InvalidArgument, match="1 to 3 events"):
            await store.append("a-1", [])
        with pytest.raises(errors.InvalidArgument, match="bytes"):
            await store.append("a-1", [Blob(text="x" * (2**20 - 20))] * 3)
        assert await store.stream_version("a-1") == 1


@pytest.mark.parametrize("expect", [True, False, -1, 1.0, "1", None, 2**63])
async def test_odd_expectations_are_refused(store, expect):
    """Bools above all: True is 1 in Python."""
    with pytest.raises(errors.InvalidArgument, match="expect"):
        await store.append("a-1", Blob(text="x"), expect=expect)


async def test_odd_new_events_are_refused(store):
    """A naive time, an id that is none, metadata that is no JSON."""
    for new in (
        NewEvent(Blob(text="x"), occurred_at=dt.datetime(2020, 1, 1)),
        NewEvent(Blob(text="x"), event_id="no uuid"),
        NewEvent(Blob(text="x"), metadata={"a": {1, 2}}),
        NewEvent(Blob(text="x"), correlation_id=""),
    ):
        with pytest.raises(errors.Invalid):
            await store.append("a-1", new)
    assert await store.head() == 0


async def test_one_bad_event_of_several_writes_nothing(store):
    """Never half written."""
    with pytest.raises(errors.InvalidEvent):
        await store.append("a-1", [Blob(text="fine"), Blob(text="nul \0")])

    assert await store.head() == 0


async def test_an_unknown_type_is_kept_and_can_be_copied(database):
    """Or refused, by choice."""
    async with EventStore(database, events=[Opened]) as store:
        await store.append("a-1", UnknownEvent("Elsewhere", {"big": 2**70, "text": "ü"}))
        (recorded,) = await collect(store.read_stream("a-1"))
        assert recorded.data == UnknownEvent("Elsewhere", {"big": 2**70, "text": "ü"})
        await store.append("b-1", recorded.data)
    async with EventStore(database, events=[Opened], unknown_events="error") as store:
        with pytest.raises(errors.UnknownEventType, match="Elsewhere"):
            await collect(store.read_all())


async def test_data_that_do_not_validate_name_where_they_are(store):
    """Stream, version, position, type and field."""
    await store.append("a-1", [Deposited(amount=1), UnknownEvent("Deposited", {"amount": "much"})])

    with pytest.raises(errors.EventCorrupt) as caught:
        await collect(store.read_stream("a-1"))

    error = caught.value
    assert (error.stream_id, error.version, error.position, error.type, error.field) == (
        "a-1",
        2,
        2,
        "Deposited",
        "amount",
    )


async def test_the_log_refuses_update_delete_and_truncate(store):
    """The trigger is a guard rail for everybody, the superuser included."""
    await store.append("a-1", Deposited(amount=1))
    async with store.transaction() as tx:
        for sql in (
            "update eventstore.events set type = 'x'",
            "delete from eventstore.events",
            "truncate eventstore.events",
        ):
            with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
                async with tx.connection.transaction():
                    await tx.connection.execute(sql)

    assert len(await collect(store.read_all())) == 1


async def test_the_store_takes_urls_engines_and_pools(database):
    """postgresql+asyncpg, a SQLAlchemy URL, an AsyncEngine, an asyncpg pool."""
    engine = create_async_engine(database.replace("postgresql://", "postgresql+asyncpg://"))
    pool = await asyncpg.create_pool(database, min_size=0, max_size=5, ssl=False)
    for n, address in enumerate((database.replace("postgresql:", "postgresql+psycopg:"), engine, engine.url, pool)):
        async with EventStore(address) as store:
            await store.append("a-1", Deposited(amount=n), expect=n)
            assert len(await collect(store.read_all())) == n + 1
    await pool.close()
    await engine.dispose()


async def test_a_store_that_is_not_open_says_so():
    """Before open and after close."""
    store = EventStore("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(errors.StoreClosed, match="open"):
        await store.append("a-1", Deposited(amount=1))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"path": "/no_such_database"}, errors.CannotConnect),
        ({"netloc": "127.0.0.1:1", "query": ""}, errors.CannotConnect),
    ],
)
async def test_an_address_where_nothing_is_gives_one_clear_line(server, change, error):
    """A missing database, a port where nobody listens."""
    from urllib.parse import urlsplit, urlunsplit

    url = urlunsplit(urlsplit(server)._replace(**change))
    with pytest.raises(error) as caught:
        await EventStore(url).open()
    assert "\n" not in str(caught.value)


async def test_a_wrong_password_gives_one_clear_line(tmp_path):
    """Without repeating it."""
    server = await asyncio.to_thread(lambda: embedded.start(tmp_path, port=0, durable=False))
    try:
        password = server.dsn.split(":")[2].split("@")[0]
        with pytest.raises(errors.AuthenticationFailed, match="check user and password") as caught:
            await EventStore(server.dsn.replace(password, "wrong-one")).open()
        assert "wrong-one" not in str(caught.value)
        async with EventStore(server.dsn, migrate=True) as store:
            await store.append("a-1", Deposited(amount=1))
    finally:
        await asyncio.to_thread(server.stop)


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "", 7, "postgresql://h:port/x"])
def test_a_url_that_is_none_is_refused_at_once(url):
    """Without repeating a password."""
    with pytest.raises(errors.InvalidUrl):
        EventStore(url)
    for hidden in (
        "mysql://ada:secret@host/x",
        "ada:secret@host/x",
        "postgresql://ada:secret@[::1/x",
        "postgresql://a:secret@h:p/x",
    ):
        with pytest.raises(errors.InvalidUrl) as caught:
            EventStore(hidden)
        assert "secret" not in str(caught.value)
    for shown in ("postgresql://ada:secret@h/x", "postgresql://h/x?user=ada&password=secret"):
        assert "secret" not in urls.redacted(shown)
        assert "***" in urls.redacted(shown)


async def test_a_process_stays_within_its_connection_budget(database):
    """Fifty readers, writers and subscribers at once open no more than max_connections."""
    async with EventStore(database, max_connections=6, application_name="budget") as store:
        await store.append("a-1", [Deposited(amount=n) for n in range(50)])

        async def subscribe():
            async with store.subscribe() as live:
                async for recorded in live:
                    if recorded.position >= 150:
                        return

        followers = [asyncio.create_task(subscribe()) for _ in range(50)]
        await asyncio.gather(
            *(store.append(f"b-{n}", Deposited(amount=n)) for n in range(100)),
            *(collect(store.read_all()) for _ in range(20)),
        )
        await asyncio.wait_for(asyncio.gather(*followers), 20)
        async with store.transaction() as tx:
            count = await tx.connection.fetchval(
                "select count(*) from pg_stat_activity where application_name like 'budget %'"
                " and datname = current_database()"
            )
        assert 3 <= count <= 6
    with pytest.raises(errors.InvalidArgument, match="at least 5"):
        EventStore(database, max_connections=4)


async def test_a_killed_connection_is_an_unknown_append_or_a_lost_one_and_the_store_goes_on(database):
    """Append under way: unknown. The next one connects again."""
    async with EventStore(database, application_name="victim") as store, EventStore(database) as other:
        await store.append("a-1", Deposited(amount=1))
        async with other.transaction() as tx:
            await tx.append("a-1", Deposited(amount=2))
            hanging = asyncio.create_task(store.append("a-1", Deposited(amount=3)))
            await _wait_for_lock(tx, "victim transaction")
            await tx.connection.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'victim transaction'"
                " and datname = current_database()"
            )
            with pytest.raises(errors.AppendUnknown) as caught:
                await hanging
        assert caught.value.stream_ids == ("a-1",)
        done = await store.append("a-1", Deposited(amount=4))
        assert done.version == 3


async def _wait_for_lock(session, name):
    sql = "select exists (select from pg_stat_activity where application_name = $1 and wait_event_type = 'Lock')"
    for _ in range(1000):
        raw = session.raw if hasattr(session, "raw") else session.connection
        await raw.execute("select pg_stat_clear_snapshot()")
        if await raw.fetchval(sql, name):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")


async def test_an_append_that_close_overtakes_is_told_as_it_ended(database):
    """close() waits for it; committed is never reported as failed, and what is refused was not written."""
    for _ in range(5):
        store = await EventStore(database).open()
        stream = f"a-{uuid.uuid4()}"
        appends = [asyncio.create_task(store.append(f"{stream}-{n}", Deposited(amount=n))) for n in range(20)]
        await asyncio.sleep(0.005)
        await store.close()
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        async with EventStore(database) as other:
            for n, outcome in enumerate(outcomes):
                written = await other.stream_version(f"{stream}-{n}")
                if isinstance(outcome, Exception):
                    assert isinstance(outcome, errors.StoreClosed), outcome
                    assert not written
                else:
                    assert written == outcome.version == 1


async def test_a_connection_that_dies_at_the_commit_of_a_transaction_leaves_it_unknown(store):
    """Not "try again": it may have been committed."""
    async with store.transaction() as tx:
        await tx.connection.execute(
            """create table doomed (n int);
               create function die() returns trigger language plpgsql as
                   $$ begin perform pg_terminate_backend(pg_backend_pid()); return null; end $$;
               create constraint trigger die after insert on doomed deferrable initially deferred
                   for each row execute function die()"""
        )
    with pytest.raises(errors.AppendUnknown) as caught:
        async with store.transaction() as tx:
            done = await tx.append("a-1", Deposited(amount=1))
            await tx.connection.execute("insert into doomed values (1)")
    assert (caught.value.stream_ids, caught.value.event_ids) == (("a-1",), done.event_ids)


async def test_a_sequence_behind_the_log_is_reported_as_such(store):
    """As after a restore that left it out: not a race that more attempts would win."""
    await store.append("a-1", [Deposited(amount=n) for n in range(5)])
    async with store.transaction() as tx:
        await tx.connection.fetchval("select setval('eventstore.events_position_seq', 2)")
    with pytest.raises(errors.SequenceBehind, match="setval"):
        await store.append("a-2", Deposited(amount=1))


async def test_open_twice_and_a_pool_too_small_are_refused(database):
    """The first would leak connections, the second would wait for itself."""
    async with EventStore(database) as store:
        with pytest.raises(errors.InvalidArgument, match="open already"):
            await store.open()
        await store.append("a-1", Deposited(amount=1))
    async with asyncpg.create_pool(database, min_size=0, max_size=2, ssl=False) as pool:
        with pytest.raises(errors.InvalidArgument, match="needs 5"):
            await EventStore(pool).open()


async def test_an_append_that_returned_survives_a_crash_of_the_server(tmp_path):
    """The server is killed while clients append; after recovery all that was acknowledged is there."""
    server = await asyncio.to_thread(embedded.start, tmp_path)
    acknowledged = []
    async with EventStore(server.dsn, migrate=True) as store:

        async def write(name):
            with contextlib.suppress(errors.EventStoreError):
                for n in range(10_000):
                    done = await store.append(f"a-{name}", Deposited(amount=n), expect=n)
                    acknowledged.append((f"a-{name}", done.version))

        writers = [asyncio.create_task(write(name)) for name in range(4)]
        await asyncio.sleep(0.5)
        postmaster = int((tmp_path / "cluster" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)
        server._supervisor.kill()
        await asyncio.gather(*writers)
    await asyncio.to_thread(server.stop)

    assert len(acknowledged) > 20
    with await asyncio.to_thread(embedded.start, tmp_path) as again:
        async with EventStore(again.dsn) as store:
            for name in range(4):
                versions = [v for stream, v in acknowledged if stream == f"a-{name}"]
                assert await store.stream_version(f"a-{name}") >= max(versions, default=0)


async def test_waiting_for_a_free_connection_ends(database, monkeypatch):
    """A fourth transaction beside three that are held gets an error, not silence."""
    monkeypatch.setattr(driver, "ACQUIRE_SECONDS", 0.2)
    async with EventStore(database) as store, store.transaction(), store.transaction(), store.transaction():
        with pytest.raises(errors.Retryable, match="max_connections"):
            async with store.transaction():
                pass


async def test_reading_holds_no_connection_between_batches(database):
    """A reader that is slow on its side blocks nobody."""
    async with EventStore(database, max_connections=5) as store:
        await store.append("a-1", [Deposited(amount=n) for n in range(500)])
        readers = [store.read_stream("a-1") for _ in range(20)]
        for reader in readers:
            assert (await anext(reader)).version == 1
        assert len(await collect(store.read_stream("a-1"))) == 500
        for reader in readers:
            await reader.aclose()


async def _pid(store):
    async with store._driver.acquire("read") as connection:
        return connection.pid


async def test_a_connection_stays_at_hand_for_who_comes_next(database, monkeypatch):
    """The pool is asked only for the first; after a while it has it back, and closes it in time."""
    monkeypatch.setattr(driver, "AT_HAND_SECONDS", 1.0)
    async with EventStore(database) as store:
        pool = store._driver._pools["read"]
        pids = {await _pid(store) for _ in range(5)}
        at_hand = pool.get_idle_size()
        async with asyncio.timeout(5):
            while not pool.get_idle_size():
                await asyncio.sleep(0.05)

        assert len(pids) == 1
        assert at_hand == 0
        assert await _pid(store) in pids


async def test_who_waits_for_a_connection_gets_the_next_one(database):
    """It is not kept at hand then: the pool knows who waits."""
    async with EventStore(database, max_connections=5) as store, asyncio.timeout(5):
        order = []

        async def use(name, held):
            async with store._driver.acquire("read"):
                order.append(name)
                await held.wait()

        held = [asyncio.Event() for _ in range(4)]
        tasks = [asyncio.create_task(use(n, event)) for n, event in enumerate(held)]
        for event in held:
            await asyncio.sleep(0.05)
            event.set()
        await asyncio.gather(*tasks)

    assert order == [0, 1, 2, 3]


async def test_a_connection_that_died_at_hand_is_not_used(store):
    """Nor does it count against the pool for ever."""
    for _ in range(5):
        pid = await _pid(store)
        ((_, at_hand),) = store._driver._at_hand["read"]
        async with store._driver.acquire("transaction") as connection:
            await connection.raw.execute("select pg_terminate_backend($1)", pid)
        async with asyncio.timeout(10):
            while not driver._is_closed(at_hand):
                await asyncio.sleep(0.01)

        assert await _pid(store) != pid


async def test_a_connection_whose_statement_was_cancelled_is_cleaned_before_it_is_used(store):
    """The pool does that; the next statement is not the one that the late cancellation hits."""

    async def sleep():
        async with store._driver.acquire("read") as connection:
            await connection.raw.execute("select pg_sleep(5)")

    for _ in range(20):
        task = asyncio.create_task(sleep())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.stream_version("a-1") == 0
