"""What is said of `MemoryStore` beyond the contract that it shares with the real one (tests/test_contract.py)."""

import asyncio
import contextlib
import datetime as dt
import inspect
import random

import pytest
from pydantic import field_serializer

from eventstore import Boundary, Event, EventStore, Limits, NewEvent, Query, Transaction, UnknownEvent, _details, errors
from eventstore.testing import MemoryStore, MemoryTransaction


class Deposited(Event):
    amount: int


class Tallied(Event):
    counts: dict[str, int]


class Rounded(Event):
    """Only a whole number comes back as it was."""

    ratio: float

    @field_serializer("ratio")
    def rounded(self, ratio: float) -> float:
        return round(ratio)


@pytest.fixture
async def memory():
    async with MemoryStore() as store:
        yield store


def members(kind):
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize(
    ("real", "twin", "own_use"),
    [(EventStore, MemoryStore, set()), (Transaction, MemoryTransaction, {"appended", "appended_ids", "last"})],
)
def test_the_twin_has_the_names_and_parameters_of_the_real_one(real, twin, own_use):
    """So that code which takes the one takes the other."""
    for name, member in members(real).items():
        if name in own_use:
            continue
        assert name in members(twin)
        if callable(member):
            mine = inspect.signature(members(twin)[name]).parameters
            for parameter in inspect.signature(member).parameters.values():
                assert mine[parameter.name].kind == parameter.kind, (name, parameter)
                assert mine[parameter.name].default == parameter.default, (name, parameter)


async def test_an_append_beside_its_own_open_transaction_times_out(memory):
    """As on a real server, where the same mistake waits for lock_timeout."""
    async with MemoryStore(lock_seconds=0.05) as store, store.transaction() as tx:
        await tx.append("a-1", Deposited(amount=1))
        with pytest.raises(errors.LockTimeout, match="a-1"):
            await store.append("a-1", Deposited(amount=2))
        with pytest.raises(errors.VersionConflict):
            await store.append("a-1", Deposited(amount=2), expect=5)
        await tx.append("a-1", Deposited(amount=3), expect=1)


async def test_events_outlive_closing(memory):
    """They last as long as the object."""
    await memory.append("a-1", Deposited(amount=1))
    await memory.close()
    await memory.open()

    assert await memory.stream_version("a-1") == 1


async def test_closing_fails_who_waits_for_events(memory):
    """They are not left to wait for ever."""

    async def follow():
        async with memory.subscribe() as live:
            async for _ in live:
                pass

    follower = asyncio.create_task(follow())
    for _ in range(10):
        await asyncio.sleep(0)
    await memory.close()

    with pytest.raises(errors.StoreClosed):
        await asyncio.wait_for(follower, 10)


async def test_the_clock_says_when_events_are_recorded():
    """And that alone."""
    times = iter([dt.datetime(2020, 2, 29, tzinfo=dt.UTC), dt.datetime(2020, 3, 1, tzinfo=dt.UTC)])
    async with MemoryStore(clock=lambda: next(times)) as store:
        await store.append("a-1", [Deposited(amount=1), Deposited(amount=2)])

        recorded = [found.recorded_at async for found in store.read_all()]

    assert recorded == [dt.datetime(2020, 2, 29, tzinfo=dt.UTC), dt.datetime(2020, 3, 1, tzinfo=dt.UTC)]


@pytest.mark.server
@pytest.mark.parametrize("kind", ["memory", "database"])
async def test_keys_come_back_in_jsonbs_order(request, kind, database):
    """By length, then by bytes: whoever leans on another order is found out in memory already."""
    counts = {"bb": 1, "a": 2, "ü": 3, "c": 4, "": 5, "ba": 6}
    async with MemoryStore() if kind == "memory" else EventStore(database) as store:
        await store.append("a-1", Tallied(counts=counts))
        (recorded,) = [found async for found in store.read_stream("a-1")]

    assert recorded.data == Tallied(counts=counts)
    assert list(recorded.data.counts) == ["", "a", "c", "ba", "bb", "ü"]


