"""The way to the server: is a pooler in between, and do notifications arrive?

A pooler invents the process id that it tells its clients, since the cancel key in which it stands must lead back to the
pooler. So a client that was told another process than the one that answers talks to a pooler, for certain. PgBouncer also
refuses the startup parameters by which the store pins its sessions, unless it is told to ignore them.

The notification of the self-test is sent on another connection than the one that listens: a transaction pooler delivers
what one sends to oneself, along with the answer, and loses everybody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from .._drivers.asyncpg import AsyncpgConnection
from .._drivers.budget import SETTINGS_SEEN, check_settings_seen
from .._operations.statement import Statement
from ..errors import EventStoreError
from .examination import Check, Examination, sql
from .findings import Finding, Level

__all__ = ["CHECKS", "judge_pooler"]

_BACKEND: Final = sql("backend")
_NOTIFY: Final = sql("notify")

LOOKS: Final = 3
ANSWER_SECONDS: Final = 5.0

_CURE: Final = (
    "EventStore(url, statement_cache_size=0, wake_ups=WakeUps(listen_url='the direct address')), in commands "
    "--url 'postgresql://...?statement_cache_size=0'; or the server's own address"
)
_DIRECT: Final = (
    "eventstore doctor --listen-url 'the direct address'; then EventStore(..., wake_ups=WakeUps(listen_url='the direct "
    "address')), or WakeUps(listen=False)"
)


def judge_pooler(told: int, served: Sequence[int], refused: str, *, from_pool: bool, has_settings: bool = True) -> Finding:
    """Say whether a pooler stands in between.

    Args:
        told: the process that the client was told at the start.
        served: the processes that answered its statements.
        refused: why a connection as the store makes it could not be used; empty: it could.
        from_pool: whether the connections come from the user's own asyncpg pool.
        has_settings: whether the store asks for settings of its sessions: not with statement_cache_size=0.
    """
    pooled = any(pid != told for pid in served)
    several = len(set(served)) > 1
    mode = (
        "each statement may meet another session (transaction or statement pooling)"
        if several
        else "its sessions are shared"
    )
    if refused and ("startup parameter" in refused or pooled):
        found = f"a pooler such as PgBouncer stands in between, and the store cannot be opened through it: {refused}"
        return Finding("pooler", Level.ERROR, found, "statement_cache_size=0, or the server's own address", _CURE)
    if refused:
        found = f"a connection as the store makes it fails: {refused}"
        return Finding("pooler", Level.ERROR, found, "a connection with the store's settings", _CURE)
    if not pooled:
        return Finding("pooler", Level.OK, "the connection leads to the server itself")
    found = f"a pooler such as PgBouncer stands in between: {mode}"
    if from_pool:
        return Finding("pooler", Level.NOTE, found, "statement_cache_size=0 in the asyncpg pool", _CURE)
    if not has_settings:
        return Finding("pooler", Level.OK, f"{found}; the store keeps nothing in a session (statement_cache_size=0)")
    found += "; the settings that the store pins (READ COMMITTED, time-outs) may be lost"
    return Finding("pooler", Level.WARNING, found, "statement_cache_size=0, or the server's own address", _CURE)


async def pooler(examination: Examination) -> Sequence[Finding]:
    """Connect as the store does, and compare who answers with whom one was told."""
    refused = ""
    told, served = 0, []
    for connect in (examination.connect_as_store, examination.connect):
        try:
            connection = await connect()
            try:
                told = connection.pid
                if connect is examination.connect_as_store and examination.has_settings:
                    check_settings_seen((await connection.fetch(Statement(SETTINGS_SEEN)))[0][0])
                served = [(await connection.fetch(Statement(_BACKEND)))[0][0] for _ in range(LOOKS)]
            finally:
                await connection.close()
            break
        except EventStoreError as error:
            refused = refused or str(error)
    settings = examination.has_settings or examination.from_pool
    return [judge_pooler(told, served, refused, from_pool=examination.from_pool, has_settings=settings)]


async def listen(examination: Examination) -> Sequence[Finding]:
    """Send a notification on one connection, and hear it on another."""
    if examination.standby and not examination.listen_url:
        return [
            Finding("listen", Level.NOTE, "a standby takes no LISTEN: followers poll", "a primary to listen to", _DIRECT)
        ]
    if not (examination.has_settings or examination.from_pool or examination.listen_url):
        found = "statement_cache_size=0 without listen_url: the store does not listen, followers of others' appends poll (0.25 s)"
        return [Finding("listen", Level.WARNING, found, "a session of one's own, not a pooler's", _DIRECT)]
    listener = await examination.connect_to_listen()
    try:
        sender = await examination.connect()
        try:
            heard = await _hears(listener, sender, f"{examination.schema}_doctor")
        finally:
            await sender.close()
    finally:
        await listener.end_listening()
        await listener.close()
    if heard:
        return [Finding("listen", Level.OK, "a notification arrives: followers are woken at once")]
    found = (
        f"a notification did not arrive within {ANSWER_SECONDS:.0f} s: followers of other processes' appends poll (0.25 s)"
    )
    return [Finding("listen", Level.WARNING, found, "a session of one's own, not a pooler's", _DIRECT)]


async def _hears(listener: AsyncpgConnection, sender: AsyncpgConnection, channel: str) -> bool:
    heard = asyncio.Event()
    await listener.listen(channel, lambda _pid: heard.set(), lambda: None)
    await sender.fetch(Statement(_NOTIFY, (channel,)))
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await heard.wait()
    except TimeoutError:
        return False
    return True


CHECKS: Final = (Check("pooler", pooler), Check("listen", listen))
