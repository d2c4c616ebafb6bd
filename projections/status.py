"""How far the followers of a store have come, and what keeps them."""

from __future__ import annotations

from typing import Final

from eventstore import EventStore, spi
from eventstore.telemetry import FeedBlocked

from ._operations import checkpoints
from ._operations.checkpoints import FollowerStatus

__all__ = ["FollowerStatus", "blocked", "followers"]

BLOCKED_SECONDS: Final = 5.0
"""How old a transaction must be that others wait for, to be worth a word."""


async def followers(store: EventStore) -> list[FollowerStatus]:
    """Return the status of every follower that has ever run, by name."""
    connection = await spi.connect(store, "status", {})
    try:
        return await connection.run(checkpoints.status())
    finally:
        await connection.close()


async def blocked(store: EventStore, *, at_least_seconds: float = BLOCKED_SECONDS) -> FeedBlocked | None:
    """Return whether followers wait at a hole in the log, and for whom; None where they can go on.

    Args:
        store: an open store.
        at_least_seconds: transactions that are younger are not worth a word.
    """
    return await spi.blocked(store, at_least_seconds=at_least_seconds)
