"""Finds out what became of an append or a transaction whose connection died, blocking. The argument is in
`eventstore.resolution`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from .._drivers.psycopg import PsycopgConnection
from .._drivers.psycopg_pools import PsycopgDriver
from .._operations import append as appends
from .._operations import requests
from .._operations.append import Outcome
from .._operations.prepare import PreparedAppend
from ..errors import AppendUnknown, Transient, UniqueViolation
from ..resolution import PATIENCE, PAUSES, SECONDS

__all__ = ["resolve_append", "was_committed"]

T = TypeVar("T")


def resolve_append(driver: PsycopgDriver, one: PreparedAppend, unknown: AppendUnknown) -> Outcome:
    """Return the outcome of an append with a request id: of the first time if that was committed, else of this one.

    Raises:
        AppendUnknown: nobody answered for half a minute: `unknown`.
        EventStoreError: the server refuses it.
    """

    def again(connection: PsycopgConnection) -> Outcome:
        (outcome,) = connection.run(appends.append([one], waiting=True, patience=PATIENCE))
        return outcome

    return _ask(driver, unknown, again)


def was_committed(driver: PsycopgDriver, request_id: str, unknown: AppendUnknown) -> bool:
    """Return whether a transaction was committed that had noted its request id.

    Raises:
        AppendUnknown: nobody answered for half a minute: `unknown`.
    """

    def ask(connection: PsycopgConnection) -> bool:
        with connection.transaction():
            connection.run(requests.wait("", request_id))
            return connection.run(requests.find("", request_id))

    return _ask(driver, unknown, ask)


def _ask(driver: PsycopgDriver, unknown: AppendUnknown, question: Callable[[PsycopgConnection], T]) -> T:
    give_up, pause = time.monotonic() + SECONDS, PAUSES[0]
    while True:
        try:
            with driver.acquire("append") as connection:
                return question(connection)
        except (Transient, UniqueViolation) as error:
            if time.monotonic() > give_up:
                raise unknown from error
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, PAUSES[1])
