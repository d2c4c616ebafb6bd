"""Every store passes one contract: the real one, and its twin in memory. What a class inherits is what its store offers."""

import asyncio
import contextlib

import asyncpg
import broken_stores
import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from ways import address

from eventstore import EventStore, GroupCommit, WakeUps, errors, sync
from eventstore import sqlalchemy as joining
from eventstore.testing import Awaitable, MemoryStore
from eventstore.testing.blocking import AwaitableTransaction
from eventstore.testing.contract import (
    EVENTS,
    CallOrderContract,
    DecideContract,
    DecideInTransactionContract,
    Deposited,
    RepeatContract,
    RepeatInTransactionContract,
    StoreContract,
    TransactionReadContract,
)
from eventstore.testing.contract.kit import collect, entered

QUICK = WakeUps(poll_seconds=0.05, listen=False)


class TestMemoryStore(
    StoreContract,
    CallOrderContract,
    RepeatContract,
    RepeatInTransactionContract,
    DecideContract,
    DecideInTransactionContract,
):
    @pytest.fixture
    async def store(self):
        async with MemoryStore(events=EVENTS) as store:
            yield store


class OnAServer(StoreContract, RepeatContract, RepeatInTransactionContract, DecideContract, DecideInTransactionContract):
    """All that a store with a server offers, but for the order of calls, which threads do not keep."""


@pytest.mark.server
class TestEventStore(OnAServer, CallOrderContract):
    @pytest.fixture
    async def store(self, database):
        async with EventStore(database, events=EVENTS, wake_ups=QUICK) as store:
            yield store


@pytest.mark.server
class TestAloneAndResolving(OnAServer, CallOrderContract):
    """Each append alone in its commit, with a request id of the store's."""

    @pytest.fixture
    async def store(self, database):
        options = {"group_commit": GroupCommit(appends=1), "resolve_unknown": True}
        async with EventStore(database, events=EVENTS, wake_ups=QUICK, **options) as store:
            yield store


@pytest.mark.server
class TestUsersPool(OnAServer, CallOrderContract):
    """Connections of the user's, without any settings of ours."""

    @pytest.fixture
    async def store(self, database):
        async with (
            asyncpg.create_pool(database, min_size=0, max_size=20, ssl=False) as pool,
            EventStore(pool, events=EVENTS, wake_ups=QUICK) as store,
        ):
            yield store


class InThreads(OnAServer):
    """A blocking store: a call that has begun cannot be cancelled."""

    async def test_a_cancelled_append_is_not_written(self, store):
        """Or it is, with its transaction: all of it or nothing."""
        async with store.transaction() as first:
            await first.append("a-1", Deposited(amount=1))
            with contextlib.suppress(errors.EventStoreError):
                await self._give_up(store, "a-1", "b-1")
        found = [[recorded.data.amount async for recorded in store.read_stream(name)] for name in ("a-1", "b-1")]
        assert found in ([[1], [2, 4]], [[1], []], [[1, 3], [2, 4]])


@pytest.mark.server
class TestBlockingStore(InThreads):
    @pytest.fixture
    async def store(self, database):
        async with Awaitable(sync.EventStore(database, events=EVENTS)) as store:
            yield store


@pytest.mark.server
class TestEventStoreBehindPgBouncer(TestEventStore):
    """Which gives another session to each transaction."""

    @pytest.fixture
    async def store(self, pgbouncer):
        url = await asyncio.to_thread(pgbouncer)
        quick = WakeUps(poll_seconds=0.05)
        async with EventStore(url, statement_cache_size=0, events=EVENTS, wake_ups=quick) as store:
            yield store


@pytest.mark.server
class TestBlockingStoreBehindPgBouncer(InThreads):
    """As above, on psycopg."""

    @pytest.fixture
    async def store(self, pgbouncer):
        url = await asyncio.to_thread(pgbouncer)
        quick = WakeUps(poll_seconds=0.05)
        async with Awaitable(sync.EventStore(url, statement_cache_size=0, events=EVENTS, wake_ups=quick)) as store:
            yield store


class Joined(TransactionReadContract, RepeatInTransactionContract, DecideInTransactionContract):
    """A transaction of the caller's, whose connection stays open after it."""

    @pytest.fixture
    async def store(self, database):
        async with contextlib.AsyncExitStack() as self.left_open, EventStore(database, events=EVENTS) as store:
            yield store


@pytest.mark.server
class TestAsyncpgJoin(Joined):
    @contextlib.asynccontextmanager
    async def begin(self, store):
        connection = await asyncpg.connect(store.dsn, ssl=False)
        self.left_open.push_async_callback(connection.close)
        async with connection.transaction():
            yield store.join(connection)


