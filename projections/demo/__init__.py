"""``eventstore demo``: a shop at work, a read model that follows it, and a question about the past.

Orders, payments, shipments, cancellations and returns: some twenty thousand events, the same for the same seed. The
daemon follows while the shop works. Half-way through somebody looks at the clock; afterwards the read model's total and
one order are shown as they were then, and now.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import sqlalchemy as sa
import typer

from eventstore import EventStore
from eventstore.cli.console import UrlOption, print_table, progress_bar, run, tell
from eventstore.history import History

from .own_log import play_own_log
from .playing import follow, go_on, opened, tell_stream
from .shop import EVENTS, Sales, Shop, an_order, sales

__all__ = ["demo"]

DEFAULT_URL: Final = "embedded:./.eventstore/demo"
ORDERS: Final = 3200


def demo(
    file: Annotated[
        Path | None, typer.Option(help="your own log instead: JSON lines, or CSV with the options below")
    ] = None,
    stream: Annotated[str, typer.Option(help="CSV: the stream id, a template like 'case-{column}'")] = "",
    type_: Annotated[str, typer.Option("--type", help="CSV: the event type, a template")] = "",
    occurred_at: Annotated[str, typer.Option(help="CSV: when it was true, a template")] = "",
    orders: Annotated[int, typer.Option(help="how many orders the shop takes", min=10)] = ORDERS,
    seed: Annotated[int, typer.Option(help="the same seed, the same business")] = 7,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Show it all in seconds: events in, a read model that follows, and an answer about the past."""
    if file is None:
        run(_play_shop(url, orders, seed))
    else:
        run(play_own_log(url, file, stream, type_, occurred_at))


async def _play_shop(url: str, orders: int, seed: int) -> None:
    chance = random.Random(seed)
    begun = time.monotonic()
    async with opened(url, EVENTS) as store:
        run_number = await _next_run(store)
        lives = {f"order-{run_number}-{n}": an_order(chance) for n in range(1, orders + 1)}
        with progress_bar("the shop is open", None) as bar:
            shop = Shop(store, lives, chance, bar)
            bar(0, total=shop.total)
            daemon = await follow(store, [Sales()], shop.work())
        seconds = daemon.seconds
        rate = f"{shop.appended / seconds:,.0f} events/s"
        tell(f"{shop.appended:,} events in {seconds:.1f} s ({rate}, each append a transaction of its own); the read model")
        tell(f"followed in the same process and was complete {daemon.lag_seconds * 1000:.0f} ms after the last one.\n")
        assert shop.half_time is not None
        then, order = shop.half_time
        await _tell_sales(store, then)
        await tell_stream(store, order, then)
        go_on(url, order, then, time.monotonic() - begun)


async def _tell_sales(store: EventStore, then: datetime) -> None:
    """The read model's rows now, and the fold of the same handlers over the log as it was then."""
    before = await _sales_at(store, then)
    engine = sa.create_engine(store.dsn.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=sa.NullPool)
    with engine.connect() as connection:
        now = {row.country: row._asdict() for row in connection.execute(sa.select(sales).order_by(sales.c.country))}
    rows: list[tuple[object, ...]] = []
    for country, row in now.items():
        old = before.get(country, {})
        rows.append((country, row["orders"], row["shipped"], row["cancelled"], *_money(old, row)))
    old_total = {name: sum(row.get(name, 0) for row in before.values()) for name in ("paid_cents", "refunded_cents")}
    total = {name: sum(row[name] for row in now.values()) for name in ("orders", "shipped", "cancelled", *old_total)}
    rows.append(("total", total["orders"], total["shipped"], total["cancelled"], *_money(old_total, total)))
    title = f"The read model now, and its turnover as of {then.isoformat(' ', 'milliseconds')}"
    print_table(title, ("country", "orders", "shipped", "cancelled", "turnover then", "now", "difference"), rows)


def _money(then: dict[str, Any], now: dict[str, Any]) -> tuple[str, str, str]:
    old = then.get("paid_cents", 0) - then.get("refunded_cents", 0)
    new = now["paid_cents"] - now["refunded_cents"]
    return f"{old / 100:,.2f}", f"{new / 100:,.2f}", f"{(new - old) / 100:+,.2f}"


async def _sales_at(store: EventStore, then: datetime) -> dict[str, dict[str, int]]:
    """Fold the log with the projection's own handlers, up to the position that it had reached then."""
    upto = await History(store).as_of(then)
    projection, rows = Sales(), _Counted()
    handlers: dict[str, Callable[..., None]] = {
        "OrderPlaced": projection.placed,
        "PaymentReceived": projection.paid,
        "PaymentRefunded": projection.refunded,
        "OrderShipped": projection.shipped,
        "OrderCancelled": projection.cancelled,
    }
    async for recorded in store.read_all(types=list(handlers)):
        if recorded.position > upto:
            break
        handlers[recorded.type](recorded.data, recorded, rows)
    return rows.found


class _Counted:
    """Stands in for `Rows`: adds up in memory."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, int]] = {}

    def add(self, country: str, **amounts: int) -> None:
        """Add amounts to a country's."""
        row = self.found.setdefault(country, {})
        for name, amount in amounts.items():
            row[name] = row.get(name, 0) + amount


async def _next_run(store: EventStore) -> int:
    """The demo may be played again on the same data: its orders get another number."""
    number = 1
    while await store.stream_version(f"order-{number}-1"):
        number += 1
    return number
