"""The application: one store and one engine a process, one session a request.

An event and the row that it changes are committed together: the session's transaction is the store's. Views commit before
they answer.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID, uuid4, uuid5

from flask import Blueprint, Flask, Response, abort, current_app, jsonify, request
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from eventstore import EXISTS
from eventstore.sqlalchemy import join
from eventstore.sync import EventStore

from .booking import book
from .models import Base, Booking, BookingCancelled, RoomBooked, stream_of
from .requests import BookingView, NewBooking, RoomDay, answer_errors, idempotency_key

KEYS: Final = UUID("0f3e8f5a-63a5-4c9e-8f3e-3d3f9b7a1c55")
"""The namespace of the ids of bookings that came with an Idempotency-Key: the same key, the same booking."""

views = Blueprint("bookings", __name__)


def create_app(store: EventStore, engine: Engine) -> Flask:
    """Return the application on an open store and an engine for the same database. The caller closes both."""
    create_tables(engine)
    app = Flask(__name__)
    app.extensions["store"], app.extensions["engine"] = store, engine
    app.register_blueprint(views)
    answer_errors(app)
    return app


def create_tables(engine: Engine) -> None:
    """Make the application's tables where they are missing; several processes may do so at once."""
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(hashtext('bookings: tables'))"))
        Base.metadata.create_all(connection)


def store() -> EventStore:
    """The process's store."""
    opened: EventStore = current_app.extensions["store"]
    return opened


def session() -> Session:
    """A session for one request."""
    return Session(current_app.extensions["engine"], expire_on_commit=False)


@views.post("/bookings")
def make_booking() -> tuple[Response, int, dict[str, str]]:
    """Book a room. The same Idempotency-Key and body again give the same answer, and no second booking."""
    new, key = NewBooking.model_validate(request.get_json()), idempotency_key()
    booking = Booking(id=uuid5(KEYS, key) if key else uuid4(), cancelled=False, **new.model_dump())
    event = RoomBooked(booking_id=booking.id, guest=new.guest, starts=new.starts, ends=new.ends)
    with session() as db, db.begin():
        done = book(join(store(), db), stream_of(new.room, new.day), event, key)
        if not done.deduplicated:
            db.add(booking)
    return shown(booking), 201, {"Location": f"/bookings/{booking.id}"}


@views.delete("/bookings/<uuid:booking_id>")
def cancel_booking(booking_id: UUID) -> tuple[str, int]:
    """Give the hours back. Once is enough; again does no harm."""
    with session() as db, db.begin():
        booking = db.get(Booking, booking_id, with_for_update=True) or abort(404)
        if not booking.cancelled:
            event = BookingCancelled(booking_id=booking_id)
            join(store(), db).append(stream_of(booking.room, booking.day), event, expect=EXISTS)
            booking.cancelled = True
    return "", 204


@views.get("/bookings/<uuid:booking_id>")
def read_booking(booking_id: UUID) -> Response:
    """Read a booking from its row."""
    with session() as db:
        return shown(db.get(Booking, booking_id) or abort(404))


@views.get("/rooms/<room>/<day>")
def read_day(room: str, day: str) -> Response:
    """Read who has a room on a day, from the rows."""
    asked = RoomDay.model_validate({"room": room, "day": day})
    held = select(Booking).where(Booking.room == asked.room, Booking.day == asked.day, ~Booking.cancelled)
    with session() as db:
        rows = db.scalars(held.order_by(Booking.starts))
        return jsonify([BookingView.model_validate(row).model_dump(mode="json") for row in rows])


@views.get("/rooms/<room>/<day>/history")
def read_history(room: str, day: str) -> Response:
    """Read what has happened to a room's day, from its stream."""
    asked = RoomDay.model_validate({"room": room, "day": day})
    history = store().read_stream(stream_of(asked.room, asked.day))
    return jsonify(
        [
            {
                "version": recorded.version,
                "type": recorded.type,
                "at": recorded.recorded_at.isoformat(),
                "data": recorded.data.model_dump(mode="json"),
            }
            for recorded in history
        ]
    )


def shown(booking: Booking) -> Response:
    """Return a booking as JSON."""
    return jsonify(BookingView.model_validate(booking).model_dump(mode="json"))
