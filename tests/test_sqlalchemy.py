"""Appending inside SQLAlchemy's transactions. What holds for every way to join is in test_join.py."""

import asyncio
import contextlib
import gc
import queue
import threading
import weakref

import asyncpg
import pytest
from sqlalchemy import create_engine, event, exc, func, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from ways import address

from eventstore import (
    NO_STREAM,
    BoundaryConflict,
    Event,
    EventStore,
    NewEvent,
    Query,
    VersionConflict,
    WakeUps,
    errors,
    sync,
)
from eventstore.sqlalchemy import join

pytestmark = pytest.mark.server


class Base(DeclarativeBase):
    """The caller's own tables."""


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column(primary_key=True)
    balance: Mapped[int] = mapped_column(default=0)
    details: Mapped[dict] = mapped_column(JSONB, default=dict)


class Opened(Event):
    owner: str


class Deposited(Event):
    amount: int


@pytest.fixture(params=["asyncpg", "psycopg"])
async def engine(request, database):
    made = create_async_engine(address(database, request.param))
    async with made.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield made
    await made.dispose()


@pytest.fixture
async def session(engine):
    async with AsyncSession(engine, expire_on_commit=False) as opened:
        yield opened


@pytest.fixture
def woken(store, monkeypatch):
    """How often the store was woken."""
    calls = []
    monkeypatch.setattr(store, "wake", lambda: calls.append(1))
    return calls


HANG_UP = """select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and state = 'idle in transaction'"""


async def log(store):
    return [(r.stream_id, r.version) async for r in store.read_all()]


async def accounts(engine):
    async with AsyncSession(engine) as other:
        return list(await other.scalars(select(Account.id).order_by(Account.id)))


async def test_orm_rows_and_appends_see_each_other_and_share_one_fate(store, engine, session):
    """Flushed, appended, read both ways; committed together, and taken back together."""
    tx = join(store, session)
    for commit in (False, True):
        session.add(Account(id="a-1", details={"tier": 1}))
        await session.flush()
        await tx.append("a-1", Opened(owner="Ada"), expect=NO_STREAM)
        account = await session.get_one(Account, "a-1", populate_existing=True)
        account.balance = len(await tx.read_stream("a-1"))
        await session.flush()

        assert account.details == {"tier": 1}
        assert await session.scalar(text("select data->>'owner' from eventstore.events")) == "Ada"
        assert await session.scalar(select(func.sum(Account.balance))) == 1
        assert tx.connection is session
        await (session.commit() if commit else session.rollback())
        assert await log(store) == ([("a-1", 1)] if commit else [])
        assert await accounts(engine) == (["a-1"] if commit else [])


async def test_an_append_before_anything_else_is_part_of_the_transaction(store, session):
    """SQLAlchemy's adapter for asyncpg has sent no BEGIN by then; whatever comes first must not be committed by itself."""
    tx = join(store, session)
    await tx.append("a-1", Opened(owner="Ada"))
    assert await log(store) == []
    await session.rollback()
    assert await log(store) == []
    assert await tx.stream_version("a-1") == 0
    await tx.append("a-1", Opened(owner="Ada"))
    await session.commit()
    await tx.append("a-1", Deposited(amount=1), expect=1)
    await session.close()

    assert await log(store) == [("a-1", 1)]


async def test_nothing_is_sent_to_begin_what_has_begun(store, engine, session):
    """One `select 1` at most a transaction, and none behind a statement of the caller's."""
    sent = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *told: sent.append(told[2]))
    tx = join(store, session)
    await session.execute(text("select 2"))
    await tx.append("a-1", Opened(owner="Ada"))
    await tx.append("a-1", Deposited(amount=1))
    await session.commit()

    assert [one for one in sent if one == "select 1"] == []
    await tx.append("a-1", Deposited(amount=2))
    await tx.append("a-1", Deposited(amount=3))
    await session.commit()
    assert len([one for one in sent if one == "select 1"]) <= 1


