"""Appending and reading inside a transaction of the caller's, by every way there is."""

import asyncio
import contextlib
import datetime as dt
import uuid

import asyncpg
import psycopg
import pytest
from psycopg.adapt import Dumper, Loader
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession
from ways import ASYNC_WAYS, WAYS, UndoError

from eventstore import EXISTS, NO_STREAM, Event, EventStore, NewEvent, VersionConflict, WakeUps, errors
from eventstore.testing import Schedule

pytestmark = pytest.mark.server


class Opened(Event):
    owner: str


class Deposited(Event):
    amount: int


@pytest.fixture
async def schema(database):
    """A table of the caller's own beside the log."""
    raw = await asyncpg.connect(database, ssl=False)
    await raw.execute("create table mine (id int generated always as identity primary key, word text)")
    yield raw
    await raw.close()


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
async def way(request, store, database, schema):
    async with request.param.open(store, database) as opened:
        yield opened


async def log(store):
    return [(r.stream_id, r.version) async for r in store.read_all()]


async def words(raw):
    return [row[0] for row in await raw.fetch("select word from mine order by id")]


async def test_the_callers_rows_and_the_appends_are_committed_together(store, schema, way):
    """Several streams and rows; visible inside at once, outside only after the commit."""
    await way.begin()
    done = await way.append("a-1", Opened(owner="Ada"), expect=NO_STREAM)
    await way.note("between")
    await way.append("b-1", [Deposited(amount=1), Deposited(amount=2)])
    await way.append("a-1", Deposited(amount=3), expect=1)

    assert (done.first_version, done.version) == (1, 1)
    assert [r.data for r in await way.read("a-1")] == [Opened(owner="Ada"), Deposited(amount=3)]
    assert [r.version for r in await way.read("b-1", backwards=True)] == [2, 1]
    assert [r.version for r in await way.read("b-1", backwards=True, limit=1)] == [2]
    assert (await way.read("b-1", after=1, before=3))[0].data == Deposited(amount=2)
    assert (await way.version("b-1"), await way.version("c-1")) == (2, 0)
    assert await store.stream_version("a-1") == 0
    assert await words(schema) == []
    await way.commit()

    assert await log(store) == [("a-1", 1), ("b-1", 1), ("b-1", 2), ("a-1", 2)]
    assert await words(schema) == ["between"]


async def test_a_rollback_takes_back_both(store, schema, way):
    """Also where the append is the first thing that the transaction does."""
    await way.begin()
    await way.append("a-1", Opened(owner="Ada"))
    await way.note("gone")
    await way.rollback()

    assert await log(store) == []
    assert await words(schema) == []


async def test_a_rollback_takes_back_a_transaction_that_only_appended(store, schema, way):
    """Nobody else has sent anything that would have begun the transaction."""
    await way.begin()
    await way.append("a-1", Opened(owner="Ada"))
    await way.rollback()

    assert await log(store) == []


async def test_a_savepoint_takes_back_what_was_appended_inside_and_nothing_else(store, schema, way):
    """The caller's own savepoints lie around ours; later appends count on."""
    await way.begin()
    await way.append("a-1", Opened(owner="Ada"))
    async with way.inner():
        await way.append("a-1", Deposited(amount=1))
        await way.append("b-1", Deposited(amount=2))
        await way.note("gone")
        raise UndoError
    assert [r.version for r in await way.read("a-1")] == [1]
    async with way.inner():
        await way.append("a-1", Deposited(amount=3), expect=1)
        await way.note("kept")
    await way.commit()

    assert await log(store) == [("a-1", 1), ("a-1", 2)]
    assert await words(schema) == ["kept"]


async def test_a_conflict_leaves_the_transaction_usable(store, schema, way):
    """What was written before it is kept, and the same append may be tried again with what was found."""
    await store.append("a-1", Opened(owner="Ada"))
    await way.begin()
    await way.note("before")
    for expect, actual in ((NO_STREAM, 1), (7, 1)):
        with pytest.raises(VersionConflict) as caught:
            await way.append("a-1", Deposited(amount=1), expect=expect)
        assert (caught.value.expected, caught.value.actual) == (expect, actual)
    with pytest.raises(VersionConflict):
        await way.append("b-1", Deposited(amount=1), expect=EXISTS)
    with pytest.raises(errors.InvalidEvent):
        await way.append("b-1", Opened(owner="\0"))
    await way.append("a-1", Deposited(amount=1), expect=1)
    await way.note("after")
    await way.commit()

    assert await log(store) == [("a-1", 1), ("a-1", 2)]
    assert await words(schema) == ["before", "after"]


