"""The application: one store and one engine a process, one session a request.

An event and the row that it changes are committed together: the session's transaction is the store's. The commit is a part
of the handler, so that no answer leaves before it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Final
from uuid import UUID, uuid4, uuid5

import asyncpg
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from eventstore import NO_STREAM, Event, EventStore, StreamId
from eventstore.sqlalchemy import join

from .models import EVENTS, Base, Order, OrderCancelled, OrderPaid, OrderPlaced, Status
from .requests import (
    Cancellation,
    Entry,
    IdempotencyKey,
    NewOrder,
    OrderView,
    Payment,
    answer_errors,
    etag,
    version_of,
)

KEYS: Final = UUID("8c0f2c3e-0b1a-4c55-9d0c-5f6f0c7c9b52")
"""The namespace of the ids of orders that came with an Idempotency-Key: the same key, the same order."""

router = APIRouter()


def create_app(url: str | None = None) -> FastAPI:
    """Return the application on a database; default: EVENTSTORE_URL, else a private server that ends with the process."""
    url = url or os.environ.get("EVENTSTORE_URL", "embedded:")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with EventStore(url, events=EVENTS, migrate=True) as store:
            engine = create_async_engine("postgresql+asyncpg://", async_creator=partial(asyncpg.connect, store.dsn))
            try:
                await create_tables(engine)
                app.state.store = store
                app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
                yield
            finally:
                await engine.dispose()

    app = FastAPI(title="Orders", lifespan=lifespan)
    app.include_router(router)
    answer_errors(app)
    return app


async def create_tables(engine: AsyncEngine) -> None:
    """Make the application's tables where they are missing; several processes may do so at once."""
    async with engine.begin() as connection:
        await connection.execute(text("select pg_advisory_xact_lock(hashtext('orders: tables'))"))
        await connection.run_sync(Base.metadata.create_all)


def store_of(request: Request) -> EventStore:
    """The process's store."""
    store: EventStore = request.app.state.store
    return store


async def session_of(request: Request) -> AsyncIterator[AsyncSession]:
    """A session for one request; what the handler has not committed is rolled back."""
    async with request.app.state.sessions() as session:
        yield session


Store = Annotated[EventStore, Depends(store_of)]
Session = Annotated[AsyncSession, Depends(session_of)]
SeenVersion = Annotated[int, Depends(version_of)]


@router.post("/orders", status_code=201)
async def place(
    new: NewOrder, response: Response, store: Store, session: Session, idempotency_key: IdempotencyKey = None
) -> OrderView:
    """Place an order. The same Idempotency-Key and body again give the same answer, and no second order."""
    order_id = uuid5(KEYS, idempotency_key) if idempotency_key else uuid4()
    async with session.begin():
        done = await join(store, session).append(
            stream_of(order_id),
            OrderPlaced(customer=new.customer, lines=new.lines),
            expect=NO_STREAM,
            request_id=idempotency_key,
        )
        cents = sum(line.pieces * line.cents for line in new.lines)
        order = Order(id=order_id, customer=new.customer, cents=cents, status="placed", version=done.version)
        if not done.deduplicated:
            session.add(order)
    response.headers.update({"Location": f"/orders/{order_id}", **etag(order.version)})
    return OrderView.model_validate(order)


@router.post("/orders/{order_id}/payment")
async def pay(
    order_id: UUID, payment: Payment, seen: SeenVersion, response: Response, store: Store, session: Session
) -> OrderView:
    """Note that an order is paid."""
    order = await change(store, session, order_id, seen, OrderPaid(reference=payment.reference), "paid")
    response.headers.update(etag(order.version))
    return OrderView.model_validate(order)


@router.post("/orders/{order_id}/cancellation")
async def cancel(
    order_id: UUID, cancellation: Cancellation, seen: SeenVersion, response: Response, store: Store, session: Session
) -> OrderView:
    """Cancel an order that is not paid."""
    order = await change(store, session, order_id, seen, OrderCancelled(reason=cancellation.reason), "cancelled")
    response.headers.update(etag(order.version))
    return OrderView.model_validate(order)


async def change(store: EventStore, session: AsyncSession, order_id: UUID, seen: int, event: Event, status: Status) -> Order:
    """Append the event that ends an order's being placed, and change its row, together.

    The version comes first: whoever has seen an older order is told so, and not what is wrong with one he has not seen.

    Raises:
        VersionConflict: the order has changed since the version that the caller has seen.
        HTTPException: 404 for no order, 409 for one that is paid or cancelled already.
    """
    async with session.begin():
        order = await session.get(Order, order_id, with_for_update=True)
        if order is None:
            raise HTTPException(404, f"there is no order {order_id}")
        done = await join(store, session).append(stream_of(order_id), event, expect=seen)
        if order.status != "placed":
            raise HTTPException(409, f"the order is {order.status}: only one that is placed can become {status}")
        order.status, order.version = status, done.version
    return order


@router.get("/orders/{order_id}")
async def read(order_id: UUID, response: Response, session: Session) -> OrderView:
    """Read an order from its row."""
    order = await session.get(Order, order_id)
    if order is None:
        raise HTTPException(404, f"there is no order {order_id}")
    response.headers.update(etag(order.version))
    return OrderView.model_validate(order)


@router.get("/orders/{order_id}/history")
async def history(order_id: UUID, store: Store) -> list[Entry]:
    """Read what has happened to an order from its stream."""
    entries = [
        Entry(
            version=recorded.version,
            type=recorded.type,
            at=recorded.recorded_at,
            data=recorded.data.model_dump(mode="json"),
        )
        async for recorded in store.read_stream(stream_of(order_id))
    ]
    if not entries:
        raise HTTPException(404, f"there is no order {order_id}")
    return entries


def stream_of(order_id: UUID) -> str:
    """The stream of an order's events."""
    return StreamId("order", order_id)
