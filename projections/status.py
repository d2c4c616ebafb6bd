"""How far the followers of a store have come."""

from __future__ import annotations

from eventstore import EventStore
from eventstore.spi import connect

from ._operations import checkpoints
from ._operations.checkpoints import FollowerStatus

__all__ = ["FollowerStatus", "followers"]


async def followers(store: EventStore) -> list[FollowerStatus]:
    """Return the status of every follower that has ever run, by name."""
    connection = await connect(store, "status", {})
    try:
        return await connection.run(checkpoints.status())
    finally:
        await connection.close()
