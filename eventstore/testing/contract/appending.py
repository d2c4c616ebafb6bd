"""What an append must do, and what it must refuse."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from ...errors import Invalid, InvalidArgument, InvalidEvent, UnknownEventType, VersionConflict
from ...events import NewEvent, UnknownEvent
from ...streams import ANY, EXISTS, NO_STREAM
from .kit import Deposited, Everything, Noted, Opened, Store, Unregistered, amounts, collect, new_stream, refused

__all__ = ["AppendContract"]

MIB = 2**20

ODD_NAMES = ("a b", "it's", '"quoted"', "emoji-😀", "ü-ß-語", "x" * 200, "back\\slash", "a;drop table events", "$1", "%s")
IMPOSSIBLE_NAMES: tuple[Any, ...] = ("", "x" * 256, "ü" * 128, "a\0b", "a\nb", "\ud800", 7, None, b"a")
ODD_EXPECTATIONS: tuple[Any, ...] = (True, False, -1, 1.0, "1", None, 2**63)


class AppendContract:
    """Appends to single streams. Needs a fixture `store`: open, and knowing `EVENTS`."""

    async def test_an_append_says_what_it_did(self, store: Store) -> None:
        """First and last version, the last event's position, the ids in order; it was no repetition."""
        stream, given = new_stream(), uuid.uuid4()

        one = await store.append(stream, Opened(owner="Ada"))
        many = await store.append(stream, [Deposited(amount=1), NewEvent(Deposited(amount=2), event_id=given)])

        events = await collect(store.read_stream(stream))
        assert (one.first_version, one.version, one.deduplicated) == (1, 1, False)
        assert (many.first_version, many.version, many.deduplicated) == (2, 3, False)
        assert (one.position, many.position) == (events[0].position, events[2].position)
        assert [*one.event_ids, *many.event_ids] == [recorded.event_id for recorded in events]
        assert many.event_ids[1] == given
        assert len(set(one.event_ids + many.event_ids)) == 3

    async def test_one_event_a_new_event_and_sequences_are_taken(self, store: Store) -> None:
        """A list, a tuple, a generator."""
        stream = new_stream()

        await store.append(stream, Deposited(amount=1))
        await store.append(stream, NewEvent(Deposited(amount=2)))
        await store.append(stream, (Deposited(amount=3), NewEvent(Deposited(amount=4))))
        await store.append(stream, (Deposited(amount=n) for n in (5, 6)))

        assert await amounts(store, stream) == [1, 2, 3, 4, 5, 6]

    async def test_typed_events_come_back_equal(self, store: Store) -> None:
        """Every kind of value, of the same class."""
        stream = new_stream()
        event = Everything(
            text='ü 😀 \\u0000 "quoted" \t',
            number=-(2**80),
            ratio=0.1 + 0.2,
            price=Decimal("10.10"),
            at=datetime(2020, 2, 29, 12, 0, 0, 123456, tzinfo=UTC),
            name=uuid.uuid4(),
            raw=b"bytes",
            flag=True,
            nothing=None,
            notes={"b": [2, 1], "a": [], "": [0]},
            inner=Deposited(amount=7),
        )

        await store.append(stream, event)

        (recorded,) = await collect(store.read_stream(stream))
        assert recorded.data == event
        assert type(recorded.data) is Everything
        assert (recorded.stream_id, recorded.type, recorded.schema_version) == (stream, "contract_everything", 1)

    async def test_what_goes_beside_an_event_comes_back(self, store: Store) -> None:
        """Id, metadata, correlation, causation, and when it was true; what is not given is empty."""
        stream, cause, given = new_stream(), uuid.uuid4(), uuid.uuid4()
        when = datetime(2020, 2, 29, 12, tzinfo=timezone(timedelta(hours=2)))
        new = NewEvent(
            Deposited(amount=1),
            event_id=given,
            metadata={"ip": "::1", "n": [1, {"a": None}]},
            occurred_at=when,
            correlation_id="request 7",
            causation_id=cause,
        )

        await store.append(stream, [new, Deposited(amount=2)])

        full, bare = await collect(store.read_stream(stream))
        assert (full.event_id, full.correlation_id, full.causation_id) == (given, "request 7", cause)
        assert (dict(full.metadata), full.occurred_at) == ({"ip": "::1", "n": [1, {"a": None}]}, when)
        assert (bare.correlation_id, bare.causation_id, dict(bare.metadata)) == (None, None, {})
        assert bare.occurred_at == bare.recorded_at
        assert bare.recorded_at.utcoffset() == timedelta(0)

    async def test_the_context_is_written_beside_every_event(self, store: Store) -> None:
        """Inner contexts add to outer ones, a `NewEvent`'s own words win, and nothing is left behind."""
        stream, cause = new_stream(), uuid.uuid4()

        with store.context(correlation_id="request 7", actor="ada", region="eu"):
            await store.append(stream, Deposited(amount=1))
            with store.context(causation_id=cause, actor="bob"):
                own = NewEvent(Deposited(amount=2), metadata={"region": "us"}, correlation_id="other")
                await store.append(stream, own)
        await store.append(stream, Deposited(amount=3))

        first, second, third = await collect(store.read_stream(stream))
        assert (first.correlation_id, first.causation_id) == ("request 7", None)
        assert dict(first.metadata) == {"actor": "ada", "region": "eu"}
        assert (second.correlation_id, second.causation_id) == ("other", cause)
        assert dict(second.metadata) == {"actor": "bob", "region": "us"}
        assert (third.correlation_id, dict(third.metadata)) == (None, {})

    async def test_an_unknown_type_is_kept_and_can_be_copied(self, store: Store) -> None:
        """What another team wrote: type, version and document as they are."""
        stream, copy = new_stream(), new_stream()
        unknown = UnknownEvent("contract_elsewhere", {"big": 2**70, "text": "ü", "list": [None, True]}, 3)

        await store.append(stream, unknown)
        (recorded,) = await collect(store.read_stream(stream))
        await store.append(copy, recorded.data)

        (copied,) = await collect(store.read_stream(copy))
        assert recorded.data == copied.data == unknown
        assert (copied.type, copied.schema_version) == ("contract_elsewhere", 3)

    async def test_expectations_hold_by_equality(self, store: Store) -> None:
        """Each of the four, met: a version, no stream, exists, any."""
        stream = new_stream()

        await store.append(stream, Deposited(amount=1), expect=NO_STREAM)
        await store.append(stream, [Deposited(amount=2), Deposited(amount=3)], expect=1)
        await store.append(stream, Deposited(amount=4), expect=EXISTS)
        await store.append(stream, Deposited(amount=5), expect=ANY)
        await store.append(stream, Deposited(amount=6), expect=5)

        assert await amounts(store, stream) == [1, 2, 3, 4, 5, 6]

    async def test_an_expectation_that_fails_writes_nothing(self, store: Store) -> None:
        """Too low, too high, no stream where there is one, exists where there is none: each names what was found."""
        stream, empty = new_stream(), new_stream()
        await store.append(stream, [Deposited(amount=1), Deposited(amount=2)])

        for name, expect, actual in (
            (stream, 1, 2),
            (stream, 3, 2),
            (stream, 2**62, 2),
            (stream, NO_STREAM, 2),
            (empty, 1, 0),
            (empty, EXISTS, 0),
        ):
            with refused(VersionConflict, repr(name)) as refusal:
                await store.append(name, Deposited(amount=9), expect=expect)
            error = refusal.error
            expected = "EXISTS" if expect is EXISTS else expect
            assert (error.stream_id, error.expected, error.actual) == (name, expected, actual)

        assert await amounts(store, stream) == [1, 2]
        assert await store.stream_version(empty) == 0

    async def test_versions_are_dense_and_positions_grow(self, store: Store) -> None:
        """Across streams, and whatever was refused in between."""
        streams = [new_stream(), new_stream()]
        done = []
        for n in range(6):
            done.append(await store.append(streams[n % 2], [Deposited(amount=n)] * (n + 1)))
            with refused(VersionConflict):
                await store.append(streams[0], Deposited(amount=99), expect=77)

        positions = [appended.position for appended in done]
        assert positions == sorted(set(positions))
        assert [appended.version for appended in done] == [1, 2, 4, 6, 9, 12]
        for stream in streams:
            events = await collect(store.read_stream(stream))
            assert [recorded.version for recorded in events] == list(range(1, len(events) + 1))
            assert [recorded.position for recorded in events] == sorted({recorded.position for recorded in events})

    async def test_one_bad_event_of_several_writes_nothing(self, store: Store) -> None:
        """All of the events or none."""
        stream = new_stream()

        with refused(InvalidEvent):
            await store.append(stream, [Noted(text="fine"), Noted(text="nul \0")])

        assert await store.stream_version(stream) == 0

    async def test_odd_stream_ids_are_kept_to_the_letter(self, store: Store) -> None:
        """Spaces, quotes, emoji, SQL, and 255 bytes; one is not another."""
        mark = uuid.uuid4().hex[:20]
        names = [f"{name}-{mark}" for name in ODD_NAMES] + ["y" * (255 - len(mark)) + mark, f"a b-{mark} "]

        for name in names:
            await store.append(name, Noted(text=name), expect=NO_STREAM)

        for name in names:
            (recorded,) = await collect(store.read_stream(name))
            assert (recorded.stream_id, recorded.data.text) == (name, name)

    async def test_impossible_stream_ids_are_refused(self, store: Store) -> None:
        """By everything that takes one, with what was expected."""
        for name in IMPOSSIBLE_NAMES:
            with refused(InvalidArgument, "stream id"):
                await store.append(name, Deposited(amount=1))
            with refused(InvalidArgument, "stream id"):
                await store.stream_version(name)
            with refused(InvalidArgument, "stream id"):
                await collect(store.read_stream(name))

    async def test_odd_expectations_are_refused(self, store: Store) -> None:
        """Bools above all: True is 1 in Python."""
        stream = new_stream()

        for expect in ODD_EXPECTATIONS:
            with refused(InvalidArgument, "expect"):
                await store.append(stream, Deposited(amount=1), expect=expect)

        assert await store.stream_version(stream) == 0

    async def test_odd_new_events_are_refused(self, store: Store) -> None:
        """A naive time, a time before year 1, an id that is none, metadata that is no JSON, an empty correlation id."""
        stream = new_stream()
        event: Any = Deposited(amount=1)
        odd: Any = "no uuid"

        for new in (
            NewEvent(event, occurred_at=datetime(2020, 1, 1)),  # noqa: DTZ001 - that is what is refused
            NewEvent(event, occurred_at=datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))),
            NewEvent(event, occurred_at=odd),
            NewEvent(event, event_id=odd),
            NewEvent(event, causation_id=odd),
            NewEvent(event, metadata={"a": {1, 2}}),
            NewEvent(event, metadata=odd),
            NewEvent(event, correlation_id=""),
            NewEvent(event, correlation_id="a\nb"),
        ):
            with refused(Invalid):
                await store.append(stream, new)

        assert await store.stream_version(stream) == 0

    async def test_what_is_no_event_is_refused(self, store: Store) -> None:
        """Nothing at all, None, text, a class that nobody has registered."""
        stream = new_stream()

        with refused(InvalidArgument, "1 to"):
            await store.append(stream, [])
        for odd in (None, "text", 7, {"amount": 1}, Unregistered(), [Unregistered()], Deposited):
            with refused(UnknownEventType):
                await store.append(stream, odd)

        assert await store.stream_version(stream) == 0

    async def test_what_would_not_come_back_is_refused(self, store: Store) -> None:
        """NUL characters, NaN, infinities, lone surrogates, unwritable documents."""
        stream = new_stream()
        everything = Everything.model_construct
        common: dict[str, Any] = {
            "number": 1,
            "price": Decimal(1),
            "at": datetime.now(UTC),
            "name": uuid.uuid4(),
            "raw": b"",
            "flag": True,
        }
        common |= {"nothing": None, "notes": {}, "inner": Deposited(amount=1), "text": ""}

        for odd in (
            Noted(text="nul \0"),
            Noted(text="\ud800"),
            everything(**common, ratio=float("nan")),
            everything(**common, ratio=float("inf")),
            UnknownEvent("contract_elsewhere", {"a": float("nan")}),
            UnknownEvent("contract_elsewhere", {"a": {1, 2}}),
        ):
            with refused(InvalidEvent):
                await store.append(stream, odd)

        assert await store.stream_version(stream) == 0

    async def test_sizes_are_limited(self, store: Store) -> None:
        """The default limits: 1 MiB an event in bytes of UTF-8, 10,000 events and 64 MiB an append."""
        stream = new_stream()
        fits = Noted(text="é" * ((MIB - len('{"text":""}') - 2) // 2))

        await store.append(stream, fits)
        with refused(InvalidEvent, "1048576"):
            await store.append(stream, Noted(text=fits.text + "éé"))
        with refused(InvalidEvent, "1048576"):
            await store.append(stream, NewEvent(Noted(text="x" * (MIB - 100)), metadata={"more": "x" * 100}))
        with refused(InvalidArgument, "1 to 10000 events"):
            await store.append(stream, [Deposited(amount=1)] * 10_001)
        with refused(InvalidArgument, "67108864 bytes"):
            await store.append(stream, [Noted(text="x" * (MIB - 20))] * 65)

        (recorded,) = await collect(store.read_stream(stream))
        assert recorded.data == fits
