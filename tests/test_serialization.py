"""Typed events to JSON and back."""

import enum
import math
import pickle
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, Field, SecretStr, field_serializer

from eventstore import errors
from eventstore.events import Event, UnknownEvent
from eventstore.serialization import EventType, Registry
from eventstore.serialization.json import encode_json, parse_exact_json


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Money(BaseModel):
    amount: Decimal
    currency: str = "EUR"


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"


class Card(BaseModel):
    kind: Literal["card"] = "card"
    digits: str


class Everything(Event):
    text: str
    number: int
    ratio: float
    exact: Decimal
    when: datetime
    day: date
    span: timedelta
    id: UUID
    colour: Colour
    price: Money
    paid: Annotated[Cash | Card, Field(discriminator="kind")]
    names: frozenset[str]
    pairs: dict[str, tuple[int, str]]
    maybe: int | str | None = None


class Plain(BaseModel):
    ratio: float | None


class Wraps(Event):
    plain: Plain


class Note(Event, type="note"):
    text: str
    any: Any = None


_text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
_everything = st.builds(
    Everything,
    text=_text,
    number=st.integers(),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    exact=st.decimals(allow_nan=False, allow_infinity=False),
    when=st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])),
    day=st.dates(),
    span=st.timedeltas(timedelta(days=-9999), timedelta(days=9999)),
    id=st.uuids(),
    colour=st.sampled_from(Colour),
    price=st.builds(Money, amount=st.decimals(allow_nan=False, allow_infinity=False)),
    paid=st.builds(Cash) | st.builds(Card, digits=_text),
    names=st.frozensets(_text, max_size=3),
    pairs=st.dictionaries(_text, st.tuples(st.integers(), _text), max_size=3),
    maybe=st.none() | st.integers() | _text,
)


def round_trip(registry, event):
    encoded = registry.encode(event)
    return registry.decode("s-1", 1, 1, encoded.type, encoded.schema_version, encoded.data)


@given(_everything)
def test_every_field_type_comes_back_equal(event):
    """Decimal, datetime, UUID, enum, nested, union, set, tuple: what went in comes out."""
    registry = Registry([Everything], verify="always")

    assert round_trip(registry, event) == event


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(value):
    """JSON has no NaN: refused in an Event, in a nested plain model that would write null, and in an Any field."""
    registry = Registry([Everything, Wraps, Note])
    round_trip(registry, Wraps(plain=Plain(ratio=1.5)))

    for event in (Wraps(plain=Plain(ratio=value)), Note(text="x", any={"deep": [value]})):
        with pytest.raises(errors.InvalidEvent):
            registry.encode(event)


def test_the_word_nan_in_a_text_is_no_nan():
    """Only the number is refused."""
    event = Note(text="NaN and Infinity")

    assert round_trip(Registry([Note]), event) == event


@pytest.mark.parametrize("text", ["a\0b", "\0", "\\\0"])
def test_nul_characters_are_refused(text):
    """PostgreSQL's jsonb cannot hold them."""
    with pytest.raises(errors.InvalidEvent, match="NUL"):
        Registry([Note]).encode(Note(text=text))


def test_an_escaped_backslash_before_u0000_is_no_nul():
    """The text backslash-u0000 is six ordinary characters."""
    event = Note(text="\\u0000 and \\\\u0000")

    assert round_trip(Registry([Note]), event) == event


def test_lone_surrogates_are_refused():
    """They have no UTF-8."""
    with pytest.raises(errors.InvalidEvent, match="surrogate"):
        Registry([Note]).encode(Note.model_construct(text="\ud800", any=None))


def test_a_secret_field_is_refused_when_the_type_is_used():
    """A SecretStr would be written as asterisks."""

    class Login(Event):
        password: SecretStr

    with pytest.raises(errors.InvalidEvent, match="SecretStr"):
        Registry([Login]).encode(Login(password="x"))


def test_an_excluded_field_is_refused():
    """A field that is not written cannot come back."""

    class Partial(Event):
        kept: int
        dropped: int = Field(exclude=True)

    with pytest.raises(errors.InvalidEvent, match="dropped"):
        Registry([Partial]).encode(Partial(kept=1, dropped=2))


def test_a_subclass_in_a_container_that_would_lose_fields_is_refused():
    """list[Item] writes only the fields of Item, also for a SpecialItem."""

    class Item(BaseModel):
        name: str

    class SpecialItem(Item):
        extra: int

    class Basket(Event):
        items: list[Item]

    class FullBasket(Event):
        items: list[SpecialItem | Item]

    with pytest.raises(errors.InvalidEvent, match="SpecialItem"):
        Registry([Basket]).encode(Basket(items=[SpecialItem(name="a", extra=1)]))
    event = FullBasket(items=[SpecialItem(name="a", extra=1), Item(name="b")])
    assert round_trip(Registry([FullBasket]), event) == event


