"""What reads must give: streams, the log, what follows it, and how far both go."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from ...errors import Invalid, InvalidArgument, LogRewound, StoreClosed
from .kit import Deposited, Noted, Opened, Reader, Store, collect, entered, new_stream, refused, within

__all__ = ["ReadContract"]


class ReadContract:
    """Reads, beside nobody else's writes. Needs a fixture `store`: open, and knowing `EVENTS`."""

    async def test_bounds_of_a_stream_are_exclusive(self, store: Store) -> None:
        """After, before, limit and backwards, across the borders of batches."""
        stream = new_stream()
        await store.append(stream, [Deposited(amount=n) for n in range(1, 701)])

        async def versions(**bounds: Any) -> list[int]:
            events = await collect(store.read_stream(stream, **bounds))
            assert [recorded.data.amount for recorded in events] == [recorded.version for recorded in events]
            return [recorded.version for recorded in events]

        assert await versions() == list(range(1, 701))
        assert await versions(after=10, before=13) == [11, 12]
        assert await versions(after=690, limit=3) == [691, 692, 693]
        assert await versions(after=100, limit=300) == list(range(101, 401))
        assert await versions(backwards=True) == list(range(700, 0, -1))
        assert await versions(backwards=True, before=500, limit=205) == list(range(499, 294, -1))
        assert await versions(backwards=True, after=698) == [700, 699]
        assert await versions(after=700) == await versions(limit=0) == await versions(before=1) == []
        assert await versions(after=5, before=6) == await versions(after=9, before=3) == []

    async def test_odd_bounds_are_refused(self, store: Store) -> None:
        """Negative numbers, bools, text; of a stream and of the log."""
        odd_bounds: list[dict[str, Any]] = [{"after": -1}, {"after": "7"}, {"limit": True}, {"limit": -1}]
        for odd in [*odd_bounds, {"before": "7"}, {"before": -1}]:
            with refused(InvalidArgument, next(iter(odd))):
                await collect(store.read_stream(new_stream(), **odd))
        for odd in odd_bounds:
            with refused(InvalidArgument, next(iter(odd))):
                await collect(store.read_all(**odd))
        odd_filters: list[dict[str, Any]] = [{"types": "contract_opened"}, {"types": [""]}, {"types": [dict]}]
        for odd in [*odd_filters, {"categories": "contract"}, {"categories": [""]}]:
            with refused(Invalid):
                store.read_all(**odd)
            with refused(Invalid):
                store.subscribe(**odd)

    async def test_a_stream_without_events_is_empty(self, store: Store) -> None:
        """It has version 0 and gives nothing."""
        stream = new_stream()

        assert await store.stream_version(stream) == 0
        assert await collect(store.read_stream(stream)) == []
        await store.append(stream, [Deposited(amount=1)] * 3)
        assert await store.stream_version(stream) == 3

    async def test_the_head_is_the_last_position(self, store: Store) -> None:
        """It grows with each append."""
        before = await store.head()

        first = await store.append(new_stream(), Deposited(amount=1))
        assert await store.head() == first.position > before
        second = await store.append(new_stream(), [Deposited(amount=1)] * 3)
        assert await store.head() == second.position > first.position

    async def test_the_log_is_read_in_order(self, store: Store) -> None:
        """Every stream's events by position, each once, up to a settled end; a second loop reads from the start again."""
        start, streams = await store.head(), [new_stream(), new_stream()]
        for n in range(260):
            await store.append(streams[n % 2], Deposited(amount=n))

        reader = store.read_all(after=start)
        before = reader.settled
        events = await collect(reader)

        assert [recorded.data.amount for recorded in events] == list(range(260))
        assert [recorded.position for recorded in events] == sorted({recorded.position for recorded in events})
        assert (before, reader.settled) == (None, True)
        assert len(await collect(reader)) == 260

    async def test_the_log_is_filtered_by_type_and_category(self, store: Store) -> None:
        """Classes or stored names; a category is what stands before the first dash; nothing else comes through."""
        mark = uuid.uuid4().hex
        first, second = f"first{mark}", f"second{mark}"
        start = await store.head()
        await store.append(f"{first}-1", [Opened(owner="x"), Deposited(amount=1)])
        await store.append(f"{second}-1-2", [Opened(owner="y"), Deposited(amount=2)])
        await store.append(second, Deposited(amount=3))

        async def told(**how: Any) -> list[Any]:
            return [recorded.data async for recorded in store.read_all(**{"after": start, **how})]

        assert len(await told()) == 5
        assert await told(types=[Opened]) == [Opened(owner="x"), Opened(owner="y")]
        assert await told(types=["contract_deposited"], categories=[second]) == [Deposited(amount=2), Deposited(amount=3)]
        assert await told(types=[Opened, Deposited], categories=[first]) == [Opened(owner="x"), Deposited(amount=1)]
        assert await told(categories=[f"{second}-1"]) == await told(types=[]) == await told(types=["contract_never"]) == []
        assert await told(limit=2) == [Opened(owner="x"), Deposited(amount=1)]
        assert await told(limit=2, categories=[second]) == [Opened(owner="y"), Deposited(amount=2)]
        assert await told(after=await store.head()) == []

    async def test_a_limited_read_of_the_log_ends_there(self, store: Store) -> None:
        """It says nothing about the log's end."""
        start = await store.head()
        await store.append(new_stream(), [Deposited(amount=n) for n in range(250)])

        for limit in (0, 1, 120):
            reader: Reader = store.read_all(after=start, limit=limit)
            assert [recorded.data.amount for recorded in await collect(reader)] == list(range(limit))
            assert reader.settled is None

    async def test_a_position_that_was_never_given_out_is_refused(self, store: Store) -> None:
        """Whoever asks for it holds a position of another log."""
        beyond = await store.head() + 10**6

        with refused(LogRewound) as refusal:
            await collect(store.read_all(after=beyond))
        assert refusal.error.cursor == beyond
        with refused(LogRewound):
            async with store.subscribe(after=beyond):
                pass

    async def test_a_subscription_gives_what_is_there_and_what_comes_later(self, store: Store) -> None:
        """In order, each event once, only what was asked for; its position follows."""
        start, stream = await store.head(), new_stream("live")
        await store.append(stream, [Deposited(amount=n) for n in range(150)])
        seen: list[int] = []

        async def follow() -> int:
            async with store.subscribe(after=start, types=[Deposited], categories=["live"]) as live:
                async for recorded in live:
                    assert live.position == recorded.position
                    seen.append(recorded.data.amount)
                    if len(seen) == 300:
                        return int(live.position)
            raise AssertionError("it ended by itself")

        follower = asyncio.create_task(follow())
        last = None
        for n in range(150, 300):
            await store.append(new_stream("other"), Deposited(amount=-1))
            last = await store.append(stream, [Noted(text="another type"), Deposited(amount=n)])

        assert last is not None
        assert await within(follower) == last.position
        assert seen == list(range(300))

    async def test_a_subscription_goes_on_where_its_loop_was_left(self, store: Store) -> None:
        """With the next event, in the middle of a batch and at its end."""
        start = await store.head()
        await store.append(new_stream(), [Deposited(amount=n) for n in range(5)])
        seen: list[int] = []

        async with store.subscribe(after=start) as live:
            for stop in (1, 3, 5):
                async for recorded in live:
                    seen.append(recorded.data.amount)
                    if len(seen) == stop:
                        break

        assert seen == [0, 1, 2, 3, 4]

    async def test_a_subscription_is_entered_first(self, store: Store) -> None:
        """A bare loop says how it is done."""
        with refused(InvalidArgument, "with store.subscribe"):
            await collect(store.subscribe())

    async def test_a_closed_store_refuses_and_can_be_opened_again(self, store: Store) -> None:
        """Closing twice is safe; so is waking; opening twice is not."""
        stream, start = new_stream(), await store.head()
        await store.append(stream, Deposited(amount=1))

        await store.close()
        await store.close()
        store.wake()
        for use in (
            lambda: store.append(stream, Deposited(amount=2)),
            lambda: store.stream_version(stream),
            store.head,
            lambda: collect(store.read_stream(stream)),
            lambda: collect(store.read_all(after=start)),
            lambda: entered(store.transaction()),
            lambda: entered(store.subscribe(after=start)),
        ):
            with refused(StoreClosed, "open"):
                await use()
        await store.open()
        with refused(InvalidArgument, "open already"):
            await store.open()

        assert await store.append(stream, Deposited(amount=2), expect=1)
        assert len(await collect(store.read_all(after=start))) == 2
