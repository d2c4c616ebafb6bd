"""Random histories, against a model that fits on a page: the store on PostgreSQL, and its twin in memory.

A history is a sequence of appends, repeated requests, transactions with conflicts inside, cancelled appends and concurrent ones.
The model says what each must come to; after each step everything is read back and compared.
"""

import asyncio
import contextlib
import copy
import functools
import itertools
import uuid
from dataclasses import dataclass, field

import asyncpg
import broken_stores
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from eventstore import ANY, EXISTS, Event, EventStore, NewEvent, VersionConflict, WakeUps
from eventstore import sqlalchemy as joining
from eventstore._drivers import urls
from eventstore.errors import EventStoreError, IdempotencyMismatch
from eventstore.testing import MemoryStore


class Deposited(Event):
    amount: int


# -- the model


@dataclass(frozen=True)
class Landed:
    """It is to be appended as these versions."""

    first_version: int
    version: int


@dataclass(frozen=True)
class Refused:
    """It is to be refused, with this error and these fields."""

    kind: type
    fields: dict


@dataclass
class Model:
    """What the log is: amounts by stream, positions as far as they were told, and what is known again."""

    streams: dict = field(default_factory=dict)
    positions: dict = field(default_factory=dict)  # (stream, version): position
    known: dict = field(default_factory=dict)  # request id, or (stream, version before, event ids): (content, Appended)
    top: int = 0  # no position up to here is given out again

    def amounts(self, stream):
        return self.streams.get(stream, [])

    def fits(self, stream, expect, version=None):
        version = len(self.amounts(stream)) if version is None else version
        return expect is ANY or (version > 0 if expect is EXISTS else expect == version)

    def outcome(self, stream, amounts, expect, key=None):
        """What an append must come to."""
        version = len(self.amounts(stream))
        if isinstance(key, str) and key in self.known:
            content, first = self.known[key]
            if content == (stream, amounts):
                return first._replace(deduplicated=True)
            return Refused(IdempotencyMismatch, {"request_id": key})
        if self.fits(stream, expect):
            return Landed(version + 1, version + len(amounts))
        if key in self.known:
            return self.known[key][1]._replace(deduplicated=True)
        expected = "EXISTS" if expect is EXISTS else expect
        return Refused(VersionConflict, {"stream_id": stream, "expected": expected, "actual": version})

    def land(self, stream, amounts, appended, key=None):
        """Take in what was appended."""
        own = self.streams.setdefault(stream, [])
        assert (appended.first_version, appended.version) == (len(own) + 1, len(own) + len(amounts))
        assert appended.position >= self.top + len(amounts)
        assert not appended.deduplicated
        assert len(set(appended.event_ids)) == len(amounts)
        own.extend(amounts)
        self.positions[stream, len(own)] = self.top = appended.position
        if key is not None:
            self.known[key] = ((stream, amounts), appended)


# -- what is drawn

STREAMS = st.integers(0, 2)
SIZES = st.integers(1, 3)
EXPECTS = st.sampled_from(["any", "exists", "now", "now", "low", "high", "none"])
KEYS = st.sampled_from([None, None, "new request", "old request", "ids"])
CALLS = st.tuples(STREAMS, SIZES, EXPECTS, KEYS)
TURNS = st.integers(0, 25)