async def test_whatever_the_server_refuses_leaves_the_transaction_usable(store, schema, database, way):
    """A value that a trigger does not take, and a stream that somebody holds for longer than the transaction waits."""
    raw = await asyncpg.connect(database, ssl=False)
    try:
        await raw.execute("""
            create function public.pick() returns trigger language plpgsql as $$
            begin
                if new.stream_id = 'refused-1' then
                    raise check_violation using message = 'not this one';
                end if;
                return new;
            end $$;
            create trigger pick before insert on eventstore.events for each row execute function public.pick()
            """)
        await way.begin()
        await way.note("before")
        with pytest.raises(errors.DatabaseRefused, match="not this one"):
            await way.append("refused-1", Deposited(amount=1))
        async with raw.transaction():
            await store.join(raw).append("held-1", Deposited(amount=1))
            await way.sql("set local lock_timeout = '50ms'")
            with pytest.raises(errors.LockTimeout):
                await way.append("held-1", Deposited(amount=2))
        await way.append("a-1", Deposited(amount=3))
        await way.note("after")
        await way.commit()
    finally:
        await raw.close()

    assert await log(store) == [("held-1", 1), ("a-1", 1)]
    assert await words(schema) == ["before", "after"]


async def test_a_lost_race_is_run_again_under_read_committed(store, schema, database, way):
    """The transaction goes on behind the winner, with all that it had written."""
    async with Schedule(database) as schedule:
        winner = await schedule.session("winner")
        await way.begin()
        await way.note("kept")
        await winner.do("begin", "begin")
        await winner.do("insert", INSERT, "a-1", 1)
        late = asyncio.create_task(way.append("a-1", Deposited(amount=2)))
        await waits_for(schema, winner.pid)
        assert not late.done()
        await winner.do("commit", "commit")
        done = await asyncio.wait_for(late, 10)
        await way.commit()

    assert done.version == 2
    assert await log(store) == [("a-1", 1), ("a-1", 2)]
    assert await words(schema) == ["kept"]


async def test_an_exact_version_that_loses_the_race_is_a_conflict(store, schema, database, way):
    """Under READ COMMITTED: the next try sees who won."""
    async with Schedule(database) as schedule:
        winner = await schedule.session("winner")
        await way.begin()
        await way.note("kept")
        await winner.do("begin", "begin")
        await winner.do("insert", INSERT, "a-1", 1)
        late = asyncio.create_task(way.append("a-1", Deposited(amount=2), expect=NO_STREAM))
        await waits_for(schema, winner.pid)
        await winner.do("commit", "commit")
        with pytest.raises(VersionConflict) as caught:
            await asyncio.wait_for(late, 10)
        await way.append("a-1", Deposited(amount=2), expect=caught.value.actual)
        await way.commit()

    assert await log(store) == [("a-1", 1), ("a-1", 2)]
    assert await words(schema) == ["kept"]


INSERT = """insert into eventstore.events (stream_id, version, type, event_id, data)
            values ($1, $2, 'Deposited', gen_random_uuid(), '{"amount": 0}')"""


HANG_UP = """select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and state = 'idle in transaction'"""


async def waits_for(raw, pid):
    """Return when some other backend waits for `pid`."""
    async with asyncio.timeout(10):
        while not await raw.fetchval(
            "select exists (select from pg_stat_activity where $1 = any(pg_blocking_pids(pid)))", pid
        ):
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def deaf_store(database):
    """A store that hears of commits from nobody, and looks by itself once a minute."""
    async with EventStore(database, wake_ups=WakeUps(poll_seconds=60, listen=False, notify=False)) as opened:
        yield opened