async def test_blocks_and_nested_blocks(store, engine):
    """`session.begin()` and `begin_nested()`, as most people write them."""
    async with AsyncSession(engine) as session:
        tx = join(store, session)
        async with session.begin():
            session.add(Account(id="a-1"))
            await tx.append("a-1", Opened(owner="Ada"))
            with contextlib.suppress(RuntimeError):
                async with session.begin_nested():
                    session.add(Account(id="b-1"))
                    await session.flush()
                    await tx.append("b-1", Opened(owner="Bob"))
                    await tx.append("a-1", Deposited(amount=1))
                    raise RuntimeError
            async with session.begin_nested():
                async with session.begin_nested() as innermost:
                    await tx.append("c-1", Opened(owner="Eve"))
                    await innermost.rollback()
                await tx.append("a-1", Deposited(amount=2), expect=1)
        with contextlib.suppress(RuntimeError):
            async with session.begin():
                await tx.append("a-1", Deposited(amount=3))
                raise RuntimeError

    assert await log(store) == [("a-1", 1), ("a-1", 2)]
    assert await accounts(engine) == ["a-1"]


async def test_a_refused_append_never_poisons_the_session(store, engine, session):
    """Neither SQLAlchemy nor the server asks for a rollback; what is pending and flushed is kept."""
    await store.append("a-1", Opened(owner="Ada"))
    tx = join(store, session)
    session.add(Account(id="flushed"))
    await session.flush()
    session.add(Account(id="pending"))
    for how in ({"expect": NO_STREAM}, {"expect": 5}):
        with pytest.raises(VersionConflict):
            await tx.append("a-1", Opened(owner="Eve"), **how)
    with pytest.raises(errors.InvalidArgument):
        await tx.append("a-1", [])
    assert session.is_active
    assert session.in_transaction()
    await tx.append("a-1", Deposited(amount=1), expect=1)
    await session.commit()

    assert await accounts(engine) == ["flushed", "pending"]
    assert await log(store) == [("a-1", 1), ("a-1", 2)]


async def test_a_failed_flush_asks_for_a_rollback_first(store, engine, session):
    """SQLAlchemy's own rule, said in an error of ours; after it the same join goes on."""
    async with AsyncSession(engine) as other, other.begin():
        other.add(Account(id="taken"))
    tx = join(store, session)
    await tx.append("a-1", Opened(owner="Ada"))
    session.add(Account(id="taken"))
    with pytest.raises(exc.IntegrityError):
        await session.flush()
    with pytest.raises(errors.InvalidArgument, match="rolled back before"):
        await tx.append("a-1", Opened(owner="Ada"))
    await session.rollback()
    await tx.append("a-1", Opened(owner="Ada"), expect=NO_STREAM)
    await session.commit()

    assert await log(store) == [("a-1", 1)]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_the_engines_isolation_level_counts(store, database, level):
    """Set in SQLAlchemy's way; under asyncpg it is in the BEGIN that is sent for the append."""
    for driver in ("asyncpg", "psycopg"):
        made = create_async_engine(address(database, driver), isolation_level=level)
        async with AsyncSession(made) as session:
            tx = join(store, session)
            version = await tx.stream_version("a-1")
            assert await session.scalar(text("show transaction_isolation")) == level.lower()
            await store.append("a-1", Deposited(amount=1))
            for how in ({}, {"expect": version}):
                with pytest.raises(errors.Retryable, match="run the whole transaction again"):
                    await tx.append("a-1", Deposited(amount=2), **how)
            await session.rollback()
            await tx.append("a-1", Deposited(amount=2), expect=version + 1)
            await session.commit()
        await made.dispose()

    assert await log(store) == [("a-1", n) for n in range(1, 5)]


async def test_autocommit_is_refused(store, database):
    """An append there would outlive the rollback; nothing is written."""
    for driver in ("asyncpg", "psycopg"):
        made = create_async_engine(address(database, driver), isolation_level="AUTOCOMMIT")
        async with AsyncSession(made) as session:
            with pytest.raises(errors.InvalidArgument, match="AUTOCOMMIT"):
                await join(store, session).append("a-1", Opened(owner="Ada"))
        await made.dispose()

    assert await log(store) == []


# -- waking


