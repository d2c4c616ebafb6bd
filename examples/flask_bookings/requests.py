"""What comes in and what goes out: bodies, and the errors as problem details (RFC 9457)."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from flask import Flask, Response, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from sqlalchemy.exc import DBAPIError

from eventstore.errors import IdempotencyMismatch, Transient, VersionConflict

from .booking import RoomTakenError

Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f]*$")]
Hour = Annotated[int, Field(ge=0, le=24)]
_KEY: TypeAdapter[str | None] = TypeAdapter(Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")] | None)


class RoomDay(BaseModel):
    """A room's day."""

    room: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]
    day: datetime.date


class NewBooking(RoomDay):
    """The body of POST /bookings: full hours of one day."""

    starts: Hour
    ends: Hour
    guest: Name

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.starts >= self.ends:
            raise ValueError(f"a booking ends after it starts, got {self.starts} to {self.ends}")
        return self


class BookingView(BaseModel):
    """A booking, as it is answered."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    room: str
    day: datetime.date
    starts: int
    ends: int
    guest: str
    cancelled: bool


def idempotency_key() -> str | None:
    """Return the request's Idempotency-Key, if it has one.

    Raises:
        ValidationError: it is empty, too long, or not printable ASCII.
    """
    return _KEY.validate_python(request.headers.get("Idempotency-Key"))


def answer_errors(app: Flask) -> None:
    """Give the errors of the domain and of the store their answers; any other is the server's own fault."""

    @app.errorhandler(ValidationError)
    def invalid(error: ValidationError) -> Response:
        return problem(422, "the request is not valid", errors=error.errors(include_url=False, include_context=False))

    @app.errorhandler(RoomTakenError)
    def taken(error: RoomTakenError) -> Response:
        return problem(409, str(error), starts=error.starts, ends=error.ends)

    @app.errorhandler(VersionConflict)
    def conflict(error: VersionConflict) -> Response:
        return problem(409, "too many others book this room: try again", expected=error.expected, actual=error.actual)

    @app.errorhandler(IdempotencyMismatch)
    def mismatch(error: IdempotencyMismatch) -> Response:
        cure = "this Idempotency-Key came with another body before: give every new booking a key of its own"
        return problem(422, cure, idempotency_key=error.request_id)

    @app.errorhandler(Transient)
    @app.errorhandler(DBAPIError)
    def transient(error: Transient | DBAPIError) -> Response:
        if isinstance(error, DBAPIError) and not error.connection_invalidated:
            raise error
        answer = problem(503, "the database is busy or restarting: send the same request again")
        answer.headers["Retry-After"] = "1"
        return answer


def problem(status: int, detail: str, **members: Any) -> Response:  # any JSON
    """Return a problem details document."""
    answer = jsonify(type="about:blank", status=status, detail=detail, **members)
    answer.status_code, answer.content_type = status, "application/problem+json"
    return answer