@contextlib.asynccontextmanager
async def follower(store):
    """A subscriber that has come to the end of the log and waits there; a queue of what it sees."""
    seen, ready = asyncio.Queue(), asyncio.Event()
    await store.append("first-1", Opened(owner="first"))

    async def follow():
        async with store.subscribe() as live:
            async for recorded in live:
                seen.put_nowait(recorded.stream_id)

    task = asyncio.create_task(follow())
    assert await asyncio.wait_for(seen.get(), 10) == "first-1"
    ready.set()
    yield seen
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("kind", ASYNC_WAYS, ids=lambda way: way.__name__)
async def test_a_commit_wakes_subscribers(database, schema, kind):
    """By the store or the session; for a bare connection by the caller's `wake()`. The poll comes too late for this test."""
    async with deaf_store(database) as store, kind.open(store, database) as way, follower(store) as seen:
        for n in range(2):
            await way.begin()
            await way.append(f"a-{n}", Opened(owner="Ada"))
            await way.commit()
            if not kind.wakes:
                store.wake()
            assert await asyncio.wait_for(seen.get(), 10) == f"a-{n}"


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_an_overtaken_snapshot_asks_for_the_whole_transaction_again(store, schema, way, level):
    """Whatever was expected: every further try would see the same snapshot. What was done before may still be committed."""
    await store.append("a-1", Opened(owner="Ada"))
    await way.begin()
    await way.sql(f"set transaction isolation level {level}")
    assert await way.version("a-1") == 1
    await store.append("a-1", Deposited(amount=1))

    for how in ({"expect": 1}, {"expect": EXISTS}, {}):
        with pytest.raises(errors.Retryable, match="run the whole transaction again") as caught:
            await asyncio.wait_for(way.append("a-1", Deposited(amount=2), **how), 10)
        assert caught.value.sqlstate == "40001"
    with pytest.raises(VersionConflict) as conflict:
        await way.append("a-1", Deposited(amount=2), expect=2)
    assert conflict.value.actual == 1
    assert await way.version("a-1") == 1
    if level == "serializable":  # it has read what was overtaken: the server may refuse it whatever it goes on to do
        await way.rollback()
        return
    await way.note("kept")
    await way.append("b-1", Deposited(amount=3), expect=NO_STREAM)
    await way.commit()

    assert await log(store) == [("a-1", 1), ("a-1", 2), ("b-1", 1)]
    assert await words(schema) == ["kept"]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_snapshot_that_loses_while_it_waits_asks_for_the_whole_transaction_again(
    store, schema, database, way, level
):
    """The winner commits while the append waits for it."""
    async with Schedule(database) as schedule:
        winner = await schedule.session("winner")
        await way.begin()
        await way.sql(f"set transaction isolation level {level}")
        assert await way.version("a-1") == 0
        await winner.do("begin", "begin")
        await winner.do("insert", INSERT, "a-1", 1)
        late = asyncio.create_task(way.append("a-1", Deposited(amount=2)))
        await waits_for(schema, winner.pid)
        await winner.do("commit", "commit")
        with pytest.raises(errors.Retryable, match="run the whole transaction again"):
            await asyncio.wait_for(late, 10)
        await way.rollback()

    assert await log(store) == [("a-1", 1)]


@pytest.mark.parametrize("way", ASYNC_WAYS, ids=lambda way: way.__name__, indirect=True)
async def test_an_append_that_is_cancelled_never_was(store, schema, database, way):
    """It waited for somebody; the transaction goes on without it."""
    async with Schedule(database) as schedule:
        other = await schedule.session("other")
        await way.begin()
        await way.append("b-1", Opened(owner="before"))
        await other.do("begin", "begin")
        await other.do("insert", INSERT, "a-1", 1)
        late = asyncio.create_task(way.append("a-1", Deposited(amount=2)))
        await waits_for(schema, other.pid)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        await other.do("roll back", "rollback")
        await way.append("b-1", Deposited(amount=1), expect=1)
        await way.commit()

    assert await log(store) == [("b-1", 1), ("b-1", 2)]


async def test_a_server_that_hangs_up_takes_the_transaction_with_it(store, schema, way):
    """Nothing was committed, and the error says that the connection died; the way works again afterwards."""
    await way.begin()
    await way.append("a-1", Opened(owner="Ada"))
    await schema.execute(HANG_UP)
    with pytest.raises(errors.ConnectionLost):
        await way.append("a-1", Deposited(amount=1))
    with contextlib.suppress(Exception):
        await way.rollback()

    assert await log(store) == []
    if hasattr(way, "session"):
        await way.append("a-1", Opened(owner="again"))
        await way.commit()
        assert await log(store) == [("a-1", 1)]


async def test_a_failed_transaction_says_that_it_has_to_be_rolled_back(schema, way):
    """An earlier statement of the caller's failed; ours is not the one to blame."""
    await way.begin()
    with contextlib.suppress(Exception):
        await way.sql("select 1 / 0")
    for use in (way.append("a-1", Opened(owner="Ada")), way.read("a-1")):
        with pytest.raises(errors.DatabaseRefused, match="roll it back") as caught:
            await use
        assert caught.value.sqlstate == "25P02"
    await way.rollback()


async def test_a_read_only_transaction_is_named(way):
    """Rather than sending the caller to look for a standby."""
    await way.begin()
    await way.sql("set transaction read only")
    with pytest.raises(errors.Retryable, match="READ ONLY"):
        await way.append("a-1", Opened(owner="Ada"))
    assert await way.version("a-1") == 0
    await way.rollback()


