"""``eventstore demo``: a shop at work, a read model that follows it, and a question about the past.

Orders, payments, shipments, cancellations and returns: some thirty thousand events, the same for the same seed. The
daemon follows while the shop works. Half-way through somebody looks at the clock; afterwards the read model's total and
one order are shown as they were then, and now.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import sqlalchemy as sa
import typer

from eventstore import Event, EventStore, Recorded
from eventstore.bulk import BadLine, CsvMapping, ImportLine, ImportResult, import_lines
from eventstore.cli.console import Advance, UrlOption, address, print_events, print_table, progress_bar, run, say, tell
from eventstore.cli.imports import csv_mapping, lines_of
from eventstore.errors import InvalidArgument
from eventstore.history import History

from .daemon import Daemon
from .projection import Projection, on

__all__ = ["demo"]

DEFAULT_URL: Final = "embedded:./.eventstore/demo"
ORDERS: Final = 3200
WORKERS: Final = 24
PRODUCTS: Final = (("Espresso machine", 48900), ("Grinder", 17900), ("Beans 1 kg", 2450), ("Cup", 890), ("Descaler", 1290))
COUNTRIES: Final = ("NL", "DE", "FR", "ES", "IT", "PL")

metadata = sa.MetaData()
sales = sa.Table(
    "demo_sales",
    metadata,
    sa.Column("country", sa.Text, primary_key=True),
    sa.Column("orders", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("paid_cents", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("refunded_cents", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("shipped", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cancelled", sa.BigInteger, nullable=False, server_default="0"),
)
activity = sa.Table(
    "demo_activity",
    metadata,
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("events", sa.BigInteger, nullable=False, server_default="0"),
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
        run(_shop(url, orders, seed))
    else:
        run(_own_log(url, file, stream, type_, occurred_at))


# -- the shop


def _order(chance: random.Random) -> list[list[Event]]:
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


class _Shop:
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


async def _shop(url: str, orders: int, seed: int) -> None:
    chance = random.Random(seed)
    begun = time.monotonic()
    async with _opened(url, None) as store:
        run_number = await _next_run(store)
        lives = {f"order-{run_number}-{n}": _order(chance) for n in range(1, orders + 1)}
        with progress_bar("the shop is open", None) as bar:
            shop = _Shop(store, lives, chance, bar)
            bar(0, total=shop.total)
            daemon = await _follow(store, [Sales()], shop.work())
        seconds = daemon.seconds
        rate = f"{shop.appended / seconds:,.0f} events/s"
        tell(f"{shop.appended:,} events in {seconds:.1f} s ({rate}, each append a transaction of its own); the read model")
        tell(f"followed in the same process and was complete {daemon.lag_seconds * 1000:.0f} ms after the last one.\n")
        assert shop.half_time is not None
        then, order = shop.half_time
        await _tell_sales(store, then)
        await _tell_stream(store, order, then)
        _go_on(url, order, then, time.monotonic() - begun)


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
        row = self.found.setdefault(country, {})
        for name, amount in amounts.items():
            row[name] = row.get(name, 0) + amount


# -- a user's own log


async def _own_log(url: str, file: Path, stream: str, type_: str, occurred_at: str) -> None:
    mapping = csv_mapping(str(file), stream, type_, occurred_at)
    begun = time.monotonic()
    types = sorted({line.event.event.type for line in _lines(file, mapping) if isinstance(line, ImportLine)})
    if not types:
        raise InvalidArgument(f"{file} holds no event")
    async with _opened(url, []) as store:
        with ExitStack() as stack:
            total, lines = lines_of(stack, str(file), mapping)
            bar = stack.enter_context(progress_bar("importing", total))
            result = ImportResult()

            async def work() -> None:
                nonlocal result
                result = await import_lines(store, lines, on_bad=_refuse, on_progress=lambda r: bar(r.read))

            daemon = await _follow(store, [_activity_of(types)], work())
        rate = result.added / daemon.seconds
        tell(f"{result.added:,} events added ({rate:,.0f} events/s), {result.present:,} were there already\n")
        await _tell_activity(store)
        name, middle = await _longest_of(store, file, mapping)
        await _tell_stream(store, name, middle, valid=True)
        _go_on(url, name, middle, time.monotonic() - begun, valid=True)


def _lines(file: Path, mapping: CsvMapping | None) -> Sequence[ImportLine | BadLine]:
    with ExitStack() as stack:
        return list(lines_of(stack, str(file), mapping)[1])


def _refuse(bad: BadLine) -> None:
    raise InvalidArgument(f"line {bad.number}: {bad.reason}; `eventstore import --on-error skip` can leave it out")


def _activity_of(types: Sequence[str]) -> Projection:
    class Activity(Projection):
        """How many events of each type."""

        name = "demo_activity"
        table = activity

        @on(*types)
        def count(self, event: Any, recorded: Recorded[Any], rows: Any) -> None:
            """One more."""
            rows.add(type=recorded.type, events=1)

    return Activity()


async def _tell_activity(store: EventStore) -> None:
    engine = sa.create_engine(store.dsn.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=sa.NullPool)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(activity).order_by(activity.c.events.desc()).limit(12)).all()
    print_table("The read model: events by type", ("type", "events"), [tuple(row) for row in rows])


async def _longest_of(store: EventStore, file: Path, mapping: CsvMapping | None) -> tuple[str, datetime]:
    """The stream with the most events in the file, and when its middle event occurred."""
    counts: dict[str, int] = {}
    for line in _lines(file, mapping):
        if isinstance(line, ImportLine):
            counts[line.stream_id] = counts.get(line.stream_id, 0) + 1
    name = max(counts, key=lambda stream_id: counts[stream_id])
    times = sorted([recorded.occurred_at async for recorded in store.read_stream(name)])
    return name, times[len(times) // 2]


# -- both


@asynccontextmanager
async def _opened(url: str, events: list[type] | None) -> AsyncIterator[EventStore]:
    chosen = [
        OrderPlaced,
        ItemReserved,
        PaymentReceived,
        PaymentFailed,
        OrderPacked,
        OrderShipped,
        OrderDelivered,
        OrderCancelled,
    ]
    events = [*chosen, PaymentRefunded] if events is None else events
    say("starting a private PostgreSQL" if url.startswith("embedded:") else "connecting")
    async with EventStore(address(url), events=events, migrate=True, application_name="eventstore-demo") as store:
        yield store


class _Followed:
    """How the work and its follower went."""

    seconds = 0.0
    lag_seconds = 0.0


async def _follow(store: EventStore, projections: Sequence[Projection], work: Coroutine[Any, Any, None]) -> _Followed:
    """Do the work while the projections follow it; return when they have caught up."""
    told = _Followed()
    async with Daemon(store, projections, create=True) as daemon:
        following = asyncio.create_task(daemon.run())
        begun = time.monotonic()
        await asyncio.wait({working := asyncio.create_task(work), following}, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            working.cancel()
            following.result()
        await working
        told.seconds = time.monotonic() - begun
        daemon.stop()
        await following
        await daemon.run_until_caught_up()
        told.lag_seconds = time.monotonic() - begun - told.seconds
    return told


async def _next_run(store: EventStore) -> int:
    """The demo may be played again on the same data: its orders get another number."""
    number = 1
    while await store.stream_version(f"order-{number}-1"):
        number += 1
    return number


async def _tell_stream(store: EventStore, name: str, then: datetime, *, valid: bool = False) -> None:
    found = await History(store).stream(name, valid_at=then) if valid else await History(store).stream(name, at=then)
    known = "what had occurred by" if valid else "what was known at"
    print_events(f"{name}: {known} {then.isoformat(' ', 'milliseconds')}", found.events, stream=False)
    print_events(f"{name}: what came since", found.since, stream=False)


def _go_on(url: str, name: str, then: datetime, seconds: float, *, valid: bool = False) -> None:
    if url == "embedded:":
        tell(
            f"All of it took {seconds:.1f} s, on a temporary server that is gone now; --url embedded:./folder keeps the data."
        )
        return
    command = Path("eventstore") if shutil.which("eventstore") else Path(sys.argv[0])
    tell(f"All of it took {seconds:.1f} s. Go on with:\n")
    tell(f"  export EVENTSTORE_URL='{url if url.startswith('embedded:') else '...'}'")
    tell(f"  {command} read {name}")
    tell(f"  {command} history {name} {'--valid-at' if valid else '--at'} '{then.isoformat()}' --diff")
    tell(f"  {command.with_name('projections')} status")
    if url.startswith("embedded:"):
        tell(f"  {command} embedded start {url.removeprefix('embedded:')}    # and psql, or any client, on what it prints")