async def test_every_event_is_verified(memory):
    """Not only the first of its type."""
    await memory.append("a-1", Rounded(ratio=1.0))

    with pytest.raises(errors.InvalidEvent, match="would not come back"):
        await memory.append("a-1", Rounded(ratio=1.5))


async def test_its_limits_and_unknown_types_are_as_asked_for():
    """By the same arguments as the real one's."""
    async with MemoryStore(limits=Limits(append_events=1), events=[Deposited], unknown_events="error") as store:
        with pytest.raises(errors.InvalidArgument, match="1 to 1 events"):
            await store.append("a-1", [Deposited(amount=1)] * 2)
        await store.append("a-1", UnknownEvent("Elsewhere", {"n": 1}))
        with pytest.raises(errors.UnknownEventType, match="Elsewhere"):
            [found async for found in store.read_all()]


async def test_digits_that_a_float_would_lose_are_kept(memory):
    """As jsonb does."""
    document = '{"n":0.12345678901234567890123}'
    await memory.append("a-1", UnknownEvent("Elsewhere", None, document=document))

    (recorded,) = [found async for found in memory.read_all()]

    assert recorded.data.document == document


async def test_what_needs_sql_says_that_it_needs_a_server(memory):
    """Instead of an AttributeError."""
    with pytest.raises(errors.InvalidArgument, match="embedded:"):
        memory.join(object())
    async with memory.transaction() as tx:
        with pytest.raises(errors.InvalidArgument, match="embedded:"):
            _ = tx.connection


async def test_batches_of_a_subscription_are_told_when_nothing_comes(memory):
    """An empty one says how far the log was looked through."""
    done = await memory.append("a-1", [Deposited(amount=n) for n in range(3)])

    async with memory.subscribe(types=["Elsewhere"]) as live:
        batches = live.batches(idle_seconds=0.01)
        first, second = await anext(batches), await anext(batches)
        await batches.aclose()

    assert ([*first.events], first.upto) == ([], done.position)
    assert ([*second.events], second.upto) == ([], done.position)


# -- boundaries


TAGS = [f"t:{n}" for n in range(4)]


def some_event(rng):
    tags = rng.sample(TAGS, rng.randrange(4))
    return NewEvent(rng.choice([Deposited(amount=1), Tallied(counts={})]), tags=tags)


def some_query(rng):
    """A question, and who answers it by looking at one event."""
    asked = [
        (rng.sample(TAGS, rng.randint(1, 2)), rng.choice([None, [Deposited], [Tallied], [Deposited, Tallied]]))
        for _ in range(rng.randint(1, 3))
    ]
    query = Query(tags=asked[0][0], types=asked[0][1])
    for tags, types in asked[1:]:
        query |= Query(tags=tags, types=types)

    def matches(event):
        return any(set(tags) <= set(event.tags) and (types is None or type(event.data) in types) for tags, types in asked)

    return query, matches


async def some_log(store, rng):
    """Streams of tagged events, some of them rolled back."""
    for _ in range(30):
        with contextlib.suppress(ZeroDivisionError):
            async with store.transaction() as tx:
                await tx.append(f"a-{rng.randrange(3)}", [some_event(rng), some_event(rng)])
                _ = 1 / rng.randrange(4)
    return [event async for event in store.read_all()]


@pytest.mark.parametrize("seed", range(30))
async def test_a_boundary_holds_what_a_look_at_every_event_finds(memory, seed):
    """By whichever tag it was found: what is committed, in the order of the log, and the asking transaction's own."""
    rng = random.Random(seed)
    log = await some_log(memory, rng)

    for _ in range(10):
        query, matches = some_query(rng)
        wanted = [event for event in log if matches(event)]
        assert (await Boundary(memory).read(query)).events == wanted
        with contextlib.suppress(ZeroDivisionError):
            async with memory.transaction() as tx:
                await tx.append("b-1", [some_event(rng) for _ in range(3)])
                own = [event for event in await tx.read_stream("b-1") if matches(event)]
                assert (await Boundary(tx).read(query)).events == [*wanted, *own]
                assert (await Boundary(memory).read(query)).events == wanted
                raise ZeroDivisionError


