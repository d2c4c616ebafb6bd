"""Events: what a user defines, what an append takes, what it returns, what a read gives.

`Event` is a frozen pydantic model. Its type name is the class name unless given in the class header, and its
schema version 1 unless given. Defining a class never raises: types are checked by the store's registry, on use.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, ClassVar, Final, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from .streams import Position, Version

__all__ = ["Appended", "Event", "NewEvent", "Recorded", "UnknownEvent", "count_definitions", "seen_event_classes"]

E = TypeVar("E")

NO_METADATA: Final[Mapping[str, Any]] = MappingProxyType({})

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)

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
        tags: reserved; empty.

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
    ) -> Recorded[E]:
        """Make one by hand; what is left out is made up."""
        row = (
            position,
            stream_id,
            version,
            type or getattr(data, "event_type", data.__class__.__name__),
            (event_id or UUID(int=position)).bytes,
            _to_microseconds(recorded_at or _EPOCH),
            "",
            tenant_id or None,
            schema_version or getattr(data, "event_schema_version", 1),
            correlation_id,
            causation_id,
            None if occurred_at is None else _to_microseconds(occurred_at),
            json.dumps(dict(metadata)) if metadata else None,
        )
        return tuple.__new__(cls, (row, data))

    @property
    def position(self) -> Position:
        """Its place in the whole log."""
        return Position(self[0][0])

    @property
    def stream_id(self) -> str:
        """Its stream."""
        return str(self[0][1])

    @property
    def version(self) -> Version:
        """Its place in the stream."""
        return Version(self[0][2])

    @property
    def type(self) -> str:
        """The stored type name."""
        return str(self[0][3])

    @property
    def event_id(self) -> UUID:
        """Its name for ever."""
        return UUID(bytes=self[0][4])

    @property
    def recorded_at(self) -> datetime:
        """When the database inserted it, in UTC."""
        return _to_time(self[0][5])

    @property
    def data(self) -> E:
        """The typed event."""
        return self[1]

    @property
    def tenant_id(self) -> str:
        """Whose it is; empty unless the store is a tenant's view."""
        return self[0][7] or ""

    @property
    def schema_version(self) -> int:
        """The version of the type that it was stored with."""
        return self[0][8] or 1

    @property
    def correlation_id(self) -> str | None:
        """The request that it belongs to."""
        found: str | None = self[0][9]
        return found

    @property
    def causation_id(self) -> UUID | None:
        """The event that caused it."""
        found: UUID | None = self[0][10]
        return found

    @property
    def occurred_at(self) -> datetime:
        """When it was true, in UTC; when it was recorded where nothing else is known."""
        row = self[0]
        return _to_time(row[5] if row[11] is None else row[11])

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What went beside it; cannot be changed."""
        document = self[0][12]
        return NO_METADATA if document is None else MappingProxyType(json.loads(document))

    @property
    def tags(self) -> tuple[str, ...]:
        """Reserved; empty."""
        return ()

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


def _to_microseconds(time: datetime) -> bytes:
    return ((time - _EPOCH) // timedelta(microseconds=1)).to_bytes(8, "big", signed=True)


def _to_time(microseconds: bytes) -> datetime:
    """Return the time that PostgreSQL's binary form of a timestamptz says (manual: Date/Time Types; 8 bytes since 2000)."""
    try:
        return _EPOCH + timedelta(microseconds=int.from_bytes(microseconds, "big", signed=True))
    except OverflowError:  # infinity, or a year that Python does not have
        return _LATEST if microseconds[0] < 128 else _EARLIEST


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
