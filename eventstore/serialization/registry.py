"""Which class stands for which stored type name. A registry belongs to a store; nothing here is global state.

Defining a class never raises. What is wrong with one is said when it is first used: two classes under one name, a
field that could not round-trip. A stored type name is never imported by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Literal

import pydantic_core
from pydantic import ValidationError

from ..errors import AmbiguousEventType, EventCorrupt, Invalid, InvalidEvent, UnknownEventType
from ..events import Event, UnknownEvent, count_definitions, seen_event_classes
from ..streams import check_name
from ..tags import Tagger
from .json import Codec, EncodedEvent, EventType, encode_json

__all__ = ["Registry", "Unknown"]

Unknown = Literal["keep", "error"]
"""What a read makes of a type that no class is registered for: an `UnknownEvent`, or an error."""


class Registry:
    """Maps type names to classes and back.

    Args:
        events: the classes that count, as classes or `EventType`s; default: every `Event` subclass defined so far in
            the process, looked at again whenever a name or a class is new.
        unknown: "keep" (default: reading must not stop at a type that another team added) or "error".
        verify: "first" decodes and compares the first event of each type; "always" each one, for tests.
    """

    def __init__(
        self,
        events: Iterable[type | EventType] | None = None,
        *,
        unknown: Unknown = "keep",
        verify: Literal["first", "always"] = "first",
    ) -> None:
        self._chosen = None if events is None else [e if isinstance(e, EventType) else EventType(e) for e in events]
        self._keep_unknown = unknown == "keep"
        self._verify_always = verify == "always"
        self._by_class: dict[type, Codec] = {}
        self._by_name: dict[str, Codec | None] = {}
        self._ready: dict[type, Codec] = {}  # looked up, and nobody else claims the name
        self._seen = -1

    def encode(self, event: object) -> EncodedEvent:
        """Return `event` as the log takes it.

        Raises:
            UnknownEventType: its class is not registered.
            AmbiguousEventType: another class claims the same name.
            InvalidEvent: it would not come back as it is.
        """
        codec = self._ready.get(type(event))
        if codec is not None:
            return codec.encode(event)
        if isinstance(event, UnknownEvent):
            return _encode_unknown(event)
        return self._codec_of(type(event)).encode(event)

    def encoder(self, cls: type) -> Callable[[Any], EncodedEvent]:
        """Return what encodes events of a class, for many of them. It raises as `encode`."""
        codec = self._ready.get(cls)
        return self.encode if codec is None else codec.encode

    def tagger(self, cls: type) -> Tagger | None:
        """Return what gives the tags that a class declares; None: it declares none, or is not registered."""
        codec = self._ready.get(cls) or self._by_class.get(cls)
        return None if codec is None else codec.tagger

    def tagged_types(self) -> list[str]:
        """Return the names of the types whose class declares tags, and of those that are refused when they are used."""
        self._look_again()
        codecs = self._by_class.values()
        return sorted({one.type.name for one in codecs if one.tagger is not None or isinstance(one, _Refused)})

    def decode(self, stream_id: str, version: int, position: int, name: str, schema_version: int, document: str) -> Any:
        """Return the typed event of a stored row.

        Raises:
            EventCorrupt: it does not validate.
            UnknownEventType: nobody claims `name` and the registry was told to refuse that.
            AmbiguousEventType: several classes claim `name`.
        """
        decoder = self.decoder(name)
        if decoder is None:
            return UnknownEvent(name, json.loads(document), schema_version, document)
        try:
            return decoder(document)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise EventCorrupt(stream_id, version, position, name, field, first["msg"]) from error

    def decoder(self, name: str) -> Callable[[str], Any] | None:
        """Return what decodes documents of a type, raising pydantic's ValidationError; None: nobody knows the type.

        Raises:
            UnknownEventType, AmbiguousEventType: as `decode`.
        """
        codec = self._by_name.get(name) or self._codec_named(name)
        return None if codec is None else codec.decode

    def name_of(self, type_: type | str) -> str:
        """Return the stored type name of a class; a string is a name already.

        Raises:
            UnknownEventType: the class is not registered.
        """
        return check_name(type_, "an event type") if isinstance(type_, str) else self._codec_of(type_).type.name

    def _codec_of(self, cls: type) -> Codec:
        if cls not in self._by_class:
            self._look_again()
        if cls not in self._by_class:
            known = ", ".join(sorted(self._names())[:8]) or "none"
            if self._is_stale(cls):
                raise UnknownEventType(
                    f"{cls.__qualname__} was defined again after this instance was made; make it of the new class"
                )
            raise UnknownEventType(
                f"{cls.__module__}.{cls.__qualname__} is not a registered event type (registered: {known}); derive it "
                "from Event, or pass it as EventStore(events=[...])"
            )
        codec = self._by_class[cls]
        self._codec_named(codec.type.name)
        self._ready[cls] = codec
        return codec

    def _codec_named(self, name: str) -> Codec | None:
        if name not in self._by_name:
            self._look_again()
        if name in self._by_name:
            codec = self._by_name[name]
            if codec is None:
                rivals = sorted(f"{t.cls.__module__}.{t.cls.__qualname__}" for t in self._types() if t.name == name)
                raise AmbiguousEventType(
                    f"the event type {name!r} is claimed by {' and '.join(rivals)}; give one of them another name "
                    "(class X(Event, type='...')), or list the right one in EventStore(events=[...])"
                )
            return codec
        if self._keep_unknown:
            return None
        raise UnknownEventType(
            f"no class is registered for the stored event type {name!r} (registered: "
            f"{', '.join(sorted(self._names())[:8]) or 'none'}); import its module before reading, or open the store "
            "with unknown_events='keep'"
        )

    def _types(self) -> list[EventType]:
        return [EventType(cls) for cls in seen_event_classes()] if self._chosen is None else self._chosen

    def _names(self) -> set[str]:
        return {type_.name for type_ in self._types()}

    def _is_stale(self, cls: type) -> bool:
        return self._chosen is None and issubclass(cls, Event)

    def _look_again(self) -> None:
        """Take in classes that were defined since; a name claimed by two classes is marked with None."""
        seen, self._seen = self._seen, count_definitions()
        if seen == self._seen:
            return
        types = self._types()
        names = [type_.name for type_ in types]
        current = {type_.cls: type_ for type_ in types}
        for cls in [cls for cls in self._by_class if cls not in current]:
            del self._by_class[cls]
        self._by_name.clear()
        self._ready.clear()
        for cls, type_ in current.items():
            if cls not in self._by_class:
                try:
                    self._by_class[cls] = Codec(type_, verify_always=self._verify_always)
                except Invalid as error:
                    self._by_class[cls] = _Refused(type_, error)
            self._by_name[type_.name] = None if names.count(type_.name) > 1 else self._by_class[cls]


class _Refused(Codec):
    """Stands for a class that cannot be an event: says so when it is used, not when it is defined."""

    def __init__(self, type_: EventType, error: Invalid) -> None:
        self.type = type_
        self._error = error
        self.tagger = None
        self.decode = self._refuse

    def encode(self, event: object) -> EncodedEvent:
        """Refuse it."""
        raise self._error

    def _refuse(self, document: str) -> Any:
        raise self._error


def _encode_unknown(event: UnknownEvent) -> EncodedEvent:
    check_name(event.type, "an event type")
    if event.document is None:
        document = encode_json(event.data, f"event {event.type!r}")
    else:
        document = event.document
        try:
            pydantic_core.from_json(document, allow_inf_nan=False)
        except (ValueError, TypeError) as error:
            raise InvalidEvent(f"the document of event {event.type!r} is not JSON: {error}") from None
    return EncodedEvent(event.type, event.schema_version, document)