@pytest.mark.parametrize("seed", range(100))
async def test_a_decision_conflicts_with_what_matches_it_and_with_nothing_else(memory, seed):
    """Not with what was there, not with what shares a tag alone, not with what was rolled back."""
    rng = random.Random(seed)
    before = len(await some_log(memory, rng))
    query, matches = some_query(rng)
    decision = await Boundary(memory).read(query)
    await memory.append("c-1", [some_event(rng) for _ in range(rng.randrange(1, 3))])
    overtaking = [event for event in [event async for event in memory.read_all()][before:] if matches(event)]

    if overtaking:
        with pytest.raises(errors.BoundaryConflict) as refused:
            await decision.append("d-1", Deposited(amount=1))
        assert refused.value.position in [event.position for event in overtaking]
    else:
        await decision.append("d-1", Deposited(amount=1))
    assert await memory.stream_version("d-1") == (0 if overtaking else 1)


async def test_a_boundary_costs_what_its_rarest_tag_holds(memory, monkeypatch):
    """However long the log is, and however many events its other tags have."""
    await memory.append("a-1", [NewEvent(Deposited(amount=n), tags=["often:1"]) for n in range(2000)])
    await memory.append("a-1", NewEvent(Deposited(amount=1), tags=["often:1", "rare:1"]))
    looks = []
    monkeypatch.setattr(_details, "tags", lambda details, tags=_details.tags: looks.append(1) or tags(details))

    decision = await Boundary(memory).read(Query(tags=["often:1", "rare:1"]))
    await decision.append("a-1", NewEvent(Deposited(amount=2), tags=["often:1", "rare:1"]))

    assert len(decision.events) == 1
    assert 0 < len(looks) < 20


async def test_a_decision_does_not_wait_again_for_who_holds_its_tag():
    """A retry is for who was overtaken; a time limit is a limit."""
    calls = []
    async with MemoryStore(lock_seconds=0.05) as store, store.transaction() as tx:
        await tx.append("a-1", NewEvent(Deposited(amount=1), tags=["t:1"]))

        with pytest.raises(errors.LockTimeout):
            await Boundary(store).decide(Query(tags=["t:1"]), lambda _: calls.append(1) or {"a-2": Deposited(amount=2)})

    assert len(calls) == 1


async def test_a_decision_in_a_transaction_ends_at_a_deadlock(memory):
    """What closes the circle stays locked until the transaction ends: trying again inside would be in vain."""
    calls = []
    async with memory.transaction() as one, memory.transaction() as two:
        await one.append("a-1", NewEvent(Deposited(amount=1), tags=["t:1"]))
        await two.append("a-2", NewEvent(Deposited(amount=1), tags=["t:2"]))
        waits = asyncio.create_task(one.append("a-3", NewEvent(Deposited(amount=1), tags=["t:2"])))
        for _ in range(5):
            await asyncio.sleep(0)

        with pytest.raises(errors.Retryable, match="deadlock"):
            await Boundary(two).decide(Query(tags=["t:1"]), lambda _: calls.append(1) or {"a-2": Deposited(amount=2)})
        assert len(calls) == 1
        assert not waits.done()
        waits.cancel()
        await asyncio.wait([waits])


@pytest.mark.parametrize("inside", [False, True], ids=["store", "transaction"])
async def test_a_decision_that_was_overtaken_is_made_again_on_what_is_there_now(memory, monkeypatch, inside):
    """By an event that came between reading and appending; inside a transaction too, which sees what others commit."""
    seen = []

    def decide(events):
        seen.append([event.data.amount for event in events])
        return {"a-2": NewEvent(Deposited(amount=2), tags=["t:1"])}

    async with memory.transaction() if inside else contextlib.nullcontext(memory) as source:
        read = source._read_boundary

        async def read_and_be_overtaken(items):
            answer = await read(items)
            if not seen:
                await memory.append("a-1", NewEvent(Deposited(amount=1), tags=["t:1"]))
            return answer

        monkeypatch.setattr(source, "_read_boundary", read_and_be_overtaken)
        await Boundary(source).decide(Query(tags=["t:1"]), decide)

    assert seen == [[], [1]]
    assert await memory.stream_version("a-2") == 1
