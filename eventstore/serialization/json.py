"""One codec for each event class: JSON text out, validated instances in.

What must hold: an event comes back equal, or it is refused before anything is sent. Four things would break that
silently and are caught here:

- NaN and infinities: `Event` writes them as bare constants, found by a search of the bytes. Models that are not
  `Event`s would write null; where one with a float is reachable, a document with a null in it is decoded and compared.
- NUL characters, which PostgreSQL's jsonb cannot hold: found by a search for their escape.
- Fields that are not written: secrets, excluded fields, fields that only a subclass of a nested model has. Refused
  when the type is registered.
- Whatever else a custom serializer loses: the first event of each type is decoded and compared (every one with
  ``verify="always"``).

Floats travel as jsonb numbers: every finite float comes back equal (the sign of -0.0 is lost, which compares equal).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic.types import Secret
from pydantic_core import PydanticSerializationError

from ..errors import InvalidEvent
from ..streams import check_name
from ..tags import tagger_of

__all__ = [
    "EXACT_JSON",
    "EncodedEvent",
    "EventType",
    "encode_json",
    "exact_float",
    "no_constant",
    "parse_exact_json",
]

_SECRETS: Final = (SecretStr, SecretBytes, Secret)
EXACT_CHARACTERS: Final = 16
"""A number of at most 15 digits and a point comes back from a double to the digit (IEEE 754: DBL_DIG is 15)."""

_ALIASES: Final = {"validation_alias", "alias"}
_NUL_ESCAPE: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class EncodedEvent(NamedTuple):
    """An event as the log takes it: type name, schema version, JSON text."""

    type: str
    schema_version: int
    data: str


@dataclass(frozen=True, slots=True)
class EventType:
    """A class registered under a type name: for classes that are not `Event`s, or under another name.

    Attributes:
        cls: a pydantic model or a dataclass.
        name: the stored type name; default: the class's own.
        schema_version: 1 to 32,767.
    """

    cls: type
    name: str = ""
    schema_version: int = 0

    def __post_init__(self) -> None:
        """Fill in the class's own name and version."""
        object.__setattr__(self, "name", self.name or getattr(self.cls, "event_type", self.cls.__name__))
        version = self.schema_version or getattr(self.cls, "event_schema_version", 1)
        object.__setattr__(self, "schema_version", version)

    def check(self) -> None:
        """Check name and version.

        Raises:
            InvalidArgument, InvalidEvent: the name is no type name, the version out of its range.
        """
        check_name(self.name, "an event type")
        version: object = self.schema_version
        if isinstance(version, bool) or not isinstance(version, int) or not 0 < version < 2**15:
            raise InvalidEvent(f"schema_version of {self.name!r} must be an int from 1 to 32767, got {version!r}")


class Codec:
    """Encodes and decodes one registered type. Building one checks that the class can round-trip.

    Attributes:
        type: what it is for.
        tagger: gives the tags that the class declares; None: it declares none.
        decode: returns the event that a document holds, or raises pydantic's ValidationError. Reading calls it for
            every event, so it is the validator itself.

    Raises:
        InvalidEvent: the class has a field that would be lost, or is neither a pydantic model nor a dataclass.
    """

    def __init__(self, type_: EventType, *, verify_always: bool) -> None:
        type_.check()
        self.type = type_
        self._name, self._schema_version = type_.name, type_.schema_version
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(type_.cls)  # the class is the user's
            adapter.rebuild(raise_errors=True)
        except Exception as error:
            raise InvalidEvent(
                f"{type_.cls.__qualname__} cannot be an event: expected a pydantic model or a dataclass whose field "
                f"types pydantic understands ({error})"
            ) from error
        self._to_json = adapter.serializer.to_json
        validate = adapter.validator.validate_json
        aliases = any(_ALIASES & node.keys() for node, _ in _walk(adapter.core_schema, keeps_nan=False, seen=set()))
        # Names are what is written, aliases what older code may have written. Saying so costs a tenth of decoding.
        self.decode: Callable[[str], Any] = partial(validate, by_alias=True, by_name=True) if aliases else validate
        self.tagger = tagger_of(type_.cls)
        self._verify_always = verify_always
        self._verified = False
        self._hides_nan = _check_schema(type_, adapter.core_schema)

    def encode(self, event: object) -> EncodedEvent:
        """Return `event` as JSON text.

        Raises:
            InvalidEvent: it cannot be stored so that it comes back equal; the message names why.
        """
        try:
            raw = self._to_json(event, round_trip=True, by_alias=False, warnings="error")
        except (PydanticSerializationError, ValueError, RecursionError) as error:
            raise InvalidEvent(f"event {self.type.name!r} cannot be written as JSON: {error}") from error
        if b"\\u0000" in raw or b"NaN" in raw or b"Infinity" in raw:
            _refuse_unstorable(raw, self.type.name)
        if not self._verified or self._verify_always or (self._hides_nan and b"null" in raw):
            self._verify(event, raw)
        return EncodedEvent(self._name, self._schema_version, raw.decode())

    def _verify(self, event: object, raw: bytes) -> None:
        try:
            again = self.decode(raw.decode())
        except ValidationError as error:
            why = f"{_path(error)}: {error.errors()[0]['msg']}"
        else:
            if again == event:
                self._verified = True
                return
            why = ", ".join(_differences(event, again)) or "the two do not compare equal"
        raise InvalidEvent(
            f"event {self.type.name!r} would not come back as it is ({why}); check custom serializers, NaN, and "
            "instances of subclasses in fields declared with their base class"
        )


