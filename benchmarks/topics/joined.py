"""An append inside a transaction, against a bare one: begin, one INSERT, commit, from a caller that waits for each.

Ours in the store's own transaction, and joined to a SQLAlchemy session, where the same session with one INSERT of its own
shows what SQLAlchemy takes. Such an append has a savepoint, looks at the stream's head, and tells readers of the commit.
"""

import contextlib
import uuid

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from eventstore import EventStore
from eventstore._drivers import urls
from eventstore.sqlalchemy import join

from .. import calling
from ..core import OURS, Contest, Contestant
from ..sample import event
from .append import INSERT, STREAM_LENGTH

SESSION_INSERT = sa.text(
    """insert into eventstore.events (stream_id, version, type, event_id, data)
       values (:stream, :version, 'Deposited', :id, cast(cast(:data as text) as jsonb)) returning position"""
)


def contests(scale):
    """One for each owner of the transaction."""
    bare = Contestant("asyncpg", in_connection)
    ways = {
        "store": ("store.transaction()", (Contestant(OURS, in_store), bare)),
        "sqlalchemy": (
            "a SQLAlchemy session",
            (Contestant(OURS, in_session), bare, Contestant("the session's own INSERT", in_bare_session)),
        ),
    }
    for name, (title, contestants) in ways.items():
        yield Contest(
            topic="joined",
            key=f"joined.{name}",
            title=f"one append in {title}",
            contestants=contestants,
            size=scale.pick(3.0, 0.3),
            warmup=scale.pick(0.5, 0.1),
            unit="transactions/s",
        )


async def in_store(arena, seconds):
    """`EventStore.transaction`."""
    async with EventStore(arena.dsn) as store:

        async def append(stream_id, n):
            async with store.transaction() as tx:
                await tx.append(stream_id, event(n), expect=n % STREAM_LENGTH)

        return await _one_caller(arena, seconds, append)


async def in_session(arena, seconds):
    """`eventstore.sqlalchemy.join`."""
    async with EventStore(arena.dsn) as store, _session(arena) as session:
        tx = join(store, session)

        async def append(stream_id, n):
            await tx.append(stream_id, event(n), expect=n % STREAM_LENGTH)
            await session.commit()

        return await _one_caller(arena, seconds, append)


async def in_bare_session(arena, seconds):
    """The same session without us."""
    async with _session(arena) as session:

        async def append(stream_id, n):
            row = {"stream": stream_id, "version": n % STREAM_LENGTH + 1, "id": uuid.uuid4()}
            await session.execute(SESSION_INSERT, row | {"data": event(n).model_dump_json()})
            await session.commit()

        return await _one_caller(arena, seconds, append)


async def in_connection(arena, seconds):
    """A prepared INSERT in an asyncpg transaction."""
    connection = await arena.connect()
    statement = await connection.prepare(INSERT)

    async def append(stream_id, n):
        async with connection.transaction():
            await statement.fetchval(stream_id, n % STREAM_LENGTH + 1, uuid.uuid4(), event(n).model_dump_json())

    try:
        return await _one_caller(arena, seconds, append)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def _session(arena):
    engine = create_async_engine(urls.to_sqlalchemy(arena.dsn).replace("+psycopg", "+asyncpg"))
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


async def _one_caller(arena, seconds, append):
    token = arena.token()

    async def call(_caller, n):
        await append(f"bench-{token}-{n // STREAM_LENGTH}", n)

    return await calling.measure(arena.meter, 1, seconds, call)