async def test_a_name_of_ours_is_no_trouble_to_the_callers_savepoint(store, way):
    """Savepoints of one name hide each other, the latest first, and ours is gone when the append returns."""
    await way.begin()
    await way.append("a-1", Opened(owner="Ada"))
    await way.sql("savepoint eventstore_append")
    await way.append("a-1", Deposited(amount=1))
    with pytest.raises(VersionConflict):
        await way.append("a-1", Deposited(amount=1), expect=0)
    await way.sql("rollback to savepoint eventstore_append")
    await way.append("b-1", Deposited(amount=2))
    await way.commit()

    assert await log(store) == [("a-1", 1), ("b-1", 1)]


# -- the connection's own ways: codecs, settings, states


def everything():
    """An event that uses every column, with values at the edges."""
    return NewEvent(
        Opened(owner='Ada "quoted" \\ {curly} ü 😀'),
        event_id=uuid.uuid4(),
        metadata={"ip": "::1", "nested": {"a": [1, None]}},
        occurred_at=dt.datetime(1, 1, 1, 1, 2, 3, 456789, tzinfo=dt.UTC),
        correlation_id="request {7}, ü",
        causation_id=uuid.uuid4(),
    )


def same(recorded, new):
    assert recorded.data == new.event
    for name in ("event_id", "occurred_at", "correlation_id", "causation_id"):
        assert getattr(recorded, name) == getattr(new, name)
    assert dict(recorded.metadata) == dict(new.metadata)


def refuse(value):
    raise AssertionError(f"a codec of the caller's met {value!r}")


@pytest.mark.parametrize("format_", ["text", "binary"])
async def test_no_codec_of_an_asyncpg_connection_is_met(store, database, format_):
    """Each of them would break what it touches."""
    raw = await asyncpg.connect(database, ssl=False)
    for name in ("json", "jsonb", "text", "uuid", "timestamptz", "numeric"):
        await raw.set_type_codec(name, schema="pg_catalog", encoder=refuse, decoder=refuse, format=format_)
    new = everything()
    async with raw.transaction():
        tx = store.join(raw)
        await tx.append("a-ü", [Opened(owner="x"), new], expect=NO_STREAM)
        with pytest.raises(VersionConflict):
            await tx.append("a-ü", new, expect=NO_STREAM)
        inside = await tx.read_stream("a-ü", after=1)
        assert await tx.read_stream("a-ü", backwards=True, limit=1) == inside
        assert (await tx.stream_version("a-ü"), tx.connection) == (2, raw)
    await raw.close()

    (outside,) = [recorded async for recorded in store.read_stream("a-ü", after=1)]
    same(inside[0], new)
    same(outside, new)
    assert inside[0].recorded_at == outside.recorded_at


async def test_a_race_is_run_again_also_where_codecs_are_set(store, schema, database):
    """What asks for the isolation level reads no text."""
    raw = await asyncpg.connect(database, ssl=False)
    await raw.set_type_codec("text", schema="pg_catalog", encoder=refuse, decoder=refuse)
    async with Schedule(database) as schedule:
        winner = await schedule.session("winner")
        await winner.do("begin", "begin")
        await winner.do("insert", INSERT, "a-1", 1)
        async with raw.transaction():
            late = asyncio.create_task(store.join(raw).append("a-1", Deposited(amount=2)))
            await waits_for(schema, winner.pid)
            await winner.do("commit", "commit")
            assert (await asyncio.wait_for(late, 10)).version == 2
    await raw.close()


async def test_nothing_that_is_set_on_a_psycopg_connection_is_met(store, database):
    """Adapters, row factory, cursor factory, and the session's own settings."""

    class Hostile(Dumper):
        dump = refuse

    class HostileLoader(Loader):
        load = refuse

    options = (
        "-c datestyle=SQL,DMY -c timezone=Asia/Kolkata -c search_path= -c bytea_output=escape -c intervalstyle=sql_standard"
    )
    async with await psycopg.AsyncConnection.connect(
        database, row_factory=dict_row, cursor_factory=psycopg.AsyncClientCursor, options=options
    ) as raw:
        for kind in (str, int, list, uuid.UUID, dt.datetime, bytes):
            raw.adapters.register_dumper(kind, Hostile)
        for name in ("text", "varchar", "uuid", "timestamptz", "json", "jsonb", "int8", "int4", "bytea"):
            raw.adapters.register_loader(name, HostileLoader)
        new = everything()
        tx = store.join(raw)
        await tx.append("a-ü", [Opened(owner="x"), new], expect=NO_STREAM)
        (inside,) = await tx.read_stream("a-ü", after=1)
        same(inside, new)