class Machine(RuleBasedStateMachine):
    """Drives `self.store`; subclasses say which. One event loop for all."""

    runner: asyncio.Runner
    store = None
    ways = ()  # besides the store's own transactions: each gives a block, in which the store has joined a transaction
    numbers = itertools.count(1)

    @initialize()
    def begin(self):
        self.prefix = f"m{uuid.uuid4().hex}"
        self.model = Model()
        self.calls = []  # those that can be repeated: (stream, amounts, expect, key, events)
        self.start = self.model.top = self.runner.run(self.store.head())

    # -- one call, on the store or in a transaction

    def made(self, model, stream, size, expect, key):
        """Return the arguments of a call, with what it must come to."""
        stream = f"{self.prefix}-{stream}"
        version = len(model.amounts(stream))
        expect = {"any": ANY, "exists": EXISTS, "now": version, "low": max(version - 1, 0), "high": version + 1, "none": 0}[
            expect
        ]
        amounts = [next(self.numbers) for _ in range(size)]
        events = [NewEvent(Deposited(amount=n), event_id=uuid.uuid4()) for n in amounts]
        if key == "ids":
            expect = version if isinstance(expect, type(ANY)) else expect
            key = (stream, expect, tuple(new.event_id for new in events))
        elif key == "new request":
            key = f"request {uuid.uuid4()}"
        elif key == "old request":
            key = next((name for name in reversed(model.known) if isinstance(name, str)), None)
        return stream, amounts, expect, key, events

    async def send(self, target, stream, _amounts, expect, key, events):
        how = {"request_id": key} if isinstance(key, str) else {}
        return await target.append(stream, events, expect=expect, **how)

    async def call(self, target, model, *made):
        """Do it, and compare with the model."""
        stream, amounts, expect, key, _events = made
        wanted = model.outcome(stream, amounts, expect, key)
        try:
            found = await self.send(target, *made)
        except (VersionConflict, IdempotencyMismatch) as error:
            assert isinstance(wanted, Refused), (wanted, error)
            assert type(error) is wanted.kind
            assert vars(error) == wanted.fields
            return
        if isinstance(wanted, Landed):
            assert (found.first_version, found.version) == (wanted.first_version, wanted.version), wanted
            model.land(stream, amounts, found, key)
            self.calls.append(made)
        else:
            assert found == wanted

    # -- rules

    @rule(call=CALLS)
    def append(self, call):
        self.runner.run(self.call(self.store, self.model, *self.made(self.model, *call)))

    @precondition(lambda self: any(made[3] for made in self.calls))
    @rule(data=st.data())
    def repeat(self, data):
        """The same call again: the same result, or a first one if its transaction was rolled back."""
        again = data.draw(st.sampled_from([made for made in self.calls if made[3]]))
        self.runner.run(self.call(self.store, self.model, *again))

    @rule(calls=st.lists(CALLS, min_size=1, max_size=5), commits=st.booleans(), way=st.integers(0, 3), repeats=st.booleans())
    def transaction(self, calls, commits, way, repeats):
        """All of it or nothing; it sees itself, others do not see it; a conflict leaves it usable."""
        self.runner.run(
            self.transact(calls, commits, (self.store.transaction, *self.ways)[way % (1 + len(self.ways))], repeats)
        )

    async def transact(self, calls, commits, begin, repeats):
        trial = copy.deepcopy(self.model)
        with contextlib.suppress(ZeroDivisionError):
            async with begin() as tx:
                for call in calls:
                    made = self.made(trial, *call)
                    await self.call(tx, trial, *made)
                    if repeats and made[3] is not None:
                        await self.call(tx, trial, *made)
                    stream = made[0]
                    found = await tx.read_stream(stream)
                    assert [(r.version, r.data.amount) for r in found] == list(enumerate(trial.amounts(stream), 1))
                    assert await self.store.stream_version(stream) == len(self.model.amounts(stream))
                if not commits:
                    raise ZeroDivisionError
        if commits:
            self.model = trial

    @rule(call=CALLS, turns=TURNS)
    def cancelled(self, call, turns):
        """Either all of it or nothing; what is appended next lands behind it."""
        self.runner.run(self.cancel(self.made(self.model, *call), turns))

    async def cancel(self, made, turns):
        stream, amounts, expect, key, _events = made
        wanted = self.model.outcome(stream, amounts, expect, key)
        task = asyncio.create_task(self.send(self.store, *made))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (found,) = await asyncio.gather(task, return_exceptions=True)
        version, mark = len(self.model.amounts(stream)), next(self.numbers)
        behind = await self.store.append(stream, Deposited(amount=mark))
        if isinstance(wanted, Landed) and behind.version > version + 1:
            stored = [r async for r in self.store.read_stream(stream, after=version, before=behind.version)]
            assert [r.data.amount for r in stored] == amounts
            told = (stored[0].version, stored[-1].version, stored[-1].position, tuple(r.event_id for r in stored))
            if isinstance(found, asyncio.CancelledError):
                found = type(behind)(*told)
            self.model.land(stream, amounts, found, key)
            self.calls.append(made)
        else:
            assert isinstance(found, asyncio.CancelledError | VersionConflict | IdempotencyMismatch) or found == wanted
        self.model.land(stream, [mark], behind)

    @rule(calls=st.lists(CALLS, min_size=2, max_size=8))
    def at_once(self, calls):
        """In some order, the same for everybody: the one that the positions tell."""
        made = [self.made(self.model, stream, size, expect, None) for stream, size, expect, _ in calls]
        self.runner.run(self.race(made))

    async def race(self, calls):
        outcomes = await asyncio.gather(*(self.send(self.store, *made) for made in calls), return_exceptions=True)
        versions = {made[0]: {len(self.model.amounts(made[0]))} for made in calls}
        done = [(found, made) for found, made in zip(outcomes, calls, strict=True) if not isinstance(found, VersionConflict)]
        tops = [self.model.top]
        for found, (stream, amounts, expect, _, _) in sorted(done, key=lambda pair: pair[0].position):
            assert self.model.fits(stream, expect)
            self.model.top = tops[0]  # positions of different streams may interleave
            self.model.land(stream, amounts, found)
            tops.append(found.position)
            versions[stream].add(found.version)
        self.model.top = max(tops)
        for found, (stream, _, expect, _, _) in zip(outcomes, calls, strict=True):
            if isinstance(found, VersionConflict):
                assert found.actual in versions[stream]
                assert not self.model.fits(stream, expect, found.actual)

    @invariant()
    def everything_is_as_it_should_be(self):
        if hasattr(self, "model"):
            self.runner.run(self.compare())

    async def compare(self):
        reader = self.store.read_all(after=self.start, categories=[self.prefix])
        log = [recorded async for recorded in reader]
        assert reader.settled is True
        assert [r.position for r in log] == sorted({r.position for r in log})
        assert await self.store.head() >= self.model.top
        for stream in {f"{self.prefix}-{n}" for n in range(3)} | {r.stream_id for r in log}:
            own = [r for r in log if r.stream_id == stream]
            assert [(r.version, r.data.amount) for r in own] == list(enumerate(self.model.amounts(stream), 1))
        found = {(r.stream_id, r.version): r.position for r in log}
        assert self.model.positions.items() <= found.items()
        newest = max(self.model.streams, key=lambda stream: len(self.model.streams[stream]), default=f"{self.prefix}-0")
        backwards = [r.data.amount async for r in self.store.read_stream(newest, backwards=True)]
        assert backwards[::-1] == self.model.amounts(newest)
        assert await self.store.stream_version(newest) == len(backwards)