async def test_a_commit_wakes_once_and_nothing_else_does(store, session, woken):
    """Once a transaction, whatever the number of appends and joins; not for a rollback, a savepoint or a later commit."""
    tx, same = join(store, session), join(store, session)
    await tx.append("a-1", Opened(owner="Ada"))
    await tx.append("b-1", Opened(owner="Ada"))
    await same.append("c-1", Opened(owner="Ada"))
    async with session.begin_nested():
        await tx.append("d-1", Opened(owner="Ada"))
    assert woken == []
    await session.commit()
    assert len(woken) == 1

    await session.execute(text("select 1"))
    await session.commit()
    await tx.append("a-1", Deposited(amount=1))
    await session.rollback()
    await session.execute(text("select 1"))
    await session.commit()
    await tx.append("a-1", Deposited(amount=1))
    await session.close()
    await session.execute(text("select 1"))
    await session.commit()
    await tx.read_stream("a-1")
    await session.commit()
    with pytest.raises(VersionConflict):
        await tx.append("a-1", Deposited(amount=1), expect=9)
    await session.commit()
    assert len(woken) == 1

    await tx.append("a-1", Deposited(amount=1))
    await session.commit()
    assert len(woken) == 2


async def test_a_savepoint_that_is_rolled_back_leaves_the_rest_to_wake(store, session, woken):
    """What was appended around it is committed; a commit of nested blocks still open wakes as well."""
    tx = join(store, session)
    await tx.append("a-1", Opened(owner="Ada"))
    nested = await session.begin_nested()
    await tx.append("a-1", Deposited(amount=1))
    await nested.rollback()
    await session.commit()
    assert len(woken) == 1

    await session.begin_nested()
    await tx.append("a-1", Deposited(amount=1))
    await session.commit()
    assert len(woken) == 2
    assert await log(store) == [("a-1", 1), ("a-1", 2)]


async def test_a_session_is_not_kept_alive(store, engine):
    """Neither by its hooks nor by an append that was never committed."""
    session = AsyncSession(engine)
    await join(store, session).append("a-1", Opened(owner="Ada"))
    await session.close()
    gone = weakref.ref(session.sync_session)
    del session
    gc.collect()

    assert gone() is None


# -- sessions and connections of all kinds


async def test_a_scoped_session_is_the_session_behind_it(store, engine):
    """As web frameworks have it."""
    scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    await join(store, scoped).append("a-1", Opened(owner="Ada"))
    await scoped.commit()
    await scoped.remove()

    assert await log(store) == [("a-1", 1)]


async def test_a_session_on_a_connection_shares_its_transaction(store, engine):
    """As test suites have it: the session commits, the connection rolls back."""
    async with engine.connect() as connection:
        outer = await connection.begin()
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            tx = join(store, session)
            await tx.append("a-1", Opened(owner="Ada"))
            await session.commit()
            assert await tx.stream_version("a-1") == 1
        await outer.rollback()

    assert await log(store) == []


async def test_a_core_connection_can_be_joined(store, engine):
    """Its commit and rollback count, also where the append is all that it has done."""
    async with engine.connect() as connection:
        tx = join(store, connection)
        await tx.append("a-1", Opened(owner="Ada"))
        await connection.rollback()
        assert await log(store) == []
        await tx.append("a-1", Opened(owner="Ada"))
        await connection.commit()
        assert await log(store) == [("a-1", 1)]
        async with connection.begin():
            async with connection.begin_nested() as nested:
                await tx.append("a-1", Deposited(amount=1))
                await nested.rollback()
            await tx.append("a-1", Deposited(amount=2), expect=1)
        await tx.append("a-1", Deposited(amount=3))

    assert await log(store) == [("a-1", 1), ("a-1", 2)]


