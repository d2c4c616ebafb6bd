"""An append happens once, whatever the caller repeats and wherever the connection dies."""

import asyncio
import contextlib
import datetime as dt
import uuid

import asyncpg
import pytest

from eventstore import ANY, NO_STREAM, Event, EventStore, NewEvent, VersionConflict, errors, sync
from eventstore.requests import prune_requests
from eventstore.sync.requests import prune_requests as prune_requests_blocking
from eventstore.testing import COMMIT, Proxy, Rule

pytestmark = pytest.mark.server

APPEND = Rule("server", "B", b"Paid")
"""The statement of an append: at its Sync the server commits it."""


class Paid(Event):
    amount: int


class Sent(Event):
    amount: int


def paid(amount=1, name=None):
    return NewEvent(Paid(amount=amount), event_id=uuid.UUID(int=name) if name else uuid.uuid4())


async def events(store, stream="a-1"):
    return [recorded async for recorded in store.read_stream(stream)]


@pytest.fixture
async def raw(database):
    connection = await asyncpg.connect(database, ssl=False)
    yield connection
    await connection.close()


# -- the same event ids at an exact version


async def test_the_same_ids_at_the_same_version_give_the_first_result(store):
    """However far the stream has grown since, and also where it was expected to have no events."""
    three = [paid(n, n + 1) for n in range(3)]
    first = await store.append("a-1", three, expect=NO_STREAM)
    await store.append("a-1", paid(9), expect=3)
    again = await store.append("a-1", three, expect=0)
    assert again == first._replace(deduplicated=True)
    async with store.transaction() as tx:
        assert await tx.append("a-1", three, expect=NO_STREAM) == again
        await tx.append("a-1", paid(10), expect=4)
    assert len(await events(store)) == 5


async def test_a_part_of_what_was_appended_is_recognised_too(store):
    """It stands there, whole, at the version that it expects."""
    first = await store.append("a-1", [paid(0, 1), paid(1, 2), paid(2, 3)], expect=0)
    again = await store.append("a-1", [paid(0, 1), paid(1, 2)], expect=0)
    assert (again.version, again.deduplicated) == (2, True)
    assert again.event_ids == first.event_ids[:2]
    assert again.position < first.position


async def test_what_only_resembles_the_first_append_is_a_conflict(store):
    """Other ids, some of them, another order, another version, or ids that the store made."""
    first = [paid(0, 1), paid(1, 2)]
    await store.append("a-1", first, expect=0)
    more = [paid(0, 1), paid(1, 2), paid(2, 3)]
    for given, expect in [
        ([paid(0, 1), paid(1, 7)], 0),
        (list(reversed(first)), 0),
        (first[1:], 0),
        (more, 0),
        (first, 1),
        ([NewEvent(Paid(amount=0)), NewEvent(Paid(amount=1))], 0),
    ]:
        with pytest.raises(VersionConflict) as caught:
            await store.append("a-1", given, expect=expect)
        assert caught.value.actual == 2
    assert (await store.append("a-1", first, expect=ANY)).deduplicated is False


async def test_the_same_ids_with_other_content_are_a_mistake(store):
    """Another amount, another type."""
    await store.append("a-1", paid(1, 1), expect=0)
    for wrong in (paid(2, 1), NewEvent(Sent(amount=1), event_id=uuid.UUID(int=1))):
        with pytest.raises(errors.IdempotencyMismatch, match="version 1 of stream 'a-1'"):
            await store.append("a-1", wrong, expect=0)


# -- request ids


async def test_a_request_gives_its_first_result_again(store, database):
    """From any process, at any expectation, with other metadata; beside it the stream goes on."""
    first = await store.append("a-1", [Paid(amount=1), Paid(amount=2)], request_id="r-1")
    assert first.deduplicated is False
    await store.append("a-1", Paid(amount=3))
    async with EventStore(database) as other:
        for expect in (ANY, NO_STREAM, 77):
            with other.context(correlation_id="elsewhere"):
                again = await other.append("a-1", [Paid(amount=1), Paid(amount=2)], expect=expect, request_id="r-1")
            assert again == first._replace(deduplicated=True)
        async with other.transaction() as tx:
            assert (await tx.append("a-1", [Paid(amount=1), Paid(amount=2)], request_id="r-1")).deduplicated
    assert len(await events(store)) == 3


