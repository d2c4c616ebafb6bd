"""Events: what a user defines, what an append takes, what it returns, what a read gives.

`Event` is a frozen pydantic model. Its type name is the class name unless given in the class header, and its
schema version 1 unless given. Defining a class never raises: types are checked by the store's registry, on use.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from .streams import Position, Version

__all__ = ["Appended", "Event", "NewEvent", "Recorded", "UnknownEvent", "count_definitions", "seen_event_classes"]

E = TypeVar("E")

_seen: dict[tuple[str, str], type[Event]] = {}
_definitions = itertools.count(1)
_last_definition = 0


class Event(BaseModel):
    """A fact: an immutable pydantic model.

    ``class Deposited(Event)`` has the type name ``Deposited``;
    ``class Deposited(Event, type="money_deposited", schema_version=2)`` says otherwise.

    Guarantees: an event that was appended comes back equal, or the append was refused (docs/events.md).
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    event_type: ClassVar[str]
    event_schema_version: ClassVar[int]

    def __init_subclass__(cls, type: str | None = None, schema_version: int = 1, **kwargs: Any) -> None:  # noqa: A002
        """Note the class under its module and name; the latest definition replaces an earlier one (a reload)."""
        super().__init_subclass__(**kwargs)
        cls.event_type = cls.__name__ if type is None else type
        cls.event_schema_version = schema_version

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Pydantic's hook, called once the class is complete."""
        if not cls.__pydantic_generic_metadata__["args"]:
            global _last_definition  # noqa: PLW0603 - classes are process-wide, and so is their count
            _seen[cls.__module__, cls.__qualname__] = cls
            _last_definition = next(_definitions)


def seen_event_classes() -> list[type[Event]]:
    """Return every subclass of `Event` defined so far in this process, latest definition of each name."""
    return list(_seen.values())


def count_definitions() -> int:
    """Return how many subclasses of `Event` were defined so far: changes whenever `seen_event_classes` does."""
    return _last_definition


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event whose type no class is registered for, kept as it is stored; it can be appended again unchanged.

    Attributes:
        type: the stored type name.
        data: the stored document, as parsed JSON.
        schema_version: as stored.
        document: the stored document itself, which keeps digits that a float would lose; None where made by hand.
    """

    type: str
    data: Any  # any JSON document: object, array, string, number, bool or None
    schema_version: int = 1
    document: str | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class NewEvent(Generic[E]):
    """An event on its way into the store, with what goes beside it.

    Attributes:
        event: an `Event`, or an instance of any registered class, or an `UnknownEvent`.
        event_id: its name for ever; default: a new UUID version 7.
        metadata: anything that can be JSON; merged over the metadata of `store.context(...)`.
        occurred_at: when it was true in the world, with a time zone; default: when it is recorded.
        correlation_id, causation_id: default: those of `store.context(...)`.
    """

    event: E
    event_id: UUID | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)  # user's own JSON
    occurred_at: datetime | None = None
    correlation_id: str | None = None
    causation_id: UUID | None = None


class Recorded(NamedTuple, Generic[E]):
    """A stored event. A tuple, because reading makes one for each event and nothing immutable is cheaper.

    Attributes:
        position: its place in the whole log.
        tenant_id: empty unless the store is a tenant's view.
        stream_id, version: its stream, and its place in it (1-based, dense).
        type, schema_version: as stored.
        event_id: its name for ever.
        correlation_id, causation_id: the request it belongs to; the event that caused it.
        occurred_at: valid time; equal to `recorded_at` where none was given.
        recorded_at: when the database inserted it, by the database's clock.
        data: the typed event.
        metadata: what went beside it: actor, and anything the user added.
        tags: reserved; empty.
    """

    position: Position
    tenant_id: str
    stream_id: str
    version: Version
    type: str
    schema_version: int
    event_id: UUID
    correlation_id: str | None
    causation_id: UUID | None
    occurred_at: datetime
    recorded_at: datetime
    data: E
    metadata: Mapping[str, Any]  # user's own JSON
    tags: Sequence[str]


@dataclass(frozen=True, slots=True)
class Appended:
    """What an append did, once it is committed (in a transaction: once that is).

    Attributes:
        first_version, version: of the first and the last event appended.
        position: of the last event appended; a read model that has seen it has seen them all.
        event_ids: in order.
        deduplicated: False: they were new. (True is kept for a repeated append that found its earlier result.)
    """

    first_version: Version
    version: Version
    position: Position
    event_ids: tuple[UUID, ...]
    deduplicated: bool = False