async def test_a_server_that_hung_up_costs_one_rollback(store, database, engine, session):
    """SQLAlchemy hears of it; the next transaction gets another connection."""
    tx = join(store, session)
    session.add(Account(id="lost"))
    await session.flush()
    killer = await asyncpg.connect(database, ssl=False)
    await killer.execute(HANG_UP)
    await killer.close()
    with pytest.raises(errors.ConnectionLost):
        await tx.append("a-1", Opened(owner="Ada"))
    with pytest.raises(errors.InvalidArgument, match="rolled back before"):
        await tx.append("a-1", Opened(owner="Ada"))
    await session.rollback()
    session.add(Account(id="kept"))
    await tx.append("a-1", Opened(owner="Ada"))
    await session.commit()

    assert await accounts(engine) == ["kept"]
    assert await log(store) == [("a-1", 1)]


async def test_sessions_that_lead_nowhere_say_so(store, server, empty_database):
    """Unbound, closed for good, on a server that does not answer, on another database, and no session at all."""
    with pytest.raises(errors.InvalidArgument, match="does not say which database"):
        await join(store, AsyncSession()).append("a-1", Opened(owner="Ada"))
    for driver in ("asyncpg", "psycopg"):
        made = create_async_engine(f"postgresql+{driver}://nobody@127.0.0.1:1/none")
        async with AsyncSession(made) as session:
            with pytest.raises(errors.ConnectionLost, match="cannot be reached"):
                await join(store, session).append("a-1", Opened(owner="Ada"))
        made = create_async_engine(address(empty_database, driver))
        async with AsyncSession(made) as session:
            with pytest.raises(errors.SchemaMissing, match="the store's own database"):
                await join(store, session).append("a-1", Opened(owner="Ada"))
            assert await session.scalar(text("select 7")) == 7
        session = AsyncSession(made, close_resets_only=False)
        tx = join(store, session)
        await session.close()
        with pytest.raises(errors.InvalidArgument, match="cannot be used"):
            await tx.append("a-1", Opened(owner="Ada"))
        connection = made.connect()
        with pytest.raises(errors.InvalidArgument, match="cannot be used"):
            await join(store, connection).append("a-1", Opened(owner="Ada"))
        async with connection:
            tx = join(store, connection)
        with pytest.raises(errors.InvalidArgument, match="cannot be used"):
            await tx.append("a-1", Opened(owner="Ada"))
        await made.dispose()


async def test_what_does_not_fit_together_is_refused_by_name(store, engine):
    """An async store takes async sessions."""
    with Session(create_engine("sqlite://")) as blocking:
        for wrong in (blocking, engine, None):
            with pytest.raises(errors.InvalidArgument, match="AsyncSession"):
                join(store, wrong)


# -- blocking


@pytest.fixture
def blocking(database):
    """An open blocking store that hears of commits from nobody, and looks by itself once a minute."""
    with sync.EventStore(database, wake_ups=WakeUps(poll_seconds=60, listen=False, notify=False)) as opened:
        yield opened


@pytest.fixture
def blocking_engine(database):
    made = create_engine(address(database, "psycopg"))
    Base.metadata.create_all(made)
    yield made
    made.dispose()


def blocking_log(store):
    return [(r.stream_id, r.version) for r in store.read_all()]


def test_a_blocking_session_shares_its_fate_with_its_appends(blocking, blocking_engine):
    """Rows, nested blocks, conflicts and waking, as for the async ones."""
    with Session(blocking_engine) as session:
        tx = join(blocking, session)
        session.add(Account(id="gone"))
        session.flush()
        tx.append("a-1", Opened(owner="Ada"))
        session.rollback()
        assert tx.stream_version("a-1") == 0
        session.rollback()

        with session.begin():
            session.add(Account(id="a-1"))
            tx.append("a-1", Opened(owner="Ada"), expect=NO_STREAM)
            with contextlib.suppress(RuntimeError), session.begin_nested():
                tx.append("b-1", Opened(owner="Bob"))
                raise RuntimeError
            with pytest.raises(VersionConflict):
                tx.append("a-1", Opened(owner="Eve"), expect=NO_STREAM)
            tx.append("a-1", Deposited(amount=1), expect=1)
            assert [r.version for r in tx.read_stream("a-1", backwards=True)] == [2, 1]
            assert tx.connection is session
            assert blocking_log(blocking) == []

        assert blocking_log(blocking) == [("a-1", 1), ("a-1", 2)]
        assert session.scalars(select(Account.id)).all() == ["a-1"]


