"""Request ids are kept until they are pruned: how long a repeated request gives its first result is yours to say."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from ._operations import requests
from .errors import InvalidArgument
from .store import EventStore

__all__ = ["prune_requests"]

BATCH: Final = 5_000
"""Rows of one statement: short locks, little WAL at once."""


async def prune_requests(store: EventStore, older_than: timedelta) -> int:
    """Forget requests of that age or more, by the database's clock, in small transactions; return how many there were.

    A request that is forgotten appends again. Safe to repeat, and to run beside appends and another of its kind.

    Args:
        store: open.
        older_than: longer than any caller goes on repeating: a day is what HTTP clients are usually promised.

    Raises:
        InvalidArgument: a negative age.
    """
    if not isinstance(older_than, timedelta) or older_than < timedelta():
        raise InvalidArgument(f"older_than must be a timedelta that is not negative, got {older_than!r}")
    pruned = 0
    while True:
        batch = await store._driver.run("transaction", requests.prune(older_than.total_seconds(), BATCH))
        pruned += batch
        if batch < BATCH:
            return pruned
