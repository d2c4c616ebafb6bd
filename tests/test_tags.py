"""Tags: where they come from, and what is refused."""

import dataclasses
import enum
import uuid
from datetime import date
from typing import Annotated, Optional

import pytest
from pydantic import BaseModel

from eventstore import Boundary, Event, EventType, NewEvent, Query, Recorded, Tag, errors
from eventstore.testing import MemoryStore


class Colour(enum.Enum):
    RED = "red"
    SEVEN = 7


class Several(Event):
    name: Annotated[str, Tag("name")]
    number: Annotated[int, Tag("number")] = 7
    key: Annotated[uuid.UUID, Tag("key")] = uuid.UUID(int=1)
    colour: Annotated[Colour, Tag("colour"), Tag("paint")] = Colour.RED
    maybe: Annotated[str, Tag("maybe")] | None = None
    old_maybe: Optional[Annotated[str, Tag("old")]] = None  # noqa: UP045 - as older code has it
    many: list[Annotated[int, Tag("many")]] = []
    also: Annotated[tuple[str, ...], Tag("also")] = ()
    plain: str = "x"


@dataclasses.dataclass(frozen=True)
class InADataclass:
    course: Annotated[int, Tag("course")]
    other: str = ""


class InAModel(BaseModel):
    course: Annotated[int, Tag("course")]


async def tags_of(event):
    async with MemoryStore(events=[type(getattr(event, "event", event))]) as store:
        await store.append("a-1", event)
        (tags,) = [recorded.tags async for recorded in store.read_stream("a-1")]
        return tags


async def test_a_class_declares_tags_by_its_fields():
    """Also in optional fields, in containers and twice; each tag once, in the order of the fields."""
    assert await tags_of(Several(name="x:y", colour=Colour.SEVEN)) == (
        "name:x:y",
        "number:7",
        f"key:{uuid.UUID(int=1)}",
        "colour:7",
        "paint:7",
    )
    given = Several(name="n", number=1, maybe="m", old_maybe="o", many=[3, 3, 4], also=("a", "b"))
    assert await tags_of(given) == (
        "name:n",
        "number:1",
        f"key:{uuid.UUID(int=1)}",
        "colour:red",
        "paint:red",
        "maybe:m",
        "old:o",
        "many:3",
        "many:4",
        "also:a",
        "also:b",
    )


@pytest.mark.parametrize("cls", [InADataclass, InAModel])
async def test_any_registered_class_may_declare_them(cls):
    """Dataclasses and pydantic models."""
    assert await tags_of(NewEvent(cls(course=5), tags=["more", "course:5"])) == ("course:5", "more")


async def test_a_tag_on_a_value_that_is_none_is_refused_when_it_is_used():
    """Defining such a class does not fail."""

    class OfADate(Event):
        day: Annotated[date, Tag("day")]

    class OfABool(Event):
        flag: Annotated[bool, Tag("flag")]

    class Nameless(Event):
        day: Annotated[str, Tag("")]

    class WithAColon(Event):
        day: Annotated[str, Tag("a:b")]

    with pytest.raises(errors.InvalidArgument, match="'day' needs a str, an int, a UUID or an Enum"):
        await tags_of(OfADate(day=date(2026, 1, 1)))
    with pytest.raises(errors.InvalidArgument, match="'flag' needs"):
        await tags_of(OfABool(flag=True))
    with pytest.raises(errors.InvalidEvent, match="without a colon"):
        await tags_of(Nameless(day="x"))
    with pytest.raises(errors.InvalidEvent, match="without a colon"):
        await tags_of(WithAColon(day="x"))
    with pytest.raises(errors.InvalidArgument, match="a tag must not hold control characters"):
        await tags_of(Several(name="x\x01"))
    with pytest.raises(errors.InvalidArgument, match="at most 255 bytes"):
        await tags_of(Several(name="x" * 255))


def test_a_tag_is_written_by_its_name_and_value():
    """The same way for questions as for events."""
    assert Tag("course").of(7) == "course:7"
    assert Tag("course").of(Colour.RED) == "course:red"
    for bad in (None, 1.5, True, [1]):
        with pytest.raises(errors.InvalidArgument, match="course"):
            Tag("course").of(bad)


def test_queries_are_values():
    """Equal if they ask the same; the same item twice is one; printed as they are written."""
    first, second = Query(tags=["a", "b"], types=["T"]), Query(tags=["c"])

    assert first | second == Query(tags=["a", "b", "a"], types=["T"]) | second | first
    assert len({first | second, first | second, second | first}) == 2
    assert repr(first | second) == "Query(tags=['a', 'b'], types=['T']) | Query(tags=['c'])"
    with pytest.raises(TypeError):
        first | "c"
    for bad in ("T", []):
        with pytest.raises(errors.InvalidArgument, match="types"):
            Query(tags=["a"], types=bad)


async def test_what_is_no_query_is_refused():
    """And a class that the store does not know."""
    async with MemoryStore(events=[EventType(InAModel)]) as store:
        with pytest.raises(errors.InvalidArgument, match="expected a Query"):
            await Boundary(store).read(["course:1"])
        with pytest.raises(errors.UnknownEventType):
            await Boundary(store).read(Query(tags=["a"], types=[InADataclass]))
        for bad in (-1, 1.5, True):
            with pytest.raises(errors.InvalidArgument, match="retries"):
                await Boundary(store).decide(Query(tags=["a"]), lambda _: None, retries=bad)
        with pytest.raises(errors.InvalidArgument, match="the events for each stream"):
            await Boundary(store).decide(Query(tags=["a"]), lambda _: [InAModel(course=1)])


def test_tags_of_a_recorded_event_made_by_hand():
    """For tests of code that takes one."""
    recorded = Recorded(data=InAModel(course=1), stream_id="a-1", tags=["course:1", "x"])

    assert recorded.tags == ("course:1", "x")
    assert Recorded(data=InAModel(course=1), stream_id="a-1").tags == ()
    assert (recorded.correlation_id, recorded.tenant_id, dict(recorded.metadata)) == (None, "", {})
