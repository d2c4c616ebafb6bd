"""What comes in and what goes out: bodies, headers, and the errors as problem details (RFC 9457)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError

from eventstore.errors import IdempotencyMismatch, Transient, VersionConflict

from .models import Line, Status, Text

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200, pattern=r"^[!-~]+$")]


class NewOrder(BaseModel):
    """The body of POST /orders."""

    customer: Text
    lines: Annotated[tuple[Line, ...], Field(min_length=1, max_length=500)]


class Payment(BaseModel):
    """The body of POST /orders/{id}/payment."""

    reference: Text


class Cancellation(BaseModel):
    """The body of POST /orders/{id}/cancellation."""

    reason: Text


class OrderView(BaseModel):
    """An order, as it is answered."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    customer: str
    cents: int
    status: Status
    version: int


class Entry(BaseModel):
    """One event of an order's history."""

    version: int
    type: str
    at: datetime
    data: dict[str, Any]


def version_of(if_match: Annotated[str | None, Header(description='The ETag of the order, such as "3"')] = None) -> int:
    """Return the version that a change is for: what the caller has seen.

    Raises:
        HTTPException: 428 without If-Match, 400 where it is no ETag of ours.
    """
    if if_match is None:
        raise HTTPException(428, 'say which version you have seen: send If-Match with the ETag of the order, such as "3"')
    if not (found := re.fullmatch(r'"([1-9]\d{0,17})"', if_match)):
        raise HTTPException(400, f'expected one ETag of an order in If-Match, such as "3", got {if_match}')
    return int(found[1])


def etag(version: int) -> dict[str, str]:
    """Return the header that names a version of an order."""
    return {"ETag": f'"{version}"'}


def answer_errors(app: FastAPI) -> None:
    """Give the store's errors their answers; any other is the server's own fault."""

    @app.exception_handler(VersionConflict)
    async def conflict(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, VersionConflict)
        found = {"stream": error.stream_id, "expected": error.expected, "actual": error.actual}
        cure = "the order has changed since you have read it: read it again, decide again, then send the new ETag"
        return problem(409, cure, headers=etag(error.actual), **found)

    @app.exception_handler(IdempotencyMismatch)
    async def mismatch(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, IdempotencyMismatch)
        cure = "this Idempotency-Key came with another body before: give every new order a key of its own"
        return problem(422, cure, idempotency_key=error.request_id)

    @app.exception_handler(Transient)
    @app.exception_handler(DBAPIError)
    async def transient(_request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, DBAPIError) and not error.connection_invalidated:
            raise error
        return problem(503, "the database is busy or restarting: send the same request again", {"Retry-After": "1"})


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **members: object) -> JSONResponse:
    """Return a problem details document."""
    body = {"type": "about:blank", "status": status, "detail": detail, **members}
    return JSONResponse(body, status, headers, media_type="application/problem+json")
