"""Finds out what became of an append or a transaction whose connection died before the answer came.

Authority: a row in ``requests``, written in the same transaction as the events. Its absence alone proves nothing: the
backend of the dead connection may be at work still, or wait for a standby, and commit later. Therefore every transaction that
writes such a row holds an advisory lock on its id, from before the row until its outcome is visible, and whoever asks takes
that lock first:

- the lock is held: the other one is at work; wait (lock_timeout), then ask again.
- the lock is ours, the row is there: it was committed.
- the lock is ours, no row: nothing was committed. For an append, the same statement then appends, under the same id: should
  the old statement reach its server only now, it finds the row. For a transaction, nothing can reach the server any more but
  its COMMIT, which only a backend that holds the lock can carry out.

If this process dies meanwhile, nothing is left but the row, which is pruned with age.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ._drivers.asyncpg import AsyncpgConnection, AsyncpgDriver
from ._operations import append as appends
from ._operations import requests
from ._operations.append import Outcome
from ._operations.prepare import PreparedAppend
from .errors import AppendUnknown, Transient, UniqueViolation

__all__ = ["resolve_append", "was_committed"]

T = TypeVar("T")

SECONDS: Final = 30.0
"""How long to go on asking."""

PAUSES: Final = (0.05, 2.0)
"""First and longest pause between two questions; jittered."""

PATIENCE: Final = "5s"
"""How long one question waits for a backend that is at work still."""


async def resolve_append(driver: AsyncpgDriver, one: PreparedAppend, unknown: AppendUnknown) -> Outcome:
    """Return the outcome of an append with a request id: of the first time if that was committed, else of this one.

    Raises:
        AppendUnknown: nobody answered for half a minute: `unknown`.
        EventStoreError: the server refuses it.
    """

    async def again(connection: AsyncpgConnection) -> Outcome:
        (outcome,) = await connection.run(appends.append([one], waiting=True, patience=PATIENCE))
        return outcome

    return await _ask(driver, unknown, again)


async def was_committed(driver: AsyncpgDriver, request_id: str, unknown: AppendUnknown) -> bool:
    """Return whether a transaction was committed that had noted its request id.

    Raises:
        AppendUnknown: nobody answered for half a minute: `unknown`.
    """

    async def ask(connection: AsyncpgConnection) -> bool:
        async with connection.transaction():
            await connection.run(requests.wait("", request_id))
            return await connection.run(requests.find("", request_id))

    return await _ask(driver, unknown, ask)


async def _ask(driver: AsyncpgDriver, unknown: AppendUnknown, question: Callable[[AsyncpgConnection], Awaitable[T]]) -> T:
    loop = asyncio.get_running_loop()
    give_up, pause = loop.time() + SECONDS, PAUSES[0]
    while True:
        try:
            async with driver.acquire("transaction") as connection:
                return await question(connection)
        except (Transient, UniqueViolation) as error:
            if loop.time() > give_up:
                raise unknown from error
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, PAUSES[1])
