"""One examination: its connection, and how a check is run on it.

**Authority.** None: it looks. Every check runs in a READ ONLY transaction of its own, which is rolled back; the only thing
that leaves a trace is the notification of the LISTEN self-test, on a channel of its own.

**Ends.** A statement has 5 s, a check 15 s, a connection 10 s, and the clean-up after a check 2 s. A check that fails is
reported, and the others go on; a connection that died is made anew, until the server cannot be reached any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .._drivers.asyncpg import AsyncpgConnection
from .._operations.statement import Row, Statement, load_sql
from ..errors import ConnectionLost, EventStoreError, PermissionDenied, SchemaMissing
from .findings import Finding, Level

__all__ = ["Check", "Examination", "sql"]

STATEMENT_SECONDS: Final = 5
CHECK_SECONDS: Final = 15.0
END_SECONDS: Final = 2.0

_FOLDER: Final = Path(__file__).parent.parent / "sql" / "doctor"

Connect = Callable[[], Awaitable[AsyncpgConnection]]


def sql(name: str) -> str:
    """Return one of the doctor's queries."""
    return load_sql(_FOLDER, name)


_FACTS: Final = sql("facts")


@dataclass(slots=True)
class Examination:
    """What the checks are given. Made by `examine`.

    Attributes:
        schema: the schema's name.
        connect: opens a connection that asks for no settings.
        connect_as_store: opens one as a store does.
        connect_to_listen: opens one where a store would listen.
        listen_url: whether that is another address.
        from_pool: whether connections come from the user's own asyncpg pool.
        has_settings: whether the store's connections carry the settings of ours: not out of a pool, nor with
            statement_cache_size=0.
        role, database: who looks, and where.
        version, version_text: the server's, as a number (150004) and in words.
        standby: whether the server is one.
        sees_all: whether the role may look into other sessions.
        has_schema: whether the schema's tables are there.
        schema_version: its version, once the check `schema` has looked.
    """

    schema: str
    connect: Connect
    connect_as_store: Connect
    connect_to_listen: Connect
    listen_url: bool = False
    from_pool: bool = False
    has_settings: bool = True
    role: str = ""
    database: str = ""
    version: int = 0
    version_text: str = ""
    standby: bool = False
    sees_all: bool = False
    has_schema: bool = False
    schema_version: int = 0
    _connection: AsyncpgConnection | None = field(default=None, repr=False)
    _gone: Exception | None = field(default=None, repr=False)

    @property
    def connection(self) -> AsyncpgConnection:
        """The connection that a check runs on, inside a READ ONLY transaction."""
        assert self._connection is not None
        return self._connection

    async def rows(self, text: str, *args: Any) -> Sequence[Row]:  # whatever PostgreSQL takes
        """Run one query, written for the schema ``"eventstore"``."""
        return await self.connection.fetch(Statement(text, args))

    async def begin(self) -> None:
        """Connect, and learn the facts that the checks rest on.

        Raises:
            EventStoreError: no connection could be made.
            ConnectionLost: none in time: the server does not answer, or all connections of the pool are in use.
        """
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                self._connection = await self.connect()
                async with self.looking():
                    rows = await self.rows(_FACTS)
        except TimeoutError as error:
            await self.end()
            raise ConnectionLost(
                f"no connection that answers could be had within {CHECK_SECONDS:.0f} s; try again"
            ) from error
        self.role, self.database, self.version, self.version_text, self.standby, self.sees_all = rows[0]

    async def end(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """A READ ONLY transaction, rolled back. Through a transaction pooler it also keeps one server connection."""
        if self.connection.closed:
            await self._reconnect()
        await self._say("begin transaction isolation level read committed read only")
        try:
            await self._say(f"set local statement_timeout = '{STATEMENT_SECONDS}s'")
            yield
        finally:
            await asyncio.shield(self._roll_back())

    async def _reconnect(self) -> None:
        """Once the server cannot be reached again, the checks that are left say so without waiting for it."""
        if self._gone is not None:
            raise ConnectionLost(str(self._gone)) from self._gone
        await self.connection.close()  # gives it back, if it is a pool's
        try:
            async with asyncio.timeout(CHECK_SECONDS / 2):
                self._connection = await self.connect()
        except (EventStoreError, TimeoutError) as error:
            self._gone = error
            raise

    async def _say(self, text: str) -> None:
        await self.connection.execute(Statement(text))

    async def _roll_back(self) -> None:
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._say("rollback")
        except (EventStoreError, TimeoutError):
            self.connection.abort()


Look = Callable[[Examination], Awaitable[Sequence[Finding]]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check. Other packages add theirs by the entry point group ``eventstore.doctor``: a sequence of these.

    Attributes:
        name: what its findings are called.
        look: returns what it found, at least one finding. It runs inside a READ ONLY transaction.
        needs_schema: it is left out where the schema is not there.
    """

    name: str
    look: Look
    needs_schema: bool = False

    async def run(self, examination: Examination) -> Sequence[Finding]:
        """Return what it found, or why it could not look."""
        try:
            async with asyncio.timeout(CHECK_SECONDS), examination.looking():
                return await self.look(examination)
        except PermissionDenied as error:
            return [self._blind(Level.NOTE, str(error))]
        except SchemaMissing as error:
            return [self._blind(Level.ERROR, str(error))]
        except TimeoutError:
            return [self._blind(Level.WARNING, f"the server did not answer within {CHECK_SECONDS:.0f} s")]
        except Exception as error:
            why = str(error) if isinstance(error, EventStoreError) else f"{type(error).__name__}: {error}"
            return [self._blind(Level.WARNING, why)]

    def _blind(self, level: Level, why: str) -> Finding:
        return Finding(self.name, level, f"could not look: {why}", "a look")