def _path(error: ValidationError) -> str:
    return ".".join(str(part) for part in error.errors()[0]["loc"])


def _differences(event: object, again: object) -> Iterator[str]:
    for name, value in getattr(event, "__dict__", {}).items():
        if (other := getattr(again, name, None)) != value:
            yield f"field {name!r}: {value!r:.60} became {other!r:.60}"


def _refuse_unstorable(raw: bytes, type_name: str) -> None:
    """Refuse what PostgreSQL's jsonb cannot hold: NUL characters, NaN, infinities."""
    if b"\\u0000" in raw and _NUL_ESCAPE.search(raw):
        raise InvalidEvent(
            f"event {type_name!r} holds a NUL character, which PostgreSQL cannot store; remove it or encode the text"
        )
    if b"NaN" in raw or b"Infinity" in raw:

        def refuse(constant: str) -> None:
            raise InvalidEvent(
                f"event {type_name!r} holds {constant}, which JSON cannot carry; use None, a Decimal or a string"
            )

        json.loads(raw, parse_constant=refuse)


def encode_json(value: object, what: str) -> str:
    """Return `value` as JSON text that PostgreSQL can store exactly.

    Raises:
        InvalidEvent: not JSON (a set, a datetime), NaN, a NUL character, a lone surrogate.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        raw = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"{what} must be plain JSON: {error}") from error
    _refuse_unstorable(raw, what)
    return text


def exact_float(text: str) -> float:
    """Return the float that a JSON number says.

    Raises:
        ValueError: it has more digits than a float keeps.
    """
    value = float(text)
    if len(text) <= EXACT_CHARACTERS and "e" not in text and "E" not in text:
        return value
    if value in (float("inf"), float("-inf")) or Decimal(repr(value)) != Decimal(text):
        raise ValueError(f"the number {text} has more digits than a float keeps; write it as a string")
    return value


def no_constant(text: str) -> None:
    """Refuse NaN and infinities, which Python's parser takes.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{text} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice in one object")
    return document


EXACT_JSON: Final = json.JSONDecoder(parse_float=exact_float, parse_constant=no_constant, object_pairs_hook=_unique_keys)
"""Parses JSON, refusing numbers with more digits than a float keeps, and keys that stand twice."""


def parse_exact_json(text: str) -> Any:
    """Parse JSON, refusing numbers with more digits than a float keeps, and keys that stand twice.

    Raises:
        ValueError: not JSON, or not exactly representable.
    """
    if text.startswith("\ufeff"):
        raise ValueError("the text begins with a byte order mark, which JSON has not")
    return EXACT_JSON.decode(text)


def _check_schema(type_: EventType, schema: Any) -> bool:
    """Refuse fields that would be lost; return whether a float outside of any `Event` could hide a NaN as null."""
    nested: set[type] = set()
    hides_nan = False
    for node, keeps_nan in _walk(schema, keeps_nan=False, seen=set()):
        kind = node.get("type")
        cls = node.get("cls")
        if kind in ("float", "any") and not keeps_nan:
            hides_nan = True
        elif kind in ("model", "dataclass") and isinstance(cls, type) and cls is not type_.cls:
            nested.add(cls)
        elif kind == "is-instance" and isinstance(cls, type) and issubclass(cls, _SECRETS):
            raise InvalidEvent(f"event {type_.name!r} has a field of type {cls.__name__}, which is written as '****'")
        _refuse_excluded(type_, node)
    for cls in nested:
        _refuse_lossy_subclass(type_, cls, nested)
    return hides_nan


def _refuse_excluded(type_: EventType, node: Mapping[str, Any]) -> None:
    fields = node.get("fields") or ()
    pairs = fields.items() if isinstance(fields, dict) else ((f["name"], f) for f in fields if isinstance(f, dict))
    for name, field in pairs:
        if field.get("serialization_exclude"):
            raise InvalidEvent(f"event {type_.name!r}: field {name!r} is excluded from serialization, it would be lost")


def _refuse_lossy_subclass(type_: EventType, cls: type, nested: set[type]) -> None:
    """A field declared as `cls` writes only the fields of `cls`, whatever subclass the instance is of."""
    for sub in _subclasses(cls):
        more = sorted(set(_field_names(sub)) - set(_field_names(cls)))
        if more and sub not in nested:
            raise InvalidEvent(
                f"event {type_.name!r} holds {cls.__name__}, whose subclass {sub.__name__} has the further field(s) "
                f"{', '.join(more)}: they would be lost; declare the field as {cls.__name__} | {sub.__name__}"
            )


def _subclasses(cls: type) -> Iterator[type]:
    sub: type
    for sub in type.__subclasses__(cls):
        yield sub
        yield from _subclasses(sub)


def _field_names(cls: type) -> list[str]:
    return list(cls.model_fields) if issubclass(cls, BaseModel) else list(getattr(cls, "__dataclass_fields__", ()))


def _walk(node: Any, *, keeps_nan: bool, seen: set[int]) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Yield every schema node below `node`, each with whether the model around it writes NaN as a constant."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _walk(item, keeps_nan=keeps_nan, seen=seen)
    elif isinstance(node, dict) and id(node) not in seen:
        seen.add(id(node))
        if node.get("type") in ("model", "dataclass", "typed-dict"):
            keeps_nan = (node.get("config") or {}).get("ser_json_inf_nan") == "constants"
        yield node, keeps_nan
        for key, value in node.items():
            if key != "metadata":
                yield from _walk(value, keeps_nan=keeps_nan, seen=seen)
