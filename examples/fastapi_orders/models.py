"""What is kept of an order: its events, which are the record, and a row to query."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventstore import Event

Status = Literal["placed", "paid", "cancelled"]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Line(BaseModel):
    """So many pieces of one article, at a price each."""

    model_config = ConfigDict(frozen=True)

    article: Text
    pieces: Annotated[int, Field(ge=1, le=10_000)]
    cents: Annotated[int, Field(ge=0, le=10_000_000)]


class OrderPlaced(Event):
    """A customer wants these articles."""

    customer: str
    lines: tuple[Line, ...]


class OrderPaid(Event):
    """The money is here; `reference` is the payment provider's."""

    reference: str


class OrderCancelled(Event):
    """Nothing will be sent."""

    reason: str


EVENTS: Final = (OrderPlaced, OrderPaid, OrderCancelled)


class Base(DeclarativeBase):
    """The application's own tables."""


class Order(Base):
    """An order as it stands; `version` is its stream's."""

    __tablename__ = "orders"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(index=True)
    cents: Mapped[int]
    status: Mapped[str]
    version: Mapped[int]
