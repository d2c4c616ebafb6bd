"""What is kept of bookings: the events of a room's day, which are the record, and a row a booking to query."""

from __future__ import annotations

import datetime
from typing import Final
from uuid import UUID

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventstore import Event, StreamId


class RoomBooked(Event):
    """A guest has the room from one full hour to another."""

    booking_id: UUID
    guest: str
    starts: int
    ends: int


class BookingCancelled(Event):
    """The hours of a booking are free again."""

    booking_id: UUID


EVENTS: Final = (RoomBooked, BookingCancelled)


class Base(DeclarativeBase):
    """The application's own tables."""


class Booking(Base):
    """A booking as it stands."""

    __tablename__ = "bookings"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    room: Mapped[str] = mapped_column(index=True)
    day: Mapped[datetime.date]
    starts: Mapped[int]
    ends: Mapped[int]
    guest: Mapped[str]
    cancelled: Mapped[bool] = mapped_column(default=False)


def stream_of(room: str, day: datetime.date) -> str:
    """The stream of a room's day: what must not overlap is decided in one stream."""
    return StreamId("room", f"{room}-{day}")
