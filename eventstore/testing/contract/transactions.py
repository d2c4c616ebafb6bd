"""What a transaction must do, whether the store began it or joined one of the caller's."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from contextlib import AbstractAsyncContextManager

from ...errors import EventStoreError, InvalidArgument, InvalidEvent, Retryable, VersionConflict
from ...events import Appended, NewEvent
from ...streams import ANY, EXISTS, NO_STREAM, Expectation
from .kit import Deposited, Noted, Opened, Store, Tx, amounts, collect, gathered, new_stream, refused, within

__all__ = ["CommitContract", "TransactionContract", "TransactionReadContract"]


class Stop(Exception):  # noqa: N818 - what a caller's own code may raise
    """Rolls a transaction back."""


class TransactionContract:
    """Transactions over several streams. Needs a fixture `store`: open, knowing `EVENTS`, on `READ COMMITTED`.

    Override `begin` for transactions that the caller makes and the store joins.
    """

    def begin(self, store: Store) -> AbstractAsyncContextManager[Tx]:
        """Return a block that begins a transaction, commits it at its end, and rolls it back if an exception leaves it."""
        return store.transaction()

    async def test_appends_are_committed_together(self, store: Store) -> None:
        """Several streams; nobody else sees them before the end, everybody after it."""
        first, second, start = new_stream(), new_stream(), await store.head()

        async with self.begin(store) as tx:
            one = await tx.append(first, [Opened(owner="x"), Deposited(amount=1)], expect=NO_STREAM)
            two = await tx.append(second, Deposited(amount=2))
            assert await collect(store.read_stream(first)) == []
            assert (await store.stream_version(second), await store.head()) == (0, start)

        events = await collect(store.read_all(after=start))
        assert [recorded.stream_id for recorded in events] == [first, first, second]
        assert [(one.first_version, one.version), (two.first_version, two.version)] == [(1, 2), (1, 1)]
        assert (one.position, two.position) == (events[1].position, events[2].position)
        assert (*one.event_ids, *two.event_ids) == tuple(recorded.event_id for recorded in events)

    async def test_an_exception_rolls_all_of_it_back(self, store: Store) -> None:
        """It comes out as it is; the streams are as they were, and can be appended to."""
        first, second, start = new_stream(), new_stream(), await store.head()
        await store.append(first, Deposited(amount=1))
        stop = Stop("here")

        with refused(Stop) as refusal:
            async with self.begin(store) as tx:
                await tx.append(first, Deposited(amount=2))
                await tx.append(second, [Deposited(amount=3), Deposited(amount=4)])
                raise stop
        assert refusal.error is stop

        await store.append(second, Deposited(amount=5), expect=NO_STREAM)
        await store.append(first, Deposited(amount=6), expect=1)
        assert (await amounts(store, first), await amounts(store, second)) == ([1, 6], [5])
        assert [recorded.data.amount async for recorded in store.read_all(after=start)] == [1, 5, 6]

    async def test_it_sees_its_own_appends(self, store: Store) -> None:
        """Expectations and reads begin where its own appends have ended; bounds are exclusive."""
        stream = new_stream()
        await store.append(stream, Deposited(amount=1))

        async with self.begin(store) as tx:
            await tx.append(stream, [Deposited(amount=2), Deposited(amount=3)], expect=1)
            await tx.append(stream, Deposited(amount=4), expect=3)
            await tx.append(stream, Deposited(amount=5), expect=EXISTS)
            events = await tx.read_stream(stream)
            assert [(recorded.version, recorded.data.amount) for recorded in events] == [(n, n) for n in range(1, 6)]
            assert [recorded.version for recorded in await tx.read_stream(stream, after=1, before=5, limit=2)] == [2, 3]
            assert list(await tx.read_stream(new_stream())) == []

        assert await amounts(store, stream) == [1, 2, 3, 4, 5]

    async def test_what_others_commit_is_seen(self, store: Store) -> None:
        """It is no snapshot: what was committed meanwhile counts."""
        stream = new_stream()

        async with self.begin(store) as tx:
            await tx.append(new_stream(), Deposited(amount=0))
            await store.append(stream, Deposited(amount=1))
            assert len(await tx.read_stream(stream)) == 1
            await tx.append(stream, Deposited(amount=2), expect=1)

        assert await amounts(store, stream) == [1, 2]

    async def test_a_conflict_leaves_it_usable(self, store: Store) -> None:
        """As often as it happens; what was appended before and after is committed."""
        stream, other = new_stream(), new_stream()
        await store.append(stream, Deposited(amount=1))
        wrong: tuple[tuple[str, int | Expectation, int], ...] = ((stream, 0, 1), (stream, 2, 1), (other, EXISTS, 0))

        async with self.begin(store) as tx:
            for n, (name, expect, actual) in enumerate(wrong):
                with refused(VersionConflict) as refusal:
                    await tx.append(name, [Deposited(amount=9)] * 2, expect=expect)
                assert (refusal.error.stream_id, refusal.error.actual) == (name, actual)
                await tx.append(new_stream(), Deposited(amount=n))
            await tx.append(stream, Deposited(amount=2), expect=1)
            with refused(VersionConflict) as refusal:
                await tx.append(stream, Deposited(amount=9), expect=1)
            assert (refusal.error.expected, refusal.error.actual) == (1, 2)

        assert (await amounts(store, stream), await amounts(store, other)) == ([1, 2], [])

    async def test_any_refusal_leaves_it_usable(self, store: Store) -> None:
        """Of arguments, and of events, one among several included."""
        stream = new_stream()

        async with self.begin(store) as tx:
            await tx.append(stream, Deposited(amount=1))
            with refused(InvalidArgument, "stream id"):
                await tx.append("", Deposited(amount=9))
            with refused(InvalidArgument, "expect"):
                await tx.append(stream, Deposited(amount=9), expect=True)
            with refused(InvalidArgument):
                await tx.append(stream, [])
            with refused(InvalidEvent):
                await tx.append(stream, [Deposited(amount=9), Noted(text="nul \0")])
            with refused(InvalidArgument):
                await tx.read_stream(stream, after=-1)
            await tx.append(stream, Deposited(amount=2), expect=1)

        assert await amounts(store, stream) == [1, 2]

    async def test_what_goes_beside_events_is_kept(self, store: Store) -> None:
        """The context's words, and each event's own."""
        stream, given = new_stream(), uuid.uuid4()

        with store.context(correlation_id="request 7", actor="ada"):
            async with self.begin(store) as tx:
                await tx.append(stream, NewEvent(Deposited(amount=1), event_id=given, metadata={"n": 1}))

        (recorded,) = await collect(store.read_stream(stream))
        assert (recorded.event_id, recorded.correlation_id) == (given, "request 7")
        assert dict(recorded.metadata) == {"actor": "ada", "n": 1}

    async def test_after_its_end_it_is_refused(self, store: Store) -> None:
        """And nothing is written."""
        stream = new_stream()

        async with self.begin(store) as tx:
            await tx.append(stream, Deposited(amount=1))
        with refused(EventStoreError):
            await tx.append(stream, Deposited(amount=2))

        assert await amounts(store, stream) == [1]

    async def test_who_comes_second_waits_for_the_first(self, store: Store) -> None:
        """If the first commits, an exact version loses and ANY lands behind it; if it rolls back, the second wins."""
        for second_expects, commits, landed in ((1, True, [1, 2]), (ANY, True, [1, 2, 3]), (1, False, [1, 3])):
            stream = new_stream()
            await store.append(stream, Deposited(amount=1))
            with contextlib.nullcontext() if commits else refused(Stop):
                async with self.begin(store) as tx:
                    await tx.append(stream, Deposited(amount=2), expect=1)
                    second = asyncio.create_task(self._alone(store, stream, second_expects))
                    for _ in range(50):
                        await asyncio.sleep(0)
                    assert not second.done()
                    if not commits:
                        raise Stop
            (outcome,) = await gathered(second)

            assert isinstance(outcome, Appended if 3 in landed else VersionConflict), outcome
            assert await amounts(store, stream) == landed

    async def _alone(self, store: Store, stream: str, expect: int | Expectation) -> Appended:
        async with self.begin(store) as tx:
            return await tx.append(stream, Deposited(amount=3), expect=expect)

    async def test_appends_outside_wait_as_well(self, store: Store) -> None:
        """An append by itself to a stream that an open transaction has appended to; other streams are free."""
        stream = new_stream()

        async with self.begin(store) as tx:
            await tx.append(stream, Deposited(amount=1))
            late = asyncio.create_task(store.append(stream, Deposited(amount=2)))
            await within(store.append(new_stream(), Deposited(amount=0)))
            assert not late.done()

        assert (await within(late)).version == 2
        assert await amounts(store, stream) == [1, 2]

    async def test_readers_never_pass_it(self, store: Store) -> None:
        """What others commit behind its positions is not read before it ends; then everything comes, in order."""
        start, held, free = await store.head(), new_stream(), new_stream()

        async with self.begin(store) as tx:
            await tx.append(held, Deposited(amount=1))
            await store.append(free, Deposited(amount=2))
            reader = store.read_all(after=start, settle=0.05)
            assert await collect(reader) == []
            assert reader.settled is False
            await tx.append(held, Deposited(amount=3))

        reader = store.read_all(after=start)
        assert [recorded.data.amount async for recorded in reader] == [1, 2, 3]
        assert reader.settled is True

    async def test_subscribers_never_pass_it(self, store: Store) -> None:
        """They wait, and then get everything, in order."""
        start, held, free = await store.head(), new_stream(), new_stream()
        seen: list[int] = []

        async def follow() -> None:
            async with store.subscribe(after=start) as live:
                async for recorded in live:
                    seen.append(recorded.data.amount)
                    if len(seen) == 3:
                        return

        follower = asyncio.create_task(follow())
        async with self.begin(store) as tx:
            await tx.append(held, Deposited(amount=1))
            await store.append(free, Deposited(amount=2))
            await collect(store.read_all(after=start, settle=0.05))
            assert seen == []
            await tx.append(held, Deposited(amount=3))
        store.wake()
        await within(follower)

        assert seen == [1, 2, 3]

    async def test_of_two_that_wait_for_each_other_one_is_told(self, store: Store) -> None:
        """It may be tried again; the other goes on."""
        streams = [new_stream(), new_stream()]
        reached = [asyncio.Event(), asyncio.Event()]

        async def cross(own: int) -> None:
            async with self.begin(store) as tx:
                await tx.append(streams[own], Deposited(amount=own))
                reached[own].set()
                await reached[1 - own].wait()
                await tx.append(streams[1 - own], Deposited(amount=own))

        outcomes = await gathered(cross(0), cross(1))

        (told,) = [outcome for outcome in outcomes if outcome is not None]
        assert isinstance(told, Retryable), told
        winner = outcomes.index(None)
        assert [await amounts(store, stream) for stream in streams] == [[winner], [winner]]

    async def test_a_cancelled_append_is_not_written(self, store: Store) -> None:
        """One that waits for somebody else's transaction; what its transaction had done before is kept or lost as a whole."""
        stream, other = new_stream(), new_stream()

        async with self.begin(store) as first:
            await first.append(stream, Deposited(amount=1))
            with contextlib.suppress(EventStoreError):
                await self._give_up(store, stream, other)

        assert await amounts(store, stream) == [1]
        assert await amounts(store, other) in ([2, 4], [])

    async def _give_up(self, store: Store, stream: str, other: str) -> None:
        """Append to `other`, then cancel an append to `stream` while it waits, then go on."""
        async with self.begin(store) as tx:
            await tx.append(other, [Deposited(amount=2), Deposited(amount=4)])
            waiting = asyncio.create_task(tx.append(stream, Deposited(amount=3)))
            for _ in range(50):
                await asyncio.sleep(0)
            waiting.cancel()
            (outcome,) = await gathered(waiting)
            assert isinstance(outcome, asyncio.CancelledError)


