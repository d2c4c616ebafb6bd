"""What must hold when a request comes again: after a lost answer, a time-out, a restart."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from ...errors import IdempotencyMismatch, InvalidArgument, VersionConflict
from ...events import Appended, NewEvent
from ...streams import ANY, NO_STREAM
from .kit import Deposited, Noted, Store, Tx, amounts, gathered, new_stream, refused, within

__all__ = ["RepeatContract", "RepeatInTransactionContract"]


def new_request() -> str:
    """Return a request id that nobody has used."""
    return f"request {uuid.uuid4()}"


def named(*numbers: int) -> list[NewEvent[Deposited]]:
    """Return events with ids of the caller's, which are what makes an append known again."""
    return [NewEvent(Deposited(amount=n), event_id=uuid.uuid4()) for n in numbers]


class RepeatContract:
    """Appends that are sent again. Needs a fixture `store`: open, and knowing `EVENTS`."""

    async def test_the_same_request_again_returns_the_first_result(self, store: Store) -> None:
        """Whatever was appended since, and whatever the expectation says by now; nothing is written twice."""
        for expect in (ANY, 1):
            stream, request = new_stream(), new_request()
            await store.append(stream, Deposited(amount=0))
            events = [Deposited(amount=1), Deposited(amount=2)]

            first = await store.append(stream, events, expect=expect, request_id=request)
            await store.append(stream, Deposited(amount=3))
            again = [await store.append(stream, events, expect=expect, request_id=request) for _ in range(2)]

            assert not first.deduplicated
            assert again == [first._replace(deduplicated=True)] * 2
            assert await amounts(store, stream) == [0, 1, 2, 3]

    async def test_other_content_under_the_same_request_is_refused(self, store: Store) -> None:
        """Other events, fewer, more, another order, another type, another stream; nothing is written."""
        stream, other, request = new_stream(), new_stream(), new_request()
        await store.append(stream, [Deposited(amount=1), Deposited(amount=2)], request_id=request)
        content: Sequence[tuple[str, list[Any]]] = (
            (stream, [Deposited(amount=1), Deposited(amount=3)]),
            (stream, [Deposited(amount=1)]),
            (stream, [Deposited(amount=1), Deposited(amount=2), Deposited(amount=3)]),
            (stream, [Deposited(amount=2), Deposited(amount=1)]),
            (stream, [Deposited(amount=1), Noted(text="x")]),
            (other, [Deposited(amount=1), Deposited(amount=2)]),
        )

        for name, events in content:
            with refused(IdempotencyMismatch, request) as refusal:
                await store.append(name, events, request_id=request)
            assert refusal.error.request_id == request

        assert (await amounts(store, stream), await amounts(store, other)) == ([1, 2], [])

    async def test_a_request_that_was_refused_can_be_made_again(self, store: Store) -> None:
        """Nothing was written, so nothing is remembered."""
        stream, request = new_stream(), new_request()

        with refused(VersionConflict):
            await store.append(stream, Deposited(amount=1), expect=1, request_id=request)
        appended = await store.append(stream, Deposited(amount=2), expect=NO_STREAM, request_id=request)

        assert not appended.deduplicated
        assert await amounts(store, stream) == [2]

    async def test_twins_at_once_write_once(self, store: Store) -> None:
        """Whoever comes second waits for the first, and gets its result; other requests are not held up."""
        stream, request = new_stream(), new_request()

        outcomes = await gathered(
            *(store.append(stream, [Deposited(amount=1)] * 2, request_id=request) for _ in range(8)),
            *(store.append(stream, Deposited(amount=2), request_id=new_request()) for _ in range(8)),
        )

        done = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
        assert len(done) == 16, outcomes
        assert sum(not appended.deduplicated for appended in done[:8]) == 1
        assert len({appended._replace(deduplicated=False) for appended in done[:8]}) == 1
        assert not any(appended.deduplicated for appended in done[8:])
        assert sorted(await amounts(store, stream)) == [1, 1, *[2] * 8]

    async def test_odd_request_ids_are_refused(self, store: Store) -> None:
        """Empty, too long, no text, control characters."""
        stream = new_stream()
        odd_ids: tuple[Any, ...] = ("", "x" * 256, 7, b"a", "a\0b", "a\nb", "\ud800")

        for odd in odd_ids:
            with refused(InvalidArgument, "request id"):
                await store.append(stream, Deposited(amount=1), request_id=odd)

        assert await store.stream_version(stream) == 0

    async def test_the_same_ids_at_the_same_version_return_the_first_result(self, store: Store) -> None:
        """Also when the stream has gone on since; nothing is written twice."""
        for at in (NO_STREAM, 2):
            stream, events = new_stream(), named(1, 2, 3)
            if at:
                await store.append(stream, [Deposited(amount=0)] * at)

            first = await store.append(stream, events, expect=at)
            await store.append(stream, Deposited(amount=4))
            await store.append(new_stream(), Deposited(amount=5))
            again = await store.append(stream, events, expect=at)

            assert not first.deduplicated
            assert again == first._replace(deduplicated=True)
            assert await amounts(store, stream) == [*[0] * at, 1, 2, 3, 4]

    async def test_other_ids_or_another_version_are_a_conflict(self, store: Store) -> None:
        """Only what is the same append is known again; the same events without ids are new ones."""
        stream, events = new_stream(), named(1, 2)
        await store.append(stream, events, expect=NO_STREAM)

        for others, expect in (
            (named(1, 2), 0),
            ([events[0], *named(2)], 0),
            (events[::-1], 0),
            ([*events, *named(3)], 0),
            (events, 1),
            (events, 3),
            ([new.event for new in events], 0),
        ):
            with refused(VersionConflict) as refusal:
                await store.append(stream, others, expect=expect)
            assert (refusal.error.expected, refusal.error.actual) == (expect, 2)

        assert await amounts(store, stream) == [1, 2]

    async def test_a_cancelled_append_can_be_sent_again(self, store: Store) -> None:
        """By its request id or its event ids: whatever became of the first, the events are there once."""
        for turns in range(15):
            stream, ids, request = new_stream(), new_stream(), new_request()
            events = named(1, 2)
            unheard = [
                asyncio.create_task(store.append(stream, [Deposited(amount=1)] * 2, request_id=request)),
                asyncio.create_task(store.append(ids, events, expect=NO_STREAM)),
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in unheard:
                task.cancel()
            await gathered(*unheard)

            first = await within(store.append(stream, [Deposited(amount=1)] * 2, request_id=request))
            second = await within(store.append(ids, events, expect=NO_STREAM))

            assert (first.first_version, first.version, second.version) == (1, 2, 2)
            assert (await amounts(store, stream), await amounts(store, ids)) == ([1, 1], [1, 2])


class RepeatInTransactionContract:
    """The same inside transactions. Needs a fixture `store`: open, and knowing `EVENTS`; `begin` as `TransactionContract`."""

    def begin(self, store: Store) -> AbstractAsyncContextManager[Tx]:
        """Return a block that begins a transaction, commits it at its end, and rolls it back if an exception leaves it."""
        return store.transaction()

    async def test_a_request_is_remembered_with_its_transaction(self, store: Store) -> None:
        """Inside of it at once, outside once it is committed."""
        stream, request = new_stream(), new_request()

        async with self.begin(store) as tx:
            first = await tx.append(stream, Deposited(amount=1), request_id=request)
            assert await tx.append(stream, Deposited(amount=1), request_id=request) == first._replace(deduplicated=True)
            with refused(IdempotencyMismatch):
                await tx.append(stream, Deposited(amount=2), request_id=request)
            await tx.append(stream, Deposited(amount=3), expect=1)
        again = await store.append(stream, Deposited(amount=1), request_id=request)

        assert again == first._replace(deduplicated=True)
        assert await amounts(store, stream) == [1, 3]

    async def test_a_request_is_forgotten_with_its_transaction(self, store: Store) -> None:
        """What was rolled back was not done."""
        stream, request, events = new_stream(), new_request(), named(7)

        with refused(KeyError):
            async with self.begin(store) as tx:
                await tx.append(stream, Deposited(amount=1), request_id=request)
                await tx.append(stream, events, expect=1)
                raise KeyError
        first = await store.append(stream, Deposited(amount=2), request_id=request)
        second = await store.append(stream, events, expect=1)

        assert not first.deduplicated
        assert not second.deduplicated
        assert await amounts(store, stream) == [2, 7]

    async def test_a_twin_waits_for_an_open_transaction(self, store: Store) -> None:
        """And gets its result once it is committed."""
        stream, request = new_stream(), new_request()

        async with self.begin(store) as tx:
            first = await tx.append(stream, Deposited(amount=1), request_id=request)
            twin = asyncio.create_task(store.append(stream, Deposited(amount=1), request_id=request))
            await within(store.append(new_stream(), Deposited(amount=0), request_id=new_request()))
            assert not twin.done()

        assert await within(twin) == first._replace(deduplicated=True)
        assert await amounts(store, stream) == [1]

    async def test_the_same_ids_are_known_inside_a_transaction(self, store: Store) -> None:
        """Those that it appended itself, and those of others."""
        stream, events, more = new_stream(), named(1), named(2)
        first = await store.append(stream, events, expect=NO_STREAM)

        async with self.begin(store) as tx:
            second = await tx.append(stream, more, expect=1)
            assert await tx.append(stream, events, expect=NO_STREAM) == first._replace(deduplicated=True)
            assert await tx.append(stream, more, expect=1) == second._replace(deduplicated=True)

        assert await amounts(store, stream) == [1, 2]
