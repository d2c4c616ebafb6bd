"""What tags and decisions over a boundary must do."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from ...boundary import Boundary, Decisions, Query
from ...errors import BoundaryConflict, InvalidArgument, InvalidEvent, VersionConflict
from ...events import NewEvent, Recorded
from .kit import Deposited, Enrolled, Noted, Store, Tx, amounts, collect, gathered, new_stream, refused, within

__all__ = ["DecideContract", "DecideInTransactionContract"]

SEATS: Final = 3
RACERS: Final = 12


class DecidingTx(Tx, Decisions, Protocol):
    """A transaction that decisions can be made on."""


class DecidingStore(Store, Decisions, Protocol):
    """A store that decisions can be made on."""

    def transaction(self) -> AbstractAsyncContextManager[DecidingTx]:
        """Begin a transaction."""


def new_tag(name: str = "tag") -> str:
    """Return a tag that nobody else uses."""
    return f"{name}:{uuid.uuid4()}"


def tagged(amount: int, *tags: str) -> NewEvent[Deposited]:
    """Return an event with tags."""
    return NewEvent(Deposited(amount=amount), tags=tags)


def numbers(events: Sequence[Recorded[Any]]) -> list[int]:
    """Return the amounts of events."""
    return [recorded.data.amount for recorded in events]


class DecideContract:
    """Tags, and decisions of a store. Needs a fixture `store`: open, knowing `EVENTS`."""

    async def test_tags_come_back(self, store: DecidingStore) -> None:
        """Those that the class declares, then those that are given, each once."""
        stream, course, student, extra = new_stream(), uuid.uuid4(), 7, new_tag()
        declared = (f"course:{course}", "student:7")

        await store.append(stream, Enrolled(course=course, student=student))
        await store.append(stream, NewEvent(Enrolled(course=course, student=None), tags=[extra, extra, declared[0]]))
        await store.append(stream, [Deposited(amount=1), tagged(2, extra), NewEvent(Deposited(amount=3))])

        events = [recorded async for recorded in store.read_stream(stream)]
        assert [recorded.tags for recorded in events] == [declared, (declared[0], extra), (), (extra,), ()]
        assert [recorded.metadata for recorded in events] == [{}] * 5

    async def test_the_log_is_read_by_tags(self, store: DecidingStore) -> None:
        """Events that carry all of them; together with types, categories, a limit and a position."""
        first, second, start = new_tag("a"), new_tag("b"), await store.head()
        done = [
            await store.append("left-1", tagged(1, first)),
            await store.append("left-1", [tagged(2, first, second), Deposited(amount=3)]),
            await store.append("right-1", [tagged(4, second, first), NewEvent(Noted(text="x"), tags=[first])]),
        ]

        async def found(**options: Any) -> list[int]:  # of read_all
            return [recorded.version for recorded in await collect(store.read_all(**{"after": start, **options}))]

        assert await found(tags=[first]) == [1, 2, 1, 2]
        assert await found(tags=[first, second]) == await found(tags=[second, first]) == [2, 1]
        assert await found(tags=[first], types=[Deposited]) == [1, 2, 1]
        assert await found(tags=[first], categories=["right"]) == [1, 2]
        assert await found(tags=[first], limit=3) == [1, 2, 1]
        assert await found(tags=[first], after=done[0].position) == [2, 1, 2]
        assert await found(tags=[new_tag()]) == []

    async def test_what_is_no_tag_is_refused(self, store: DecidingStore) -> None:
        """Before anything is sent."""
        stream = new_stream()

        for bad in ("course:1", [""], [7], ["x" * 300], ["a\x01b"]):
            with refused(InvalidArgument, "tag"):
                await store.append(stream, NewEvent(Deposited(amount=1), tags=bad))  # type: ignore[arg-type]  # on purpose
            with refused(InvalidArgument, "tag"):
                Query(tags=bad)  # type: ignore[arg-type]  # on purpose
        with refused(InvalidEvent, "tags"):
            await store.append(stream, tagged(1, *(f"t:{n}" for n in range(101))))
        with refused(InvalidArgument, "at least one tag"):
            Query(tags=[], types=[Deposited])
        with refused(InvalidArgument, "at least one tag"):
            Query(types=[Deposited])
        assert await store.stream_version(stream) == 0

    async def test_it_reads_what_matches(self, store: DecidingStore) -> None:
        """One of the items, with all tags of it and one of its types; each event once, in the order of the log."""
        stream, first, second = new_stream(), new_tag("a"), new_tag("b")
        await store.append(stream, [tagged(1, first), tagged(2, second), tagged(3, first, second), Deposited(amount=4)])
        await store.append(stream, NewEvent(Noted(text="x"), tags=[first]))
        boundary = Boundary(store)

        async def found(query: Query) -> list[int]:
            return [recorded.version for recorded in (await boundary.read(query)).events]

        assert await found(Query(tags=[first])) == [1, 3, 5]
        assert await found(Query(tags=[first], types=[Deposited])) == [1, 3]
        assert await found(Query(tags=[first, second])) == await found(Query(tags=[second, first])) == [3]
        assert await found(Query(tags=[first]) | Query(tags=[second])) == [1, 2, 3, 5]
        assert await found(Query(tags=[first], types=[Noted]) | Query(tags=[first, second])) == [3, 5]
        assert await found(Query(tags=[new_tag()])) == []

    async def test_a_decision_holds_while_nothing_that_matches_appears(self, store: DecidingStore) -> None:
        """Other tags, other types, and one tag of two, do not matter; its own appends count as known."""
        stream, first, second = new_stream(), new_tag("a"), new_tag("b")
        decision = await Boundary(store).read(Query(tags=[first], types=[Deposited]) | Query(tags=[first, second]))

        await store.append(new_stream(), [tagged(1, second), tagged(2, new_tag()), Deposited(amount=3)])
        await store.append(new_stream(), NewEvent(Noted(text="x"), tags=[first]))
        done = await decision.append(stream, tagged(1, first, second))
        again = await decision.append(stream, tagged(2, first), expect=1)

        assert (done.version, again.version) == (1, 2)
        assert await amounts(store, stream) == [1, 2]

    async def test_a_decision_is_refused_once_something_matches(self, store: DecidingStore) -> None:
        """Whoever appended it, in whichever way; the error names it, and nothing is written."""
        stream, first, second = new_stream(), new_tag("a"), new_tag("b")
        await store.append(stream, tagged(1, first))
        boundary = Boundary(store)
        by_one = await boundary.read(Query(tags=[first]))
        by_both = await boundary.read(Query(tags=[new_tag()]) | Query(tags=[first, second]))
        by_type = await boundary.read(Query(tags=[first], types=[Noted]))

        other = new_stream()
        done = await store.append(other, [Deposited(amount=2), tagged(3, second, first)])
        for decision in (by_one, by_both):
            with refused(BoundaryConflict, other) as refusal:
                await decision.append(stream, tagged(4, first))
            error = refusal.error
            assert isinstance(error, BoundaryConflict)
            assert (error.stream_id, error.version, error.position) == (other, 2, done.position)
            with refused(BoundaryConflict):
                await decision.append_all({stream: tagged(4, first), new_stream(): Deposited(amount=5)})
        await by_type.append(stream, NewEvent(Noted(text="x"), tags=[first]))

        assert await store.stream_version(stream) == 2

    async def test_several_streams_are_appended_to_all_or_none(self, store: DecidingStore) -> None:
        """Also where it is the last of them that is refused."""
        first, second, tag = new_stream(), new_stream(), new_tag()
        boundary = Boundary(store)
        decision, stale = await boundary.read(Query(tags=[tag])), await boundary.read(Query(tags=[tag]))

        done = await decision.append_all({first: [tagged(1, tag), tagged(2, tag)], second: tagged(3, tag)})
        with refused(InvalidArgument, "append_all"):
            await decision.append(first, tagged(4, tag))
        with refused(BoundaryConflict):
            await stale.append_all({first: tagged(5, tag), second: tagged(6, tag)})
        too_large = {first: tagged(7, tag), second: NewEvent(Noted(text="x" * 2**21), tags=[tag])}
        with refused(InvalidEvent):
            await (await boundary.read(Query(tags=[tag]))).append_all(too_large)

        assert {stream: each.version for stream, each in done.items()} == {first: 2, second: 1}
        assert (await amounts(store, first), await amounts(store, second)) == ([1, 2], [3])
        assert numbers((await boundary.read(Query(tags=[tag]))).events) == [1, 2, 3]

    async def test_a_decision_may_expect_a_version_too(self, store: DecidingStore) -> None:
        """Which is compared as in any append."""
        stream, tag = new_stream(), new_tag()
        await store.append(stream, Deposited(amount=1))
        decision = await Boundary(store).read(Query(tags=[tag]))

        with refused(VersionConflict):
            await decision.append(stream, tagged(2, tag), expect=0)
        await decision.append(stream, tagged(3, tag), expect=1)

        assert await amounts(store, stream) == [1, 3]

    async def test_a_decision_that_comes_again_gives_the_first_result(self, store: DecidingStore) -> None:
        """Under a request id, whatever has appeared since."""
        stream, tag, name = new_stream(), new_tag(), str(uuid.uuid4())
        first, twin = [await Boundary(store).read(Query(tags=[tag])) for _ in range(2)]

        done = await first.append(stream, tagged(1, tag), request_id=name)
        again = await twin.append(stream, tagged(1, tag), request_id=name)

        assert again == done._replace(deduplicated=True)
        assert await amounts(store, stream) == [1]

    async def test_racers_never_sell_a_seat_twice(self, store: DecidingStore) -> None:
        """They read, decide and append at once, and try again; plain appends that carry the tag race with them."""
        course, stream = new_tag("course"), new_stream()
        boundary = Boundary(store)

        async def enrol(number: int) -> bool:
            def decide(events: Sequence[Recorded[Any]]) -> Mapping[str, object]:
                return {} if len(events) >= SEATS else {f"{stream}-{number}": tagged(number, course)}

            return bool(await boundary.decide(Query(tags=[course]), decide, retries=RACERS * 2))

        taken = await gathered(*(enrol(number) for number in range(RACERS)), store.append(stream, tagged(-1, course)))

        events = (await boundary.read(Query(tags=[course]))).events
        sold = [recorded.data.amount for recorded in events if recorded.data.amount >= 0]
        late = sum(1 for recorded in events[SEATS:] if recorded.data.amount >= 0)
        assert late == 0
        assert sorted(sold) == [number for number in range(RACERS) if taken[number] is True]
        assert len(sold) in (SEATS - 1, SEATS)

    async def test_who_decides_nothing_appends_nothing(self, store: DecidingStore) -> None:
        """And what the function raises comes out, once."""
        head, boundary, calls = await store.head(), Boundary(store), []

        def fails(events: Sequence[Recorded[Any]]) -> Mapping[str, object]:
            calls.append(len(events))
            raise LookupError("full")

        assert await boundary.decide(Query(tags=[new_tag()]), lambda _: None) == {}
        with refused(LookupError, "full"):
            await boundary.decide(Query(tags=[new_tag()]), fails)

        assert calls == [0]
        assert await store.head() == head

    async def test_who_always_loses_is_told(self, store: DecidingStore) -> None:
        """After so many retries."""
        tag, boundary, tries = new_tag(), Boundary(store), []
        decision = await boundary.read(Query(tags=[tag]))
        await store.append(new_stream(), tagged(1, tag))

        class Stale(Boundary):
            async def read(self, query: Query) -> Any:  # the same decision, whatever was asked
                tries.append(query)
                return decision

        with refused(BoundaryConflict):
            await Stale(store).decide(Query(tags=[tag]), lambda _: {new_stream(): Deposited(amount=1)}, retries=2)
        assert len(tries) == 3


class DecideInTransactionContract:
    """Decisions inside a transaction. Needs a fixture `store`, and what begins one, as `TransactionContract`."""

    def begin(self, store: DecidingStore) -> AbstractAsyncContextManager[DecidingTx]:
        """Return a block that begins a transaction, commits it at its end, and rolls it back if an exception leaves it."""
        return store.transaction()

    async def test_decisions_of_one_transaction_know_of_each_other(self, store: DecidingStore) -> None:
        """One that is read after another's append does not conflict with it; one that was read before does."""
        stream, tag, other = new_stream(), new_tag(), new_tag()

        async with self.begin(store) as tx:
            boundary = Boundary(tx)
            first, early = await boundary.read(Query(tags=[tag])), await boundary.read(Query(tags=[tag]))
            await first.append(stream, tagged(1, tag))
            second = await boundary.read(Query(tags=[tag]) | Query(tags=[other]))
            assert numbers(second.events) == [1]
            await second.append(stream, tagged(2, tag, other))
            with refused(BoundaryConflict):
                await early.append(stream, tagged(3, tag))
            with refused(BoundaryConflict):
                await first.append_all({stream: tagged(4, tag), new_stream(): Deposited(amount=4)})
            done = await boundary.decide(Query(tags=[tag]), lambda events: {stream: tagged(len(events) + 1, tag)})
            assert done[stream].version == 3

        assert await amounts(store, stream) == [1, 2, 3]

    async def test_a_refused_decision_leaves_the_transaction_usable(self, store: DecidingStore) -> None:
        """What was appended before is committed."""
        stream, tag = new_stream(), new_tag()

        async with self.begin(store) as tx:
            decision = await Boundary(tx).read(Query(tags=[tag]))
            await tx.append(stream, Deposited(amount=1))
            await store.append(new_stream(), tagged(9, tag))
            with refused(BoundaryConflict):
                await decision.append(stream, tagged(2, tag))
            with refused(BoundaryConflict):
                await decision.append_all({stream: tagged(2, tag), new_stream(): Deposited(amount=2)})
            await tx.append(stream, Deposited(amount=3))

        assert await amounts(store, stream) == [1, 3]

    async def test_a_decision_waits_for_who_writes_its_tag(self, store: DecidingStore) -> None:
        """And is refused if that is committed, and holds if it is rolled back."""
        tag, streams = new_tag(), [new_stream(), new_stream()]
        outcomes = []

        for stream, fails in zip(streams, (True, False), strict=True):
            decision = await Boundary(store).read(Query(tags=[tag]))
            try:
                async with self.begin(store) as tx:
                    await tx.append(new_stream(), tagged(1, tag))
                    waiting = asyncio.create_task(decision.append(stream, tagged(2, tag)))
                    await asyncio.sleep(0.05)
                    assert not waiting.done()
                    if fails:
                        raise LookupError("rolled back")  # noqa: TRY301 - that is what is tested
            except LookupError:
                pass
            outcomes += await gathered(waiting)

        assert getattr(outcomes[0], "version", None) == 1
        assert isinstance(outcomes[1], BoundaryConflict)
        assert numbers((await Boundary(store).read(Query(tags=[tag]))).events) == [2, 1]

    async def test_whoever_writes_other_tags_is_not_waited_for(self, store: DecidingStore) -> None:
        """An open transaction delays those alone who write, or ask about, its tags."""
        mine, stream = new_tag(), new_stream()
        boundary = Boundary(store)

        async with self.begin(store) as tx:
            await tx.append(new_stream(), tagged(1, new_tag()))
            decision = await boundary.read(Query(tags=[mine]))
            await within(decision.append(stream, tagged(1, mine)))
            await within(store.append(stream, tagged(2, mine)))
            await within(store.append(stream, Deposited(amount=3)))

        assert await amounts(store, stream) == [1, 2, 3]