@pytest.mark.server
class TestPsycopgJoin(Joined):
    @contextlib.asynccontextmanager
    async def begin(self, store):
        connection = await psycopg.AsyncConnection.connect(store.dsn, autocommit=True)
        self.left_open.push_async_callback(connection.close)
        async with connection.transaction():
            yield store.join(connection)


class SessionJoined(Joined):
    """A session; one that has ended begins again by itself, so that its transaction's end is the block's."""

    driver = ""

    @contextlib.asynccontextmanager
    async def begin(self, store):
        engine = create_async_engine(address(store.dsn, self.driver))
        self.left_open.push_async_callback(engine.dispose)
        async with AsyncSession(engine) as session, session.begin():
            yield joining.join(store, session)

    async def test_after_its_end_it_is_refused(self, store):
        """Instead it begins anew, as sessions do, and what is appended then is its new transaction's."""
        engine = create_async_engine(address(store.dsn, self.driver))
        self.left_open.push_async_callback(engine.dispose)
        async with AsyncSession(engine) as session:
            tx = joining.join(store, session)
            await tx.append("a-1", Deposited(amount=1))
            await session.commit()
            await tx.append("a-1", Deposited(amount=2))
            await session.rollback()
        assert await store.stream_version("a-1") == 1


@pytest.mark.server
class TestAsyncSessionOnAsyncpg(SessionJoined):
    driver = "asyncpg"


@pytest.mark.server
class TestAsyncSessionOnPsycopg(SessionJoined):
    driver = "psycopg"


@pytest.mark.server
@pytest.mark.parametrize("own_pool", [False, True])
async def test_a_failed_statement_that_was_swallowed_fails_the_block(database, own_pool):
    """PostgreSQL answers COMMIT with ROLLBACK then, and asyncpg takes that for a yes."""
    async with contextlib.AsyncExitStack() as stack:
        pool = await stack.enter_async_context(asyncpg.create_pool(database, min_size=0, ssl=False)) if own_pool else None
        store = await stack.enter_async_context(EventStore(pool or database, events=EVENTS))
        with pytest.raises(errors.DatabaseRefused) as caught:
            async with store.transaction() as tx:
                await tx.append("a-1", Deposited(amount=1))
                with pytest.raises(asyncpg.DivisionByZeroError):
                    await tx.connection.execute("select 1/0")
        assert caught.value.sqlstate == "25P02"

        async with store.transaction() as tx:
            await tx.append("a-1", Deposited(amount=2), expect=0)
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with tx.connection.transaction():
                    await tx.connection.execute("select 1/0")

        assert await store.stream_version("a-1") == 1


@pytest.mark.parametrize("make", [MemoryStore, lambda **how: EventStore("postgresql://nobody@127.0.0.1:1/none", **how)])
async def test_before_it_is_opened_a_store_refuses_everything(make):
    """Readers too: they must not look for a server where the environment says that there is one."""
    store = make(events=EVENTS)

    for use in (
        lambda: store.append("a-1", Deposited(amount=1)),
        lambda: entered(store.transaction()),
        lambda: collect(store.read_stream("a-1")),
        lambda: collect(store.read_all()),
        lambda: entered(store.subscribe()),
        lambda: store.stream_version("a-1"),
        store.head,
    ):
        with pytest.raises(errors.StoreClosed, match="not open: use"):
            await use()
    store.wake()
    await store.close()


CAUGHT = [
    (broken_stores.TakesLateAppends, "test_an_expectation_that_fails_writes_nothing"),
    (broken_stores.TakesLateAppends, "test_racers_for_one_version_have_one_winner"),
    (broken_stores.TakesEarlyAppends, "test_an_expectation_that_fails_writes_nothing"),
    (broken_stores.LeaksRollbacks, "test_an_exception_rolls_all_of_it_back"),
    (broken_stores.CountsFromZero, "test_an_append_says_what_it_did"),
    (broken_stores.LosesLockedRaces, "test_who_comes_second_waits_for_the_first"),
    (broken_stores.LosesLockedRaces, "test_twins_at_once_write_once"),
    (broken_stores.SaysTheHeadsPosition, "test_the_same_request_again_returns_the_first_result"),
    (broken_stores.SaysTheHeadsPosition, "test_the_same_ids_at_the_same_version_return_the_first_result"),
    (broken_stores.RemembersWhatWasRolledBack, "test_a_request_is_forgotten_with_its_transaction"),
    (broken_stores.TakesAnyContent, "test_other_content_under_the_same_request_is_refused"),
    (broken_stores.ReadsPastOpenTransactions, "test_readers_never_pass_it"),
    (broken_stores.ReadsPastOpenTransactions, "test_subscribers_never_pass_it"),
    (broken_stores.ReadsUncommitted, "test_appends_are_committed_together"),
    (broken_stores.CutsInTwo, "test_racers_that_expect_nothing_all_land"),
    (broken_stores.CutsInTwo, "test_a_cancelled_append_is_there_or_not"),
    (broken_stores.ConflictsBreakTransactions, "test_a_conflict_leaves_it_usable"),
    (broken_stores.LocksNoTags, "test_a_decision_waits_for_who_writes_its_tag"),
    (broken_stores.ForgetsTheQuestion, "test_a_decision_is_refused_once_something_matches"),
    (broken_stores.ForgetsTheQuestion, "test_racers_never_sell_a_seat_twice"),
    (broken_stores.LooksAtOneTag, "test_a_decision_holds_while_nothing_that_matches_appears"),
    (broken_stores.IgnoresTypes, "test_a_decision_holds_while_nothing_that_matches_appears"),
    (broken_stores.ConflictsWithItself, "test_a_decision_holds_while_nothing_that_matches_appears"),
]


