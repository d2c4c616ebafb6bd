"""The shop: its events, its read model, and clerks at work on orders that overlap."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from eventstore import Event, EventStore, Recorded
from eventstore.cli.console import Advance

from ..projection import Projection, on

__all__ = ["EVENTS", "Sales", "Shop", "an_order", "sales"]

WORKERS: Final = 24
PRODUCTS: Final = (("Espresso machine", 48900), ("Grinder", 17900), ("Beans 1 kg", 2450), ("Cup", 890), ("Descaler", 1290))
COUNTRIES: Final = ("NL", "DE", "FR", "ES", "IT", "PL")

sales = sa.Table(
    "demo_sales",
    sa.MetaData(),
    sa.Column("country", sa.Text, primary_key=True),
    sa.Column("orders", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("paid_cents", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("refunded_cents", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("shipped", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cancelled", sa.BigInteger, nullable=False, server_default="0"),
)


class OrderPlaced(Event):
    """A customer ordered something."""

    country: str
    total_cents: int


class ItemReserved(Event):
    """The warehouse put it aside."""

    product: str
    quantity: int


class PaymentReceived(Event):
    """The customer paid."""

    country: str
    amount_cents: int


class PaymentFailed(Event):
    """The bank said no."""

    reason: str


class OrderPacked(Event):
    """The warehouse packed it."""

    boxes: int


class OrderShipped(Event):
    """The carrier has it."""

    country: str
    carrier: str


class OrderDelivered(Event):
    """The customer has it."""

    signed_by: str


class OrderCancelled(Event):
    """The customer did not want it after all."""

    country: str
    reason: str


class PaymentRefunded(Event):
    """The money went back."""

    country: str
    amount_cents: int


class Sales(Projection):
    """Orders and money by country."""

    name = "demo_sales"
    table = sales

    @on(OrderPlaced)
    def placed(self, event: OrderPlaced, recorded: Recorded[Any], rows: Any) -> None:
        """One more order."""
        rows.add(country=event.country, orders=1)

    @on(PaymentReceived)
    def paid(self, event: PaymentReceived, recorded: Recorded[Any], rows: Any) -> None:
        """Money in."""
        rows.add(country=event.country, paid_cents=event.amount_cents)

    @on(PaymentRefunded)
    def refunded(self, event: PaymentRefunded, recorded: Recorded[Any], rows: Any) -> None:
        """Money out."""
        rows.add(country=event.country, refunded_cents=event.amount_cents)

    @on(OrderShipped)
    def shipped(self, event: OrderShipped, recorded: Recorded[Any], rows: Any) -> None:
        """One more parcel."""
        rows.add(country=event.country, shipped=1)

    @on(OrderCancelled)
    def cancelled(self, event: OrderCancelled, recorded: Recorded[Any], rows: Any) -> None:
        """One order less."""
        rows.add(country=event.country, cancelled=1)


EVENTS: Final = (
    OrderPlaced,
    ItemReserved,
    PaymentReceived,
    PaymentFailed,
    OrderPacked,
    OrderShipped,
    OrderDelivered,
    OrderCancelled,
    PaymentRefunded,
)


def an_order(chance: random.Random) -> list[list[Event]]:
    """One order's life: what is appended, append by append."""
    country = chance.choice(COUNTRIES)
    items = [(*chance.choice(PRODUCTS), chance.choice((1, 1, 1, 2, 3))) for _ in range(chance.choice((1, 1, 2, 3, 4)))]
    total = sum(price * quantity for _, price, quantity in items)
    steps: list[list[Event]] = [[OrderPlaced(country=country, total_cents=total)]]
    steps[0] += [ItemReserved(product=product, quantity=quantity) for product, _, quantity in items]
    if chance.random() < 0.08:
        steps.append([PaymentFailed(reason="card declined"), OrderCancelled(country=country, reason="not paid")])
        return steps
    steps.append([PaymentReceived(country=country, amount_cents=total)])
    if chance.random() < 0.05:
        steps[-1] += [
            OrderCancelled(country=country, reason="changed mind"),
            PaymentRefunded(country=country, amount_cents=total),
        ]
        return steps
    steps.append(
        [OrderPacked(boxes=1 + len(items) // 3), OrderShipped(country=country, carrier=chance.choice(("DHL", "UPS")))]
    )
    steps.append([OrderDelivered(signed_by=chance.choice(("customer", "neighbour")))])
    if chance.random() < 0.04:
        steps[-1].append(PaymentRefunded(country=country, amount_cents=total))
    return steps


class Shop:
    """Many clerks at work on orders that overlap; each append expects the version that the one before left."""

    def __init__(
        self, store: EventStore, lives: dict[str, list[list[Event]]], chance: random.Random, advance: Advance
    ) -> None:
        self._store, self._lives, self._advance = store, lives, advance
        self._versions = dict.fromkeys(lives, 0)
        self._turns = {
            order: asyncio.Lock() for order in lives
        }  # first come, first served: an order's steps keep their order
        moments = []
        for n, (order, life) in enumerate(lives.items()):
            moment = float(n)
            for step in range(len(life)):
                moments.append((moment, order, step))
                moment += chance.uniform(30, 600)
        self._agenda = deque(sorted(moments))
        self.total = sum(len(step) for life in lives.values() for step in life)
        self.appended = 0
        self.half_time: tuple[datetime, str] | None = None

    async def work(self) -> None:
        """Let the clerks work until everything is done."""
        async with asyncio.TaskGroup() as clerks:
            for _ in range(WORKERS):
                clerks.create_task(self._clerk())

    async def _clerk(self) -> None:
        while self._agenda:
            _, order, step = self._agenda.popleft()
            async with self._turns[order]:
                events = self._lives[order][step]
                with self._store.context(actor="clerk", correlation_id=order):
                    done = await self._store.append(order, events, expect=self._versions[order])
                self._versions[order] = done.version
            self.appended += len(events)
            self._advance(self.appended)
            more_to_come = 0 < step < len(self._lives[order]) - 1
            if self.half_time is None and more_to_come and self.appended >= self.total // 2:
                self.half_time = (await _last_recorded_at(self._store, order), order)


async def _last_recorded_at(store: EventStore, stream_id: str) -> datetime:
    return (await anext(store.read_stream(stream_id, backwards=True, limit=1))).recorded_at