def test_a_lossy_serializer_is_caught_by_the_first_event():
    """The first event of a type is decoded and compared."""

    class Rounded(Event):
        value: float

        @field_serializer("value")
        def _round(self, value: float) -> float:
            return round(value)

    with pytest.raises(errors.InvalidEvent, match="value"):
        Registry([Rounded]).encode(Rounded(value=1.5))


def test_an_invalid_instance_is_refused():
    """model_construct skips validation; the append does not."""
    with pytest.raises(errors.InvalidEvent):
        Registry([Everything]).encode(Everything.model_construct(text=7))


def test_old_field_names_are_read_by_alias():
    """A field renamed in code still reads documents with its old name."""

    class Renamed(Event):
        owner: str = Field(validation_alias=AliasChoices("holder", "owner"))

    registry = Registry([Renamed])

    assert registry.decode("s", 1, 1, "Renamed", 1, '{"holder":"Ada"}').owner == "Ada"
    assert registry.encode(Renamed(holder="Ada")).data == '{"owner":"Ada"}'


def test_a_dataclass_can_be_registered_under_a_name():
    """Any pydantic model or dataclass will do."""

    @dataclass(frozen=True)
    class Moved:
        x: int
        tags: tuple[str, ...] = ()

    registry = Registry([EventType(Moved, "robot_moved", 3)])
    encoded = registry.encode(Moved(1, ("a",)))

    assert encoded == ("robot_moved", 3, '{"x":1,"tags":["a"]}')
    assert registry.decode("s", 1, 1, "robot_moved", 3, encoded.data) == Moved(1, ("a",))


def test_two_classes_under_one_name_are_ambiguous_only_on_use():
    """Defining never raises; using the name does, and names both."""

    class One(Event, type="same"):
        pass

    class Two(Event, type="same"):
        pass

    registry = Registry([One, Two, Note])

    assert registry.encode(Note(text="fine")).type == "note"
    with pytest.raises(errors.AmbiguousEventType, match=r"One and .*Two"):
        registry.encode(One())
    with pytest.raises(errors.AmbiguousEventType):
        registry.decode("s", 1, 1, "same", 1, "{}")


def test_a_class_defined_again_replaces_its_older_self():
    """A reload in a notebook is no ambiguity; an instance of the old class is refused with the cure."""

    def define(default):
        class Reloaded(Event):
            value: int = default

        return Reloaded

    old, registry = define(1), Registry()
    assert registry.encode(old()).data == '{"value":1}'
    new = define(2)

    assert registry.encode(new()).data == '{"value":2}'
    with pytest.raises(errors.UnknownEventType, match="again"):
        registry.encode(old())


def test_an_unknown_type_is_kept_or_refused_by_choice():
    """What is kept can be appended again without a changed digit."""
    document = '{"n": 0.12345678901234567890123}'

    kept = Registry([Note]).decode("s", 1, 1, "other", 2, document)

    assert isinstance(kept, UnknownEvent)
    assert Registry([Note]).encode(kept) == ("other", 2, document)
    with pytest.raises(errors.UnknownEventType, match="other"):
        Registry([Note], unknown="error").decode("s", 1, 1, "other", 2, document)


def test_a_document_that_does_not_validate_names_where_it_is():
    """Stream, version, position and field."""
    with pytest.raises(errors.EventCorrupt) as caught:
        Registry([Wraps]).decode("w-7", 3, 99, "Wraps", 1, '{"plain":{"ratio":"x"}}')

    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.stream_id, error.version, error.position, error.field) == ("w-7", 3, 99, "plain.ratio")


def test_a_class_that_is_not_registered_is_refused_with_the_cure():
    """The message says how to register it."""
    with pytest.raises(errors.UnknownEventType, match=r"events=\[\.\.\.\]"):
        Registry([Note]).encode(Money(amount=1))


def test_untyped_json_is_checked_too():
    """Metadata and imported documents follow the same rules."""
    assert encode_json({"a": "ü", "big": 2**70}, "x") == '{"a":"ü","big":1180591620717411303424}'
    for bad in ({"a": uuid4()}, {"a": math.nan}, {"a": "\0"}, {"a": "\ud800"}):
        with pytest.raises(errors.InvalidEvent):
            encode_json(bad, "metadata")
    assert parse_exact_json('{"a": 1.10, "b": 1e22}') == {"a": 1.1, "b": 1e22}
    for text in ('{"a": 0.12345678901234567890}', '{"a":1,"a":2}', "NaN", "1e999"):
        with pytest.raises(ValueError, match=r"digits|twice|not JSON"):
            parse_exact_json(text)
