"""Appends and reads inside one transaction of the caller's making. See `EventStore.transaction`."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from ._drivers.asyncpg import AsyncpgConnection
from ._failpoints import armed, hit, register
from ._operations import append as appends
from ._operations import read
from ._operations.append import Limits, PreparedAppend
from .errors import InvalidArgument, LockTimeout, SequenceBehind, UniqueViolation, VersionConflict
from .events import Appended, Recorded
from .serialization import Registry
from .streams import ANY, Expectation, check_name

__all__ = ["RACES", "Transaction", "check_bounds", "refuse_reused_position"]

APPENDED: Final = register("transaction.after_append", "events are inserted in an open transaction; nobody sees them")

RACES: Final = 100
"""How often an append that lost a race for a version is sent again; contenders queue, so one more is rarely needed."""

_BEYOND_ALL: Final = 2**63 - 1


class Transaction:
    """Appends and reads inside one transaction. Made by `store.transaction()`."""

    def __init__(self, connection: AsyncpgConnection, registry: Registry, limits: Limits) -> None:
        self._connection = connection
        self._registry = registry
        self._limits = limits
        self._done: list[PreparedAppend] = []

    @property
    def appended(self) -> bool:
        """Whether anything was appended through it."""
        return bool(self._done)

    @property
    def appended_ids(self) -> tuple[tuple[str, ...], tuple[UUID, ...]]:
        """The streams and the ids of the events appended so far."""
        ids = tuple(event_id for one in self._done for event_id in one.event_ids)
        return tuple(one.stream_id for one in self._done), ids

    @property
    def connection(self) -> Any:  # asyncpg.Connection; named by its owner, the driver
        """The asyncpg connection, for SQL of the caller's in the same transaction."""
        return self._connection.raw

    async def append(self, stream_id: str, events: object, *, expect: int | Expectation = ANY) -> Appended:
        """As `EventStore.append`, but committed with the transaction. A conflict leaves the transaction usable."""
        one = appends.prepare(self._registry, stream_id, events, expect=expect, limits=self._limits)
        for attempt in range(RACES):
            try:
                async with self._connection.transaction():
                    (outcome,) = await self._connection.run(appends.append([one], contended=attempt > 0))
            except UniqueViolation as error:
                refuse_reused_position(error, self._connection.schema)
                continue
            if isinstance(outcome, VersionConflict):
                raise outcome
            self._done.append(one)
            if armed:
                await hit(APPENDED)
            return outcome
        raise LockTimeout(f"{RACES} attempts to append to {stream_id!r} each lost a race")

    async def read_stream(
        self, stream_id: str, *, after: int = 0, before: int | None = None, limit: int | None = None
    ) -> list[Recorded[Any]]:
        """Read a stream, this transaction's own appends included, as a list."""
        check_name(stream_id, "a stream id")
        low, high = check_bounds(after, before, limit)
        most = _BEYOND_ALL if limit is None else limit
        rows = await self._connection.run(read.read_stream("", stream_id, low, high, most, backwards=False))
        return read.decode(self._registry, rows)


def refuse_reused_position(error: UniqueViolation, schema: str) -> None:
    """A lost race for a version is tried again; a position that is taken already is no race.

    Raises:
        SequenceBehind: the sequence of positions lies behind the log.
    """
    if "events_position_key" in str(error):
        raise SequenceBehind(
            f'the sequence "{schema}".events_position_seq gives out positions that are taken: a restore left it behind the '
            f"log. Stop all writers, then: select setval('\"{schema}\".events_position_seq', (select max(position) from "
            f'"{schema}".events))'
        ) from error


def check_bounds(after: int, before: int | None, limit: int | None) -> tuple[int, int]:
    """Return the open interval of versions to read.

    Raises:
        InvalidArgument: a bound that is no int >= 0.
    """
    for what, value in (("after", after), ("before", before), ("limit", limit)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise InvalidArgument(f"{what} must be an int >= 0, got {value!r}")
    return after, _BEYOND_ALL if before is None else before