async def test_a_refused_request_may_be_sent_again(store):
    """Nothing is noted for what was not appended."""
    with pytest.raises(VersionConflict):
        await store.append("a-1", Paid(amount=1), expect=4, request_id="r-1")
    assert (await store.append("a-1", Paid(amount=1), expect=0, request_id="r-1")).deduplicated is False


async def test_another_content_under_the_same_request_is_refused(store):
    """Another event, type, number of events, stream."""
    await store.append("a-1", Paid(amount=1), request_id="r-1")
    for stream, wrong in [
        ("a-1", Paid(amount=2)),
        ("a-1", Sent(amount=1)),
        ("a-1", [Paid(amount=1), Paid(amount=1)]),
        ("a-2", Paid(amount=1)),
    ]:
        with pytest.raises(errors.IdempotencyMismatch) as caught:
            await store.append(stream, wrong, request_id="r-1")
        assert caught.value.request_id == "r-1"
        async with store.transaction() as tx:
            with pytest.raises(errors.IdempotencyMismatch):
                await tx.append(stream, wrong, request_id="r-1")
            await tx.append("b-1", Paid(amount=1))
    for bad in ("", 7, "x" * 256, "a\nb"):
        with pytest.raises(errors.InvalidArgument, match="a request id"):
            await store.append("a-1", Paid(amount=1), request_id=bad)


async def test_twins_at_the_same_time_append_once(store, database):
    """In one process, over several, in one group and over groups, to one stream."""
    async with EventStore(database) as other:
        calls = [
            one.append("a-1", Paid(amount=n), request_id=f"r-{n}") for n in range(10) for one in (store, other, store, other)
        ]
        done = await asyncio.gather(*calls)
    assert sum(not one.deduplicated for one in done) == 10
    assert sorted(recorded.data.amount for recorded in await events(store)) == list(range(10))
    for n in range(10):
        assert len({one._replace(deduplicated=False) for one in done[4 * n : 4 * n + 4]}) == 1