class TransactionReadContract(TransactionContract):
    """As `TransactionContract`, for transactions that also read backwards and tell a stream's version."""

    async def test_it_reads_backwards(self, store: Store) -> None:
        """Newest first, own appends included."""
        stream = new_stream()
        await store.append(stream, [Deposited(amount=1), Deposited(amount=2)])

        async with self.begin(store) as tx:
            await tx.append(stream, Deposited(amount=3))
            assert [recorded.version for recorded in await tx.read_stream(stream, backwards=True)] == [3, 2, 1]
            assert [recorded.version for recorded in await tx.read_stream(stream, backwards=True, before=3, limit=1)] == [2]

    async def test_it_tells_a_streams_version(self, store: Store) -> None:
        """Own appends included, those of others not before they are committed."""
        stream, empty = new_stream(), new_stream()
        await store.append(stream, Deposited(amount=1))

        async with self.begin(store) as tx:
            assert (await tx.stream_version(stream), await tx.stream_version(empty)) == (1, 0)
            await tx.append(stream, [Deposited(amount=2), Deposited(amount=3)])
            assert (await tx.stream_version(stream), await store.stream_version(stream)) == (3, 1)
            with refused(InvalidArgument, "stream id"):
                await tx.stream_version("")


class CommitContract(TransactionContract):
    """As `TransactionContract`, for transactions that the store commits itself."""

    async def test_a_block_that_ends_without_an_error_is_committed(self, store: Store) -> None:
        """Also when an append in it was cancelled; whoever cannot go on after that says so."""
        stream, other = new_stream(), new_stream()
        failed = False

        async with self.begin(store) as first:
            await first.append(stream, Deposited(amount=1))
            try:
                await self._give_up(store, stream, other)
            except EventStoreError:
                failed = True

        assert await amounts(store, other) == ([] if failed else [2, 4])