@pytest.mark.parametrize(("kind", "test"), [pytest.param(*pair, id=f"{pair[0].__name__}-{pair[1]}") for pair in CAUGHT])
async def test_the_contract_catches_a_store_that_is_wrong(kind, test):
    """In the test that is about it; the same store without the fault passes it above."""
    async with broken_stores.broken(kind, events=EVENTS) as store:
        with pytest.raises((AssertionError, ValueError, errors.EventStoreError)):
            await getattr(TestMemoryStore(), test)(store)


class BlockingJoined(Joined):
    """A transaction of the caller's on a blocking store, run in threads; a call that has begun cannot be cancelled."""

    test_a_cancelled_append_is_not_written = None

    @pytest.fixture
    async def store(self, database):
        async with (
            contextlib.AsyncExitStack() as self.left_open,
            Awaitable(sync.EventStore(database, events=EVENTS)) as store,
        ):
            yield store

    @contextlib.asynccontextmanager
    async def run(self, block):
        await asyncio.to_thread(block.__enter__)
        try:
            yield
        except BaseException as error:
            await asyncio.to_thread(block.__exit__, type(error), error, error.__traceback__)
            raise
        await asyncio.to_thread(block.__exit__, None, None, None)


@pytest.mark.server
class TestBlockingPsycopgJoin(BlockingJoined):
    @contextlib.asynccontextmanager
    async def begin(self, store):
        connection = await asyncio.to_thread(psycopg.connect, store.dsn, autocommit=True)
        self.left_open.callback(connection.close)
        async with self.run(connection.transaction()):
            yield store.join(connection)


@pytest.mark.server
class TestBlockingSession(BlockingJoined):
    test_after_its_end_it_is_refused = None  # it begins anew, as an AsyncSession does

    @contextlib.asynccontextmanager
    async def begin(self, store):
        engine = create_engine(address(store.dsn, "psycopg"))
        self.left_open.callback(engine.dispose)
        session = Session(engine)
        self.left_open.callback(session.close)
        async with self.run(session.begin()):
            yield AwaitableTransaction(joining.join(store._store, session))


class JoinedBehindPgBouncer(Joined):
    """The caller's connection is one to the pooler, which keeps a server's for it while its transaction lasts."""

    @pytest.fixture
    async def store(self, pgbouncer):
        url = await asyncio.to_thread(pgbouncer)
        quick = WakeUps(poll_seconds=0.05)
        async with (
            contextlib.AsyncExitStack() as self.left_open,
            EventStore(url, statement_cache_size=0, events=EVENTS, wake_ups=quick) as store,
        ):
            yield store


@pytest.mark.server
class TestAsyncpgJoinBehindPgBouncer(JoinedBehindPgBouncer):
    @contextlib.asynccontextmanager
    async def begin(self, store):
        connection = await asyncpg.connect(store.dsn, ssl=False, statement_cache_size=0)
        self.left_open.push_async_callback(connection.close)
        async with connection.transaction():
            yield store.join(connection)


@pytest.mark.server
class TestPsycopgJoinBehindPgBouncer(JoinedBehindPgBouncer):
    @contextlib.asynccontextmanager
    async def begin(self, store):
        connection = await psycopg.AsyncConnection.connect(store.dsn, autocommit=True, prepare_threshold=None)
        self.left_open.push_async_callback(connection.close)
        async with connection.transaction():
            yield store.join(connection)


@pytest.mark.server
class TestUsersPoolBehindPgBouncer(OnAServer, CallOrderContract):
    @pytest.fixture
    async def store(self, pgbouncer):
        url = await asyncio.to_thread(pgbouncer)
        async with (
            asyncpg.create_pool(url, min_size=0, max_size=8, ssl=False, statement_cache_size=0) as pool,
            EventStore(pool, events=EVENTS, wake_ups=QUICK) as store,
        ):
            yield store
