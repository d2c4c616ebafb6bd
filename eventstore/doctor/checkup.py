"""Look at everything once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from .. import embedded
from .._drivers import urls
from .._drivers.asyncpg import AsyncpgConnection, AsyncpgDriver
from .._drivers.budget import READER_SETTINGS
from ..store import EventStore
from . import activity, connecting, log, packages, rights, sequence, server, settings
from .examination import Check, Examination
from .findings import Finding, Level, Report
from .objects import objects_check

__all__ = ["GROUP", "examine"]

GROUP: Final = "eventstore.doctor"
"""The entry point group by which other packages add checks: each entry is a sequence of `Check`."""

_OBJECTS: Final = objects_check("objects", Path(__file__).parent.parent / "sql" / "schema")

CHECKS: Final = (
    *settings.CHECKS,
    *connecting.CHECKS,
    _OBJECTS,
    *sequence.CHECKS,
    *rights.CHECKS,
    *server.CHECKS,
    *log.CHECKS,
    *activity.CHECKS,
    *packages.CHECKS,
)


async def examine(store: EventStore, *, listen_url: str = "") -> Report:
    """Look at a store's server, schema, connections and log; change nothing.

    Args:
        store: open or not; it need not be one that can be opened. Its address, schema and asyncpg pool are used.
        listen_url: where it would listen, as in `WakeUps`; default: where it is.

    Raises:
        CannotConnect, AuthenticationFailed: no server to look at.
        Transient: it does not answer, or has no connection left.

    Guarantees: ends, each check within 15 s; one that fails says why, and the others go on. Writes nothing but the
    notification of the LISTEN self-test.
    """
    async with _address(store) as address:
        examination = _examination(store, address, listen_url)
        await examination.begin()
        try:
            return Report(tuple([finding async for finding in _all(examination)]))
        finally:
            await examination.end()


async def _all(examination: Examination) -> AsyncIterator[Finding]:
    for check in server.SERVER:
        for finding in await check.run(examination):
            yield finding
    for check in (*CHECKS, *_of_others()):
        if check.needs_schema and not examination.has_schema:
            continue
        for finding in await check.run(examination):
            yield finding


def _of_others() -> list[Check]:
    checks: list[Check] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda found: found.name):
        try:
            checks.extend(entry.load())
        except Exception as error:
            checks.append(_broken(entry.name, f"{entry.value} could not be loaded: {type(error).__name__}: {error}"))
    return checks


def _broken(name: str, why: str) -> Check:
    async def look(_examination: Examination) -> Sequence[Finding]:
        return [Finding(name, Level.WARNING, f"could not look: {why}", "checks that can be loaded", "pip check")]

    return Check(name, look)


@contextlib.asynccontextmanager
async def _address(store: EventStore) -> AsyncIterator[str]:
    """The store's libpq URL; an embedded server that does not run is started for as long as it takes."""
    if not store._embedded or store.dsn:
        yield store.dsn
        return
    folder = embedded.parse_embedded_url(str(store._url))
    started = await asyncio.to_thread(embedded.start, folder)
    try:
        yield started.dsn
    finally:
        await asyncio.to_thread(started.stop)


def _examination(store: EventStore, dsn: str, listen_url: str) -> Examination:
    driver = AsyncpgDriver(store._pool or dsn, store.schema, store._budget, f"{store._name} doctor", store._cache_size)
    listen_dsn = urls.to_libpq(listen_url) if listen_url else store._listen_dsn

    async def connect() -> AsyncpgConnection:
        return await driver.connect_plainly("look")

    async def connect_as_store() -> AsyncpgConnection:
        return await driver.connect("connect", {**READER_SETTINGS, "lock_timeout": "5s"})

    async def connect_to_listen() -> AsyncpgConnection:
        return await driver.connect_plainly("listen", dsn=listen_dsn)

    return Examination(
        store.schema,
        connect,
        connect_as_store,
        connect_to_listen,
        listen_url=bool(listen_dsn),
        from_pool=store._pool is not None,
        has_settings=driver.has_settings,
    )