def test_a_blocking_sessions_commit_wakes_subscribers(blocking, blocking_engine):
    """In another thread of the process, long before its poll; a rollback and a released savepoint do not."""
    blocking.append("first-1", Opened(owner="first"))
    seen = queue.Queue()
    with blocking.subscribe() as live, Session(blocking_engine) as session:
        thread = threading.Thread(target=lambda: [seen.put(recorded.stream_id) for recorded in live])
        thread.start()
        try:
            assert seen.get(timeout=10) == "first-1"
            tx = join(blocking, session)
            for n in range(2):
                tx.append("gone-1", Opened(owner="Ada"))
                session.rollback()
                with session.begin_nested():
                    tx.append(f"a-{n}", Opened(owner="Ada"))
                session.commit()
                assert seen.get(timeout=10) == f"a-{n}"
        finally:
            live.close()
            thread.join(10)


def test_blocking_sessions_of_all_kinds(blocking, blocking_engine, empty_database):
    """A Core connection, a scoped session, another database, SQLite, AUTOCOMMIT, none at all."""
    with blocking_engine.connect() as connection:
        tx = join(blocking, connection)
        tx.append("a-1", Opened(owner="Ada"))
        connection.rollback()
        tx.append("a-1", Opened(owner="Ada"))
        connection.commit()
        tx.append("a-1", Deposited(amount=1))
    scoped = scoped_session(sessionmaker(blocking_engine))
    join(blocking, scoped).append("b-1", Opened(owner="Ada"))
    scoped.commit()
    scoped.remove()
    assert blocking_log(blocking) == [("a-1", 1), ("b-1", 1)]

    elsewhere, lite = create_engine(address(empty_database, "psycopg")), create_engine("sqlite://")
    automatic = blocking_engine.execution_options(isolation_level="AUTOCOMMIT")
    for bind, error, match in (
        (elsewhere, errors.SchemaMissing, "the store's own database"),
        (lite, errors.InvalidArgument, "got one by sqlite"),
        (automatic, errors.InvalidArgument, "AUTOCOMMIT"),
        (None, errors.InvalidArgument, "does not say which database"),
    ):
        with Session(bind) as session, pytest.raises(error, match=match):
            join(blocking, session).append("a-1", Opened(owner="Ada"))
    elsewhere.dispose()
    lite.dispose()
    with pytest.raises(errors.InvalidArgument, match="AsyncSession with|AsyncSession or"):
        join(blocking, AsyncSession())
    assert blocking_log(blocking) == [("a-1", 1), ("b-1", 1)]


def test_a_store_that_is_not_open_joins_no_session(database, blocking_engine):
    """Of either kind."""
    with Session(blocking_engine) as session, pytest.raises(errors.StoreClosed):
        join(sync.EventStore(database), session)
    with pytest.raises(errors.StoreClosed):
        join(EventStore(database), AsyncSession())


def test_a_blocking_session_decides_beside_its_rows(database):
    """The decision is part of the session's transaction: refused, it leaves the session usable; rolled back, it is gone."""
    engine = create_engine(address(database, "psycopg"))
    Base.metadata.create_all(engine)
    query, seat = Query(tags=["course:1"]), NewEvent(Deposited(amount=1), tags=["course:1"])
    try:
        with sync.EventStore(database, events=[Deposited]) as store:
            with Session(engine) as session:
                decision = sync.Boundary(join(store, session)).read(query)
                session.add(Account(id="rolled back"))
                decision.append("course-1", seat)
                session.rollback()
            with Session(engine) as session:
                stale = sync.Boundary(join(store, session)).read(query)
                store.append("course-1", seat)
                session.add(Account(id="kept"))
                with pytest.raises(BoundaryConflict):
                    stale.append("course-1", seat)
                done = sync.Boundary(join(store, session)).decide(query, lambda events: {f"course-{len(events)}": seat})
                session.commit()
            assert list(done) == ["course-1"]
            assert len(sync.Boundary(store).read(query).events) == 2
        with Session(engine) as session:
            assert session.scalars(select(Account.id)).all() == ["kept"]
    finally:
        engine.dispose()
