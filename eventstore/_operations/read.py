"""Reads: batches of a stream, batches of the log up to a settled position, and small look-ups.

A read never holds a connection between batches, and a batch is bounded in rows and, by what the last one weighed, in
bytes. JSON comes as text and goes straight into the model's validator.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, overload
from uuid import UUID

from pydantic import ValidationError

from ..errors import InvalidArgument
from ..events import DATA, POSITION, SCHEMA_VERSION, STREAM, TYPE, VERSION, Recorded
from ..serialization import Registry
from ..streams import Position, check_name
from ..tags import check_tags
from .statement import Operation, Row, Statement, load_sql

__all__ = [
    "BatchSize",
    "Decoded",
    "Filter",
    "decode",
    "decode_each",
    "event_id_at",
    "head",
    "newest_upto",
    "read_log",
    "read_stream",
    "stream_version",
]

_QUERIES: Final = Path(__file__).parent.parent / "sql" / "queries"
_READ_STREAM: Final = load_sql(_QUERIES, "read_stream")
_READ_STREAM_BACKWARDS: Final = load_sql(_QUERIES, "read_stream_backwards")
_READ_LOG: Final = load_sql(_QUERIES, "read_log")
_READ_LOG_TAGGED: Final = load_sql(_QUERIES, "read_log_tagged")
_READ_LOG_FILTERED: Final = load_sql(_QUERIES, "read_log_filtered")
_HEAD: Final = load_sql(_QUERIES, "head")
_STREAM_VERSION: Final = load_sql(_QUERIES, "stream_version")
_NEWEST_UPTO: Final = load_sql(_QUERIES, "newest_upto")
_EVENT_ID_AT: Final = load_sql(_QUERIES, "event_id_at")

SAMPLED: Final = 50
"""Rows of a batch that are weighed, at least: weighing all of them is a twentieth of decoding them."""

WIDEST_FILTERED_RANGE: Final = 100_000
"""Positions that one filtered statement looks through: a rare type must not make one statement run for minutes."""


@dataclass(slots=True)
class BatchSize:
    """How many rows the next batch asks for: grows while batches are light, shrinks when one was heavy.

    Starts small since most streams are; at most `most` rows. Aims at `target_bytes` of JSON a batch, by a sample of the last
    one: a few heavy events among many light ones may make a batch heavier. A follower holds two batches, one of them read
    ahead.

    Default: 1,000 rows that are dropped before the next ones come stay in a processor's cache (of 1 MB a core): `read_all`
    took a sixth less of the client's time than with 2,000 that lived until the next ones were there.
    """

    rows: int = 100
    most: int = 1000
    target_bytes: int = 4 * 2**20

    def note(self, rows: Sequence[Row]) -> None:
        """Take a batch's weight into account."""
        if not rows:
            return
        sample = rows[:: max(1, len(rows) // SAMPLED)]
        weight = sum([len(row[DATA]) for row in sample]) // len(sample) + 1
        self.rows = max(1, min(self.most, self.rows * 4, self.target_bytes // weight))


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events of the log are wanted; empty: all.

    Attributes:
        types: stored type names.
        categories: what stands before the first dash of the stream id.
        tags: all of these.
    """

    types: tuple[str, ...] | None = None
    categories: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()
    wanted: bool = field(init=False)

    def __post_init__(self) -> None:
        """Note whether anything is filtered."""
        object.__setattr__(self, "wanted", self.types is not None or self.categories is not None or self.tags != ())

    @classmethod
    def of(
        cls,
        registry: Registry,
        *,
        types: Sequence[type | str] | None,
        categories: Sequence[str] | None,
        tags: Sequence[str] | None,
    ) -> Filter:
        """Check what a caller asks for.

        Raises:
            InvalidArgument: a text where a sequence is expected, a name that is none.
            UnknownEventType: a class that is not registered.
        """
        if isinstance(types, str) or isinstance(categories, str):
            raise InvalidArgument("types and categories are sequences: write types=['x'], not types='x'")
        return cls(
            None if types is None else tuple(registry.name_of(type_) for type_ in types),
            None if categories is None else tuple(check_name(one, "a category") for one in categories),
            () if tags is None else check_tags(tags, "tags"),
        )


def decode(registry: Registry, rows: Sequence[Row]) -> list[Recorded[Any]]:
    """Return rows of a read statement as typed events, all at once; raises as `decode_each`.

    The garbage collector is paused meanwhile: nothing that is made here can be garbage yet, and its full rounds over
    everything else in the process took more time than decoding (170,000 events/s with it, 240,000 without).
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return list(decode_each(registry, rows))
    finally:
        if collecting:
            gc.enable()


class Decoded(Sequence[Recorded[Any]]):
    """Rows of a read statement as typed events, each decoded when it is looked at.

    Events that are dropped one by one cost the garbage collector nothing; a list of them is traversed again and again
    while it lasts (a fifth of a projection's catch-up, measured). Raises as `decode_each`.
    """

    __slots__ = ("_registry", "_rows")

    def __init__(self, registry: Registry, rows: Sequence[Row]) -> None:
        self._registry, self._rows = registry, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Recorded[Any]]:
        return decode_each(self._registry, self._rows)

    @overload
    def __getitem__(self, index: int) -> Recorded[Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Decoded: ...

    def __getitem__(self, index: int | slice) -> Recorded[Any] | Decoded:
        if isinstance(index, slice):
            return Decoded(self._registry, self._rows[index])
        (found,) = decode_each(self._registry, [self._rows[index]])
        return found


def decode_each(registry: Registry, rows: Sequence[Row]) -> Iterator[Recorded[Any]]:
    """Yield rows of a read statement as typed events, each decoded when it is asked for.

    Raises:
        EventCorrupt, UnknownEventType, AmbiguousEventType: as the registry does, at the event that it is about.
    """
    make = tuple.__new__  # a Recorded is a pair; its own constructor is for people
    decoders: dict[str, Callable[[str], Any] | None] = {}
    last, decoder = None, None
    for row in rows:
        type_ = row[TYPE]
        if type_ != last:  # cheaper than a look-up: each string is a new one, which has to be hashed
            last = type_
            if type_ not in decoders:
                decoders[type_] = registry.decoder(type_)
            decoder = decoders[type_]
        try:
            event = _decode_slowly(registry, row) if decoder is None else decoder(row[DATA])
        except ValidationError:
            event = _decode_slowly(registry, row)
        yield make(Recorded, (row, event))


def _decode_slowly(registry: Registry, row: Row) -> Any:  # an event
    """Keep what nobody knows, or say where it does not validate."""
    return registry.decode(row[STREAM], row[VERSION], row[POSITION], row[TYPE], row[SCHEMA_VERSION] or 1, row[DATA])


def read_stream(
    tenant_id: str, stream_id: str, after: int, before: int, limit: int, *, backwards: bool
) -> Operation[Sequence[Row]]:
    """Return one batch of a stream: versions in the open interval (after, before)."""
    sql = _READ_STREAM_BACKWARDS if backwards else _READ_STREAM
    return (yield Statement(sql, (tenant_id, stream_id, after, before, limit)))


def read_log(after: int, upto: int, limit: int, wanted: Filter) -> Operation[tuple[Sequence[Row], int]]:
    """Return one batch of the log from (after, upto], and the position up to which nothing is left out.

    `upto` must be settled: nothing at or below it may still become visible.
    """
    types = None if wanted.types is None else list(wanted.types)
    categories = None if wanted.categories is None else list(wanted.categories)
    if wanted.tags:
        first, *others = wanted.tags
        args = (after, upto, limit, first, others or None, types, categories, "")
        rows = yield Statement(_READ_LOG_TAGGED, args)
    elif not wanted.wanted:
        rows = yield Statement(_READ_LOG, (after, upto, limit))
    else:
        upto = min(upto, after + WIDEST_FILTERED_RANGE)
        rows = yield Statement(_READ_LOG_FILTERED, (after, upto, limit, types, categories))
    return rows, (rows[-1][0] if len(rows) >= limit else upto)


def head() -> Operation[Position]:
    """Return the highest committed position; 0 where the log is empty."""
    rows = yield Statement(_HEAD)
    return Position(rows[0][0])


def stream_version(tenant_id: str, stream_id: str) -> Operation[int]:
    """Return the version of a stream; 0 where it has no events."""
    rows = yield Statement(_STREAM_VERSION, (tenant_id, stream_id))
    return int(rows[0][0])


def newest_upto(position: int) -> Operation[tuple[int, UUID] | None]:
    """Return position and id of the newest event at or below `position`; None where there is none."""
    rows = yield Statement(_NEWEST_UPTO, (position,))
    return (rows[0][0], rows[0][1]) if rows else None


def event_id_at(position: int) -> Operation[UUID | None]:
    """Return the id of the event at `position`; None where there is none."""
    rows = yield Statement(_EVENT_ID_AT, (position,))
    return rows[0][0] if rows else None
