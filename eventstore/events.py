"""Events: what a user defines, what an append takes, what it returns, what a read gives.

`Event` is a frozen pydantic model. Its type name is the class name unless given in the class header, and its
schema version 1 unless given. Defining a class never raises: types are checked by the store's registry, on use.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from . import _details
from .streams import Position, Version

__all__ = ["Appended", "Event", "NewEvent", "Recorded", "UnknownEvent", "count_definitions", "seen_event_classes"]

E = TypeVar("E")

NO_METADATA: Final[Mapping[str, Any]] = MappingProxyType({})

POSITION, STREAM, VERSION, TYPE, SCHEMA_VERSION, DATA, DETAILS = range(7)
"""Columns of the rows of all read statements, as `Recorded` takes them. The schema version is null where it is 1 (the decoder
looks at it for each event, so it is not among the details); of the details see `_details`."""

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
        tags: besides those that the event's class declares (`Tag`): ``("course:1", "student:2")``.
    """

    event: E
    event_id: UUID | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)  # user's own JSON
    occurred_at: datetime | None = None
    correlation_id: str | None = None
    causation_id: UUID | None = None
    tags: Sequence[str] = ()


class Recorded(tuple[Sequence[Any], E], Generic[E]):
    """A stored event, immutable.

    Inside it is a pair: the row as the database gave it, and the typed event. Everything else is taken out of the row when
    it is asked for: most readers never look at most of it, and making times, ids and metadata for each event cost more
    than decoding the event (docs/benchmarks.md).

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
        metadata: what went beside it: actor, and anything the user added. Parsed anew each time.
        tags: those that it was appended with, its own (`Tag`) and `NewEvent`'s. A back-fill adds none here: what it says
            is asked of the log by `read_all(tags=...)` and `Boundary`.

    By hand, for tests of code that takes one, with keywords: ``Recorded(data=Deposited(amount=1), stream_id="account-1")``.
    """

    __slots__ = ()

    def __new__(
        cls,
        *,
        data: E,
        stream_id: str,
        version: int = 1,
        position: int = 1,
        type: str | None = None,  # noqa: A002
        recorded_at: datetime | None = None,
        event_id: UUID | None = None,
        tenant_id: str = "",
        schema_version: int | None = None,
        correlation_id: str | None = None,
        causation_id: UUID | None = None,
        occurred_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> Recorded[E]:
        """Make one by hand; what is left out is made up."""
        row = (
            position,
            stream_id,
            version,
            type or getattr(data, "event_type", data.__class__.__name__),
            schema_version or getattr(data, "event_schema_version", 1),
            None,
            _details.pack(
                event_id or UUID(int=position),
                recorded_at or _details.EPOCH,
                occurred_at=occurred_at,
                metadata=json.dumps(dict(metadata)) if metadata else None,
                correlation_id=correlation_id,
                causation_id=causation_id,
                tenant_id=tenant_id,
                tags=tags,
            ),
        )
        return tuple.__new__(cls, (row, data))

    @property
    def position(self) -> Position:
        """Its place in the whole log."""
        return Position(self[0][POSITION])

    @property
    def stream_id(self) -> str:
        """Its stream."""
        return str(self[0][STREAM])

    @property
    def version(self) -> Version:
        """Its place in the stream."""
        return Version(self[0][VERSION])

    @property
    def type(self) -> str:
        """The stored type name."""
        return str(self[0][TYPE])

    @property
    def event_id(self) -> UUID:
        """Its name for ever."""
        return _details.event_id(self[0][DETAILS])

    @property
    def recorded_at(self) -> datetime:
        """When the database inserted it, in UTC."""
        return _details.recorded_at(self[0][DETAILS])

    @property
    def data(self) -> E:
        """The typed event."""
        return self[1]

    @property
    def tenant_id(self) -> str:
        """Whose it is; empty unless the store is a tenant's view."""
        return _details.tenant_id(self[0][DETAILS])

    @property
    def schema_version(self) -> int:
        """The version of the type that it was stored with."""
        return self[0][SCHEMA_VERSION] or 1

    @property
    def correlation_id(self) -> str | None:
        """The request that it belongs to."""
        return _details.correlation_id(self[0][DETAILS])

    @property
    def causation_id(self) -> UUID | None:
        """The event that caused it."""
        return _details.causation_id(self[0][DETAILS])

    @property
    def occurred_at(self) -> datetime:
        """When it was true, in UTC; when it was recorded where nothing else is known."""
        return _details.occurred_at(self[0][DETAILS])

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What went beside it; cannot be changed."""
        document = _details.metadata(self[0][DETAILS])
        return NO_METADATA if document is None else MappingProxyType(json.loads(document))

    @property
    def tags(self) -> tuple[str, ...]:
        """Those that it was appended with."""
        return _details.tags(self[0][DETAILS])

    def __repr__(self) -> str:
        """Everything that names it."""
        return (
            f"Recorded(position={self.position}, stream_id={self.stream_id!r}, version={self.version}, type={self.type!r}, "
            f"event_id={str(self.event_id)!r}, recorded_at={self.recorded_at.isoformat()!r}, data={self.data!r})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the driver's row."""
        return (_remade, (tuple(self[0]), self[1]))


def _remade(row: tuple[Any, ...], data: E) -> Recorded[E]:
    return tuple.__new__(Recorded, (row, data))


class Appended(NamedTuple):
    """What an append did, once it is committed (in a transaction: once that is).

    Attributes:
        first_version, version: of the first and the last event appended.
        position: of the last event appended; a read model that has seen it has seen them all.
        event_ids: in order.
        deduplicated: False: they were new. True: the append had been done before, and this is its first result.
    """

    first_version: Version
    version: Version
    position: Position
    event_ids: tuple[UUID, ...]
    deduplicated: bool = False
