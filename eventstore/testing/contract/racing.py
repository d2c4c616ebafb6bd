"""What must hold when several append at once, and when one is cancelled."""

from __future__ import annotations

import asyncio
import itertools

from ...errors import VersionConflict
from ...events import Appended
from ...streams import EXISTS, NO_STREAM
from .kit import Deposited, Store, amounts, collect, gathered, new_stream, within

__all__ = ["CallOrderContract", "RaceContract"]

RACERS = 16


class RaceContract:
    """Appends at once, from one process. Needs a fixture `store`: open, and knowing `EVENTS`."""

    async def test_racers_for_one_version_have_one_winner(self, store: Store) -> None:
        """All others get a conflict that names the version; nothing of theirs is written."""
        for expect in (NO_STREAM, 1):
            stream = new_stream()
            if expect:
                await store.append(stream, Deposited(amount=-1))

            outcomes = await gathered(*(store.append(stream, Deposited(amount=n), expect=expect) for n in range(RACERS)))

            (winner,) = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Appended)]
            losers = [outcome for outcome in outcomes if isinstance(outcome, VersionConflict)]
            assert len(losers) == RACERS - 1
            assert {(loser.stream_id, loser.expected, loser.actual) for loser in losers} == {(stream, expect, expect + 1)}
            assert await amounts(store, stream) == [*[-1] * expect, winner]

    async def test_racers_that_expect_nothing_all_land(self, store: Store) -> None:
        """Each is told where its own events are; nobody's are cut in two."""
        stream = new_stream()

        outcomes = await gathered(*(store.append(stream, [Deposited(amount=n)] * 3) for n in range(40)))

        landed = {n: outcome for n, outcome in enumerate(outcomes) if isinstance(outcome, Appended)}
        stored = await amounts(store, stream)
        events = await collect(store.read_stream(stream))
        assert (len(landed), len(stored)) == (40, 120)
        for n, appended in landed.items():
            own = events[appended.first_version - 1 : appended.version]
            assert [recorded.data.amount for recorded in own] == [n, n, n]
            assert tuple(recorded.event_id for recorded in own) == appended.event_ids
            assert own[-1].position == appended.position

    async def test_racers_on_many_streams_do_not_mix(self, store: Store) -> None:
        """Each position is somebody's; each caller gets its own outcome, be it a conflict."""
        start, streams = await store.head(), [new_stream() for _ in range(20)]

        outcomes = await gathered(
            *(store.append(stream, Deposited(amount=n)) for n, stream in enumerate(streams)),
            *(store.append(new_stream(), Deposited(amount=99), expect=EXISTS) for _ in range(5)),
        )

        events = await collect(store.read_all(after=start))
        assert sum(isinstance(outcome, VersionConflict) for outcome in outcomes[20:]) == 5
        assert {recorded.stream_id: recorded.data.amount for recorded in events} == {s: n for n, s in enumerate(streams)}
        for stream, outcome in zip(streams, outcomes[:20], strict=True):
            assert isinstance(outcome, Appended)
            (recorded,) = [found for found in events if found.position == outcome.position]
            assert (recorded.stream_id, recorded.event_id) == (stream, outcome.event_ids[0])

    async def test_a_cancelled_append_is_there_or_not(self, store: Store) -> None:
        """Whenever it is cancelled: all of its events or none, its neighbours land, and the store goes on."""
        stream, quiet = new_stream(), new_stream()
        unheard = 0

        for turns in range(30):
            task = asyncio.create_task(store.append(stream, [Deposited(amount=turns)] * 3))
            neighbour = asyncio.create_task(store.append(quiet, Deposited(amount=turns)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await gathered(task)
            unheard += not isinstance(outcome, Appended)
            await within(neighbour)
        last = await within(store.append(stream, Deposited(amount=100)))

        stored = await amounts(store, stream)  # one that was sent in a thread may land even now
        runs = {amount: len(list(run)) for amount, run in itertools.groupby(stored)}
        assert unheard > 0
        assert stored[last.version - 1] == 100
        assert sum(runs.values()) == len(stored), "somebody's events were cut in two"
        assert all(length == (1 if amount == 100 else 3) for amount, length in runs.items())
        assert await amounts(store, quiet) == list(range(30))


class CallOrderContract:
    """What a store promises that sends appends of one stream one after the other: the order of the calls is kept."""

    async def test_appends_to_a_stream_keep_the_order_of_their_calls(self, store: Store) -> None:
        """Tasks that one caller creates one after the other, without waiting for any."""
        stream = new_stream()

        outcomes = await gathered(*(store.append(stream, Deposited(amount=n)) for n in range(60)))

        assert [outcome.version for outcome in outcomes if isinstance(outcome, Appended)] == list(range(1, 61))
        assert await amounts(store, stream) == list(range(60))

    async def test_a_chain_of_exact_versions_can_be_sent_at_once(self, store: Store) -> None:
        """Each expects what the one before it will have made."""
        stream = new_stream()

        outcomes = await gathered(*(store.append(stream, Deposited(amount=n), expect=n) for n in range(30)))

        assert [outcome for outcome in outcomes if not isinstance(outcome, Appended)] == []
        assert await amounts(store, stream) == list(range(30))