async def test_twins_for_different_streams_end_as_a_mismatch(store):
    """Whoever comes first has it, also within one group."""
    done = await asyncio.gather(
        *(store.append(f"a-{n}", Paid(amount=1), request_id="r-1") for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(one, errors.IdempotencyMismatch) for one in done) == 7


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_a_twin_waits_for_the_first_and_takes_what_it_leaves(store, ends):
    """Its result when it commits; the place when it does not."""
    twin = None
    with contextlib.suppress(ZeroDivisionError):
        async with store.transaction() as tx:
            first = await tx.append("a-1", Paid(amount=1), request_id="r-1")
            twin = asyncio.create_task(store.append("a-1", Paid(amount=1), request_id="r-1"))
            done, _ = await asyncio.wait({twin}, timeout=0.2)
            assert not done
            if ends == "rollback":
                raise ZeroDivisionError
    result = await asyncio.wait_for(twin, 10)
    assert result.version == 1
    assert result.deduplicated is (ends == "commit")
    assert (result.event_ids == first.event_ids) is (ends == "commit")
    assert len(await events(store)) == 1


async def test_requests_are_pruned_by_age(store, raw, monkeypatch):
    """By the database's clock, in small transactions; what is forgotten appends again."""
    monkeypatch.setattr("eventstore.requests.BATCH", 4)
    await asyncio.gather(*(store.append(f"a-{n}", Paid(amount=n), request_id=f"r-{n}") for n in range(10)))
    await raw.execute("update eventstore.requests set at = at - interval '2 days' where request_id <> 'r-3'")
    assert await prune_requests(store, dt.timedelta(days=3)) == 0
    assert await prune_requests(store, dt.timedelta(days=1)) == 9
    assert (await store.append("a-3", Paid(amount=3), request_id="r-3")).deduplicated
    assert not (await store.append("a-4", Paid(amount=4), request_id="r-4")).deduplicated
    with pytest.raises(errors.InvalidArgument, match="older_than"):
        await prune_requests(store, dt.timedelta(days=-1))


def test_the_blocking_store_prunes_too(database):
    """The same."""
    with sync.EventStore(database) as store:
        first = store.append("a-1", Paid(amount=1), request_id="r-1")
        assert store.append("a-1", Paid(amount=1), request_id="r-1") == first._replace(deduplicated=True)
        assert prune_requests_blocking(store, dt.timedelta(days=1)) == 0
        assert prune_requests_blocking(store, dt.timedelta()) == 1
        assert store.append("a-1", Paid(amount=1), request_id="r-1").version == 2
        with pytest.raises(errors.InvalidArgument, match="older_than"):
            prune_requests_blocking(store, dt.timedelta(days=-1))


# -- the connection dies


@pytest.mark.parametrize("committed", [False, True])
async def test_an_unknown_append_is_said_to_be_one_and_may_be_repeated(database, committed):
    """With the same ids at an exact version, or with a request id: there is one of it in the end."""
    async with Proxy(database) as proxy, EventStore(proxy.url, application_name="app") as store:
        await store.append("a-1", Paid(amount=0))
        strike = proxy.cut_when(APPEND, forward=committed, name="app append")
        new = paid(1)
        with pytest.raises(errors.AppendUnknown) as caught:
            await store.append("a-1", new, expect=1)
        await strike.wait()
        assert caught.value.event_ids == (new.event_id,)
        again = await store.append("a-1", new, expect=1)
        assert (again.version, again.deduplicated) == (2, committed)
        assert [recorded.data.amount for recorded in await events(store)] == [0, 1]


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("resolve", [True, False])
async def test_a_request_is_followed_up_by_the_store(database, committed, resolve):
    """By its own id, or by one that the store gives every append when told to: the caller sees nothing but the result."""
    async with (
        Proxy(database) as proxy,
        EventStore(proxy.url, application_name="app", resolve_unknown=resolve, max_connections=5) as store,
    ):
        await store.append("a-1", Paid(amount=0))
        strike = proxy.cut_when(APPEND, forward=committed, name="app append")
        names = [None if resolve else f"r-{n}" for n in range(3)]
        done = await asyncio.gather(
            *(store.append(f"a-{n}", [Paid(amount=n), Paid(amount=n)], request_id=name) for n, name in enumerate(names))
        )
        await strike.wait()
        assert strike.count == 1
        assert [one.version for one in done] == [2, 3, 2]
        assert any(one.deduplicated for one in done) is (committed and not resolve)
        for n, one in enumerate(done):
            found = await events(store, f"a-{n}")
            assert tuple(recorded.event_id for recorded in found)[-2:] == one.event_ids
            assert len(found) == one.version
            assert found[-1].position == one.position


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("resolve", [False, True])
async def test_a_transaction_cut_at_its_commit(database, committed, resolve):
    """Unknown; or, when the store is to find out, committed or certainly not."""
    async with (
        Proxy(database) as proxy,
        EventStore(proxy.url, application_name="app", resolve_unknown=resolve) as store,
    ):
        strike = proxy.cut_when(COMMIT, forward=committed, name="app transaction")
        error = None
        try:
            async with store.transaction() as tx:
                await tx.append("a-1", Paid(amount=1))
                await tx.append("b-1", [Paid(amount=2), Paid(amount=3)])
        except errors.EventStoreError as caught:
            error = caught
        await strike.wait()
        if not resolve:
            assert isinstance(error, errors.AppendUnknown)
            assert error.stream_ids == ("a-1", "b-1")
        elif committed:
            assert error is None
        else:
            assert type(error) is errors.ConnectionLost
        assert [len(await events(store, name)) for name in ("a-1", "b-1")] == ([1, 2] if committed else [0, 0])


LATE = """
    create function public.late() returns trigger language plpgsql set lock_timeout = 0 as $$
    begin
        perform pg_advisory_xact_lock(42);
        return null;
    end $$;
    create constraint trigger late after insert on eventstore.events deferrable initially deferred
        for each row when (new.stream_id = 'late-1') execute function public.late()
    """
"""An append to the stream late-1 is at its commit for as long as somebody holds the lock 42."""


async def test_a_dead_clients_backend_that_commits_late_is_waited_for(database, raw):
    """The connection is gone, the backend is at its commit for as long as something holds it; then it is committed."""
    await raw.execute(LATE)
    async with (
        Proxy(database) as proxy,
        EventStore(proxy.url, application_name="app", resolve_unknown=True) as store,
        EventStore(database) as other,
    ):
        async with raw.transaction():
            await raw.execute("select pg_advisory_xact_lock(42)")
            task = asyncio.create_task(store.append("late-1", Paid(amount=1)))
            await waits(raw, "app append")
            assert proxy.cut("app append") == 1
            await waits(raw, "app transaction")  # the question, behind the backend that nobody listens to any more
            assert not task.done()
            assert await other.stream_version("late-1") == 0
        done = await asyncio.wait_for(task, 20)
        assert (done.version, done.deduplicated) == (1, False)
        (found,) = await events(other, "late-1")
        assert (found.event_id, found.position) == (done.event_ids[0], done.position)


async def test_the_blocking_store_waits_for_a_dead_clients_backend_too(database, raw):
    """In the thread that called."""
    await raw.execute(LATE)
    async with Proxy(database) as proxy, EventStore(database) as other:
        store = sync.EventStore(proxy.url, application_name="app", resolve_unknown=True)
        await asyncio.to_thread(store.open)
        try:
            async with raw.transaction():
                await raw.execute("select pg_advisory_xact_lock(42)")
                task = asyncio.create_task(asyncio.to_thread(store.append, "late-1", Paid(amount=1)))
                await waits(raw, "app append")
                assert proxy.cut("app append") == 1
                await asyncio.sleep(0.5)
                assert not task.done()
                assert await other.stream_version("late-1") == 0
            done = await asyncio.wait_for(task, 20)
        finally:
            await asyncio.to_thread(store.close)
        (found,) = await events(other, "late-1")

    assert (done.version, done.deduplicated, done.event_ids) == (1, False, (found.event_id,))


async def test_the_same_ids_wait_for_a_dead_clients_backend_that_commits_late(database, raw):
    """By hand: the append is unknown, and the same again, at once, waits for what became of it."""
    await raw.execute(LATE)
    event = NewEvent(Paid(amount=1), event_id=uuid.uuid4())
    async with (
        Proxy(database) as proxy,
        EventStore(proxy.url, application_name="app") as store,
        EventStore(database) as other,
    ):
        async with raw.transaction():
            await raw.execute("select pg_advisory_xact_lock(42)")
            task = asyncio.create_task(store.append("late-1", event, expect=NO_STREAM))
            await waits(raw, "app append")
            assert proxy.cut("app append") == 1
            with pytest.raises(errors.AppendUnknown):
                await asyncio.wait_for(task, 20)
            again = asyncio.create_task(other.append("late-1", event, expect=NO_STREAM))
            await asyncio.sleep(0.2)
            assert not again.done()
        done = await asyncio.wait_for(again, 20)

        assert (done.version, done.deduplicated, done.event_ids) == (1, True, (event.event_id,))
        assert len(await events(other, "late-1")) == 1


async def test_a_dead_clients_transaction_that_commits_late_is_waited_for(database, raw):
    """As above, with a transaction's COMMIT."""
    await raw.execute(LATE)

    async def work(store):
        async with store.transaction() as tx:
            await tx.append("late-1", Paid(amount=1))

    async with Proxy(database) as proxy, EventStore(proxy.url, application_name="app", resolve_unknown=True) as store:
        async with raw.transaction():
            await raw.execute("select pg_advisory_xact_lock(42)")
            task = asyncio.create_task(work(store))
            await waits(raw, "app transaction")
            assert proxy.cut("app transaction") == 1
            await waits(raw, "app transaction", sessions=2)
            assert not task.done()
        await asyncio.wait_for(task, 20)
        assert len(await events(store, "late-1")) == 1


async def test_a_server_that_stays_away_leaves_it_unknown(database, monkeypatch):
    """After half a minute of asking."""
    monkeypatch.setattr("eventstore.resolution.SECONDS", 0.5)
    async with Proxy(database) as proxy, EventStore(proxy.url, application_name="app", resolve_unknown=True) as store:
        await store.append("a-1", Paid(amount=0))
        proxy.cut_when(APPEND, forward=True, name="app append")
        proxy.refuse("app transaction")
        proxy.cut("app transaction")
        with pytest.raises(errors.AppendUnknown):
            await store.append("a-1", Paid(amount=1))
        proxy.heal()
        assert (await store.append("a-1", Paid(amount=2))).version == 3


async def waits(raw, name, sessions=1):
    """Return once so many sessions of this name wait for a lock."""
    sql = """select count(*) from pg_stat_activity
             where application_name = $1 and wait_event_type = 'Lock' and datname = current_database()"""
    for _ in range(1000):
        await raw.execute("select pg_stat_clear_snapshot()")
        if await raw.fetchval(sql, name) >= sessions:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")
