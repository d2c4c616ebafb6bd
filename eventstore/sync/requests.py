"""`eventstore.requests`, blocking."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from .._operations import requests
from ..errors import InvalidArgument
from .store import EventStore

__all__ = ["prune_requests"]

BATCH: Final = 5_000


def prune_requests(store: EventStore, older_than: timedelta) -> int:
    """Forget requests of that age or more; as `eventstore.requests.prune_requests`."""
    if not isinstance(older_than, timedelta) or older_than < timedelta():
        raise InvalidArgument(f"older_than must be a timedelta that is not negative, got {older_than!r}")
    pruned = 0
    while True:
        with store._driver.acquire("transaction") as connection:
            batch = connection.run(requests.prune(older_than.total_seconds(), BATCH))
        pruned += batch
        if batch < BATCH:
            return pruned