async def test_session_settings_of_an_asyncpg_connection_do_not_matter(store, database):
    """Date style, time zone and search path, and a cache of statements that is switched off as for poolers."""
    settings = {"datestyle": "SQL, DMY", "timezone": "Asia/Kolkata", "search_path": "", "bytea_output": "escape"}
    raw = await asyncpg.connect(database, ssl=False, server_settings=settings, statement_cache_size=0)
    new = everything()
    async with raw.transaction():
        tx = store.join(raw)
        await tx.append("a-1", new)
        (inside,) = await tx.read_stream("a-1")
    await raw.close()

    same(inside, new)


async def test_a_transaction_begun_in_plain_sql_can_be_joined(store, schema):
    """Asyncpg's own object for transactions knows nothing of it."""
    await schema.execute("begin")
    tx = store.join(schema)
    with pytest.raises(VersionConflict):
        await tx.append("a-1", Opened(owner="Ada"), expect=1)
    await tx.append("a-1", Opened(owner="Ada"))
    await schema.execute("rollback")
    assert await log(store) == []
    await schema.execute("begin")
    await tx.append("a-1", Opened(owner="Ada"))
    await schema.execute("commit")

    assert await log(store) == [("a-1", 1)]


async def test_a_pools_connection_can_be_joined(store, database):
    """By the proxy that the pool hands out, until it is given back."""
    async with asyncpg.create_pool(database, ssl=False, min_size=1, max_size=1) as pool:
        async with pool.acquire() as proxy, proxy.transaction():
            tx = store.join(proxy)
            await tx.append("a-1", Opened(owner="Ada"))
        with pytest.raises(errors.ConnectionLost, match="back in its pool"):
            await tx.append("a-1", Deposited(amount=1))

    assert await log(store) == [("a-1", 1)]


async def test_nothing_is_ever_committed_by_itself(store, schema, database):
    """Without an open transaction there is a clear error, when joining and at every later use."""
    with pytest.raises(errors.InvalidArgument, match="no transaction is open"):
        store.join(schema)
    async with schema.transaction():
        tx = store.join(schema)
    for use in (tx.append("a-1", Opened(owner="Ada")), tx.read_stream("a-1"), tx.stream_version("a-1")):
        with pytest.raises(errors.InvalidArgument, match="begin one first"):
            await use
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as raw:
        with pytest.raises(errors.InvalidArgument, match="no transaction is open"):
            store.join(raw)
        async with raw.transaction():
            tx = store.join(raw)
            await tx.append("b-1", Opened(owner="Ada"))
        with pytest.raises(errors.InvalidArgument, match="no transaction is open"):
            await tx.append("b-1", Opened(owner="Ada"))
    async with store.transaction() as tx:
        pass
    with pytest.raises((errors.InvalidArgument, errors.ConnectionLost)):
        await tx.append("a-1", Opened(owner="Ada"))

    assert await log(store) == [("b-1", 1)]


async def test_what_cannot_be_joined_is_refused_with_what_can(store, database):
    """A closed connection, a blocking one, and things that are no connections."""
    raw = await asyncpg.connect(database, ssl=False)
    await raw.close()
    with pytest.raises(errors.ConnectionLost, match="closed"):
        store.join(raw)
    with psycopg.connect(database) as blocking, pytest.raises(errors.InvalidArgument, match=r"eventstore\.sync"):
        store.join(blocking)
    async with AsyncSession() as session:
        for wrong in (session, None, database):
            with pytest.raises(errors.InvalidArgument, match=r"sqlalchemy\.join"):
                store.join(wrong)


async def test_a_store_that_is_not_open_joins_nothing(database, schema):
    """As every other use of it."""
    async with schema.transaction():
        with pytest.raises(errors.StoreClosed):
            EventStore(database).join(schema)


async def test_a_database_without_the_schema_is_said_to_be_the_wrong_one(store, empty_database):
    """The caller's transaction there goes on."""
    raw = await asyncpg.connect(empty_database, ssl=False)
    async with raw.transaction():
        await raw.execute("create table mine (n int)")
        with pytest.raises(errors.SchemaMissing, match="the store's own database"):
            await store.join(raw).append("a-1", Opened(owner="Ada"))
        assert await raw.fetchval("select count(*) from mine") == 0
    await raw.close()