SHORT = settings(
    max_examples=25,
    stateful_step_count=20,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(SHORT, max_examples=100, stateful_step_count=40, derandomize=False)


@contextlib.asynccontextmanager
async def joins(store):
    """The ways to join a transaction: an asyncpg and a psycopg connection, and a session."""
    engine = create_async_engine(urls.to_sqlalchemy(store.dsn).replace("+psycopg", "+asyncpg"))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        connections = [
            await asyncpg.connect(store.dsn, ssl=False),
            await psycopg.AsyncConnection.connect(store.dsn, autocommit=True),
        ]
        for connection in connections:
            stack.push_async_callback(connection.close)

        @contextlib.asynccontextmanager
        async def joined(connection):
            async with connection.transaction():
                yield store.join(connection)

        @contextlib.asynccontextmanager
        async def session():
            async with AsyncSession(engine) as opened, opened.begin():
                yield joining.join(store, opened)

        yield (*(functools.partial(joined, connection) for connection in connections), session)


@pytest.fixture
def machine_on_postgres(database):
    """The machine over an open store on PostgreSQL, with connections and sessions to join."""
    with asyncio.Runner() as runner:
        store = runner.run(EventStore(database, wake_ups=WakeUps(poll_seconds=0.05, listen=False)).open())
        joined = joins(store)
        ways = runner.run(joined.__aenter__())
        yield type("MachineOnPostgres", (Machine,), {"runner": runner, "store": store, "ways": ways})
        runner.run(joined.__aexit__(None, None, None))
        runner.run(store.close())


@pytest.fixture
def machine_in_memory():
    """The machine over the twin in memory."""
    with asyncio.Runner() as runner:
        store = runner.run(MemoryStore().open())
        yield type("MachineInMemory", (Machine,), {"runner": runner, "store": store})
        runner.run(store.close())


@pytest.mark.server
def test_the_store_does_what_the_model_says(machine_on_postgres):
    """On PostgreSQL."""
    run_state_machine_as_test(machine_on_postgres, settings=SHORT)


def test_the_twin_in_memory_does_what_the_model_says(machine_in_memory):
    """The same histories."""
    run_state_machine_as_test(machine_in_memory, settings=settings(SHORT, max_examples=60))


@pytest.mark.soak
@pytest.mark.server
def test_long_histories_do_what_the_model_says(machine_on_postgres):
    """More of them, longer, other ones each time."""
    run_state_machine_as_test(machine_on_postgres, settings=LONG)


@pytest.mark.soak
def test_long_histories_in_memory_do_what_the_model_says(machine_in_memory):
    """More of them, longer, other ones each time."""
    run_state_machine_as_test(machine_in_memory, settings=settings(LONG, max_examples=200))


@pytest.mark.parametrize(
    "kind",
    [
        broken_stores.TakesLateAppends,
        broken_stores.TakesEarlyAppends,
        broken_stores.LeaksRollbacks,
        broken_stores.CountsFromZero,
        broken_stores.SaysTheHeadsPosition,
        broken_stores.RemembersWhatWasRolledBack,
        broken_stores.TakesAnyContent,
        broken_stores.ReadsUncommitted,
        broken_stores.CutsInTwo,
        broken_stores.ConflictsBreakTransactions,
    ],
)
def test_the_model_catches_a_store_that_is_wrong(kind):
    """The same histories that the right one passes."""
    with asyncio.Runner() as runner:
        store = runner.run(broken_stores.broken(kind).open())
        machine = type("Broken", (Machine,), {"runner": runner, "store": store})
        with pytest.raises((AssertionError, EventStoreError)):
            run_state_machine_as_test(machine, settings=settings(SHORT, max_examples=100, phases=[Phase.generate]))
