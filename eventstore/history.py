"""Time travel over the log: as of a version, as of a time, as of what was true.

*Recorded* time is when the database learnt of an event; *valid* time (`occurred_at`) is when it was true in the world.
"As of a time" is answered from the time marks (docs/ordering.md): an answer once given never changes, whatever commits
late and whatever the clocks do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ._operations import marks
from .errors import InvalidArgument, SettleTimeout, TimeInFuture
from .events import Recorded
from .store import EventStore
from .streams import Position

__all__ = ["History", "StreamHistory"]

_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class StreamHistory:
    """A stream, cut in two.

    Attributes:
        events: those up to the moment asked for.
        since: those that came after it, in order of version.
    """

    events: tuple[Recorded[Any], ...]
    since: tuple[Recorded[Any], ...]


class History:
    """Questions about the past of one store: ``History(store)``."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def as_of(self, at: datetime, *, settle: float = 1.0) -> Position:
        """Return the position that the log had reached at `at`: it holds every event up to there, and none after.

        Args:
            at: a time with a zone, not after the database's clock.
            settle: how many seconds to wait for held transactions; what they commit later belongs to a later time.

        Raises:
            TimeInFuture: the database's clock has not reached it; its answer could still change.
            InvalidArgument: no time zone.
            SettleTimeout, PermissionDenied: a time newer than the last time mark needs a new one, and none could be
                made (it takes a role that may append or follow).

        Guarantees: the same answer for ever. Nothing that was recorded after `at` by the database's clock is included.
        """
        if at.utcoffset() is None:
            raise InvalidArgument(f"a time to go back to must have a time zone, got {at!r}")
        for _ in range(_ATTEMPTS):
            position, now = await self._store._driver.run("read", marks.as_of(at))
            if position is not None:
                return position
            if at > now:
                raise TimeInFuture(f"{at.isoformat()} lies in the future: the database's clock says {now.isoformat()}")
            settled = await self._store._frontier.settled(settle)
            await self._store._frontier.publish(settled.mark)
        raise SettleTimeout(f"no time mark after {at.isoformat()} could be made in {_ATTEMPTS} attempts; try again")

    async def stream(
        self, stream_id: str, *, version: int | None = None, at: datetime | None = None, valid_at: datetime | None = None
    ) -> StreamHistory:
        """Return a stream as it was, and what came since.

        Args:
            stream_id: the stream.
            version: up to this version, or
            at: as the database knew it at this time, or
            valid_at: what had occurred by this time, as is known now.

        Raises:
            InvalidArgument: not exactly one of the three.
        """
        if sum(choice is not None for choice in (version, at, valid_at)) != 1:
            raise InvalidArgument("give exactly one of version, at and valid_at")
        if valid_at is not None and valid_at.utcoffset() is None:
            raise InvalidArgument(f"valid_at must have a time zone, got {valid_at!r}")
        upto = None if at is None else await self.as_of(at)
        events: list[Recorded[Any]] = []
        since: list[Recorded[Any]] = []
        async for recorded in self._store.read_stream(stream_id):
            if version is not None:
                known = recorded.version <= version
            elif upto is not None:
                known = recorded.position <= upto
            else:
                assert valid_at is not None
                known = recorded.occurred_at <= valid_at
            (events if known else since).append(recorded)
        return StreamHistory(tuple(events), tuple(since))
