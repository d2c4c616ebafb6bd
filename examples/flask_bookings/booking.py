"""The decisions: who gets a room, and who gives it back.

No lock keeps two guests apart. A booking is decided on the day as it was read and appended on top of exactly that version
of its stream. If somebody was faster, the day is read again and the booking decided again: it goes in if it does not
overlap with what came between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from eventstore import Appended, Recorded, VersionConflict
from eventstore.sync import Transaction

from .models import BookingCancelled, RoomBooked

ATTEMPTS: Final = 24
"""How often a booking is decided: each conflict is another's success, and a day has 24 hours to give away."""


class RoomTakenError(Exception):
    """The room is somebody else's in these hours.

    Attributes:
        starts, ends: the hours of the booking that is in the way.
    """

    def __init__(self, starts: int, ends: int) -> None:
        self.starts, self.ends = starts, ends
        super().__init__(f"the room is taken from {starts} to {ends} o'clock; choose other hours, or another room")


@dataclass(slots=True)
class Day:
    """A room's day, folded from its stream."""

    version: int = 0
    seen: set[UUID] = field(default_factory=set)
    held: dict[UUID, RoomBooked] = field(default_factory=dict)

    @classmethod
    def of(cls, history: Iterable[Recorded[Any]]) -> Day:  # events of several classes
        """Fold the events of the stream."""
        day = cls()
        for recorded in history:
            match recorded.data:
                case RoomBooked() as booked:
                    day.seen.add(booked.booking_id)
                    day.held[booked.booking_id] = booked
                case BookingCancelled(booking_id=cancelled):
                    del day.held[cancelled]
            day.version = recorded.version
        return day

    def check(self, wanted: RoomBooked) -> None:
        """Refuse a booking that overlaps with another; one that was made already is no news.

        Raises:
            RoomTakenError: it overlaps.
        """
        if wanted.booking_id in self.seen:
            return
        for other in self.held.values():
            if wanted.starts < other.ends and other.starts < wanted.ends:
                raise RoomTakenError(other.starts, other.ends)


def book(tx: Transaction, stream_id: str, wanted: RoomBooked, request_id: str | None) -> Appended:
    """Append a booking where the room is free.

    Raises:
        RoomTakenError: it is not.
        IdempotencyMismatch: the request id came with another booking before.
        VersionConflict: others were faster, time and again.
    """
    for attempt in range(1, ATTEMPTS + 1):
        day = Day.of(tx.read_stream(stream_id))
        day.check(wanted)
        try:
            return tx.append(stream_id, wanted, expect=day.version, request_id=request_id)
        except VersionConflict:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")
