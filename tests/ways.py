"""The ways to append inside a transaction, behind one face, so that what holds for each is tested on each.

A way begins, commits and rolls back as its owner does: by the store's block, the driver's transaction object, or the
session. `note` writes a row of the caller's own; `inner` is a savepoint of the caller's own.
"""

import asyncio
import contextlib

import asyncpg
import psycopg
from sqlalchemy import create_engine, orm, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from eventstore import sqlalchemy as joining
from eventstore import sync
from eventstore._drivers import urls

NOTE = "insert into mine (word) values ('{}')"


def address(database, driver):
    """The database's URL for SQLAlchemy."""
    return urls.to_sqlalchemy(database).replace("+psycopg", f"+{driver}")


class UndoError(Exception):
    """Raised in a block to roll it back."""


class Blocks:
    """Ways whose transactions are blocks: they end well or by an exception."""

    wakes = True  # the store learns of the commit by itself

    async def begin(self):
        self.stack = contextlib.AsyncExitStack()
        await self.stack.enter_async_context(self.block())

    async def commit(self):
        await self.stack.aclose()

    async def rollback(self):
        with contextlib.suppress(UndoError):
            await self.stack.__aexit__(UndoError, UndoError(), None)

    async def append(self, *args, **how):
        return await self.tx.append(*args, **how)

    async def read(self, *args, **how):
        return await self.tx.read_stream(*args, **how)

    async def version(self, stream_id):
        return await self.tx.stream_version(stream_id)

    async def note(self, word):
        await self.sql(NOTE.format(word))

    async def sql(self, statement):
        await self.connection.execute(statement)

    @contextlib.asynccontextmanager
    async def inner(self):
        with contextlib.suppress(UndoError):
            async with self.connection.transaction():
                yield


class OfTheStore(Blocks):
    """`store.transaction()`."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, store, database):
        self = cls()
        self.store = store
        yield self

    @contextlib.asynccontextmanager
    async def block(self):
        async with self.store.transaction() as self.tx:
            self.connection = self.tx.connection
            yield


class Asyncpg(Blocks):
    """`store.join()` of an asyncpg connection."""

    wakes = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, store, database):
        self = cls()
        self.store = store
        self.connection = await asyncpg.connect(database, ssl=False)
        try:
            yield self
        finally:
            await self.connection.close()

    @contextlib.asynccontextmanager
    async def block(self):
        async with self.connection.transaction():
            self.tx = self.store.join(self.connection)
            yield


class Psycopg(Blocks):
    """`store.join()` of a psycopg connection, which begins by itself."""

    wakes = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, store, database):
        self = cls()
        async with await psycopg.AsyncConnection.connect(database) as self.connection:
            self.tx = store.join(self.connection)
            yield self
            if not self.connection.closed:
                await self.connection.rollback()

    async def begin(self):
        """It begins by itself."""

    async def commit(self):
        await self.connection.commit()

    async def rollback(self):
        await self.connection.rollback()


class Session(Blocks):
    """`eventstore.sqlalchemy.join()` of an AsyncSession."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, store, database):
        self = cls()
        engine = create_async_engine(address(database, cls.driver))
        try:
            async with AsyncSession(engine) as self.session:
                self.tx = joining.join(store, self.session)
                yield self
        finally:
            await engine.dispose()

    async def begin(self):
        """A session begins by itself."""

    async def commit(self):
        await self.session.commit()

    async def rollback(self):
        await self.session.rollback()

    async def sql(self, statement):
        await self.session.execute(text(statement))

    @contextlib.asynccontextmanager
    async def inner(self):
        with contextlib.suppress(UndoError):
            async with self.session.begin_nested():
                yield


class AsyncpgSession(Session):
    driver = "asyncpg"


class PsycopgSession(Session):
    driver = "psycopg"


class InThreads:
    """What blocks runs in a thread beside the test."""

    async def commit(self):
        await asyncio.to_thread(self.owner.commit)

    async def rollback(self):
        await asyncio.to_thread(self.owner.rollback)

    async def append(self, *args, **how):
        return await asyncio.to_thread(self.tx.append, *args, **how)

    async def read(self, *args, **how):
        return await asyncio.to_thread(self.tx.read_stream, *args, **how)

    async def version(self, stream_id):
        return await asyncio.to_thread(self.tx.stream_version, stream_id)

    async def begin(self):
        """It begins by itself."""

    async def note(self, word):
        await self.sql(NOTE.format(word))

    async def sql(self, statement):
        await asyncio.to_thread(self.execute, statement)

    @contextlib.asynccontextmanager
    async def inner(self):
        savepoint = self.savepoint()
        await asyncio.to_thread(savepoint.__enter__)
        try:
            yield
        except UndoError as error:
            with contextlib.suppress(UndoError):
                await asyncio.to_thread(savepoint.__exit__, UndoError, error, None)
        else:
            await asyncio.to_thread(savepoint.__exit__, None, None, None)


class BlockingPsycopg(InThreads):
    """`eventstore.sync`'s `store.join()` of a psycopg connection."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, store, database):
        self = cls()
        with sync.EventStore(database) as opened, psycopg.connect(database) as self.owner:
            self.tx = opened.join(self.owner)
            yield self
            if not self.owner.closed:
                self.owner.rollback()

    def execute(self, statement):
        self.owner.execute(statement)

    def savepoint(self):
        return self.owner.transaction()


class BlockingSession(InThreads):
    """`eventstore.sqlalchemy.join()` of a Session."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, store, database):
        self = cls()
        engine = create_engine(address(database, "psycopg"))
        with sync.EventStore(database) as opened, orm.Session(engine) as self.owner:
            self.session = self.owner
            self.tx = joining.join(opened, self.owner)
            yield self
        engine.dispose()

    def execute(self, statement):
        self.owner.execute(text(statement))

    def savepoint(self):
        return self.owner.begin_nested()


ASYNC_WAYS = (OfTheStore, Asyncpg, Psycopg, AsyncpgSession, PsycopgSession)
WAYS = (*ASYNC_WAYS, BlockingPsycopg, BlockingSession)
