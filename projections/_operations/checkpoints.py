"""Checkpoints, leases and heartbeats: who may run a follower, and how far it has come.

**Authority.** The row in `checkpoints`: its epoch says whose batches count, and its position how far they have come.
Leases and heartbeats only decide who *tries*; a wrong decision there costs time, never correctness.

**States of a follower.** Without an owner; owned by a daemon whose heartbeat has not expired; owned by one whose has.

**Fencing.** A takeover takes the lease and bumps the epoch in one statement. Every batch locks the row and compares the
epoch first, in its own transaction: a stale owner's batch finds another epoch and rolls back. So nothing is written
twice, whatever clocks, pauses and networks do.

**Progress.** A stopped owner may hold the row lock inside an open batch. The taker terminates that backend (its pid and
start time stand in the lease); where it may not, may not see them, or they are not known for a pooler, the server ends the
idle transaction after 20 s.

**What if it dies here.** Before the takeover commits: nothing has happened. After: the next batch is the taker's. Between
a batch and its commit: the server rolls back effect and checkpoint together.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

from eventstore.spi import Row, Statement, load_sql

from ..errors import LeaseLost

__all__ = [
    "FollowerStatus",
    "Held",
    "acquire",
    "begin",
    "end_expired",
    "heartbeat",
    "lock",
    "release",
    "save",
    "stands_at",
    "status",
]

T = TypeVar("T")
_Operation = Generator[Statement, Sequence[Row], T]

_QUERIES: Final = Path(__file__).parent.parent / "sql" / "queries"


def _sql(name: str) -> str:
    return load_sql(_QUERIES, name)


_BEGIN_CHECKPOINT: Final = _sql("begin_checkpoint")
_BEGIN_BATCH: Final = _sql("begin_batch")
_LOCK_CHECKPOINT: Final = _sql("lock_checkpoint")
_SAVE_CHECKPOINT: Final = _sql("save_checkpoint")
_READ_CHECKPOINT: Final = _sql("read_checkpoint")
_HEARTBEAT: Final = _sql("heartbeat")
_BEGIN_LEASE: Final = _sql("begin_lease")
_READ_LEASE: Final = _sql("read_lease")
_END_BACKEND: Final = _sql("end_backend")
_TAKE_LEASE: Final = _sql("take_lease")
_RELEASE: Final = _sql("release")
_STATUS: Final = _sql("status")


@dataclass(frozen=True, slots=True)
class Held:
    """A follower that this daemon runs: where it stands, and the epoch that its batches must show."""

    position: int
    epoch: int


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """One follower, as `projections status` shows it.

    Attributes:
        follower, shard: which.
        position: everything up to here has taken effect.
        behind: how many positions the log's head is ahead.
        updated_at: when the checkpoint last moved.
        owner, daemon: the lease's owner; None: nobody has ever run it, or it was released.
        alive: whether that daemon's heartbeat has not expired.
    """

    follower: str
    shard: int
    position: int
    behind: int
    updated_at: datetime
    owner: UUID | None
    daemon: str | None
    alive: bool


def acquire(follower: str, shard: int, owner: UUID, pid: int) -> _Operation[Held | None]:
    """Take a follower if nobody alive has it; None otherwise. Run it on the batches' connection, outside of a transaction.

    Where somebody alive has it, this is one look-up and writes nothing: waiting costs no more. Each statement commits by
    itself, so that a process which is stopped here holds nothing that others need: a transaction would be held open for as
    long as the process is stopped, if that happens between the messages of one statement, where no time-out counts.

    Args:
        follower: what to take.
        shard: which of its shards.
        owner: the daemon.
        pid: the process that the connection was told to be served by. Where another one answers, a pooler lies between: the
            lease names nobody then, since whoever takes over would terminate a session that serves others.
    """
    rows = yield Statement(_READ_LEASE, (follower, shard))
    if rows and rows[0][0] != owner and rows[0][1]:
        return None
    yield Statement(_BEGIN_CHECKPOINT, (follower, shard))
    yield Statement(_BEGIN_LEASE, (follower, shard, owner, pid))
    rows = yield Statement(_TAKE_LEASE, (follower, shard, owner, pid))
    return Held(*rows[0]) if rows else None


def end_expired(follower: str, shard: int, owner: UUID) -> _Operation[None]:
    """Terminate the backend of an owner that has expired: it may hold the checkpoint's row. Run it outside of a
    transaction, before `acquire`; a refusal is no reason not to try that.
    """
    yield Statement(_END_BACKEND, (follower, shard, owner))


def lock(follower: str, shard: int, held: Held) -> _Operation[None]:
    """Begin a batch: lock the checkpoint and see that it is still ours and where we left it.

    Raises:
        LeaseLost: it is not.
    """
    rows = yield Statement(_LOCK_CHECKPOINT, (follower, shard))
    if not rows or tuple(rows[0]) != (held.position, held.epoch):
        found = tuple(rows[0]) if rows else None
        raise LeaseLost(
            f"follower {follower!r} shard {shard} was taken over: expected position {held.position} in epoch "
            f"{held.epoch}, found {found}"
        )


def begin(follower: str, shard: int, held: Held, position: int) -> _Operation[Held]:
    """Begin a batch that will end at `position`, in its transaction: lock the checkpoint, check that it is ours, move it.

    One round trip instead of two; where the checkpoint ends elsewhere, `save` moves it again.

    Raises:
        LeaseLost: it is not ours any more.
    """
    rows = yield Statement(_BEGIN_BATCH, (follower, shard, position, held.epoch, held.position))
    if not rows:
        yield from lock(follower, shard, held)
        raise LeaseLost(f"follower {follower!r} shard {shard} was taken over")
    return Held(position, held.epoch)


def save(follower: str, shard: int, held: Held, position: int) -> _Operation[Held]:
    """End a batch elsewhere than it was begun for, in the batch's transaction.

    Raises:
        LeaseLost: the epoch is not ours any more.
    """
    rows = yield Statement(_SAVE_CHECKPOINT, (follower, shard, position, held.epoch))
    if not rows:
        raise LeaseLost(f"follower {follower!r} shard {shard} was taken over during the batch")
    return Held(position, held.epoch)


def stands_at(follower: str, shard: int) -> _Operation[int]:
    """Return a follower's checkpoint; 0 where it has none."""
    rows = yield Statement(_READ_CHECKPOINT, (follower, shard))
    return int(rows[0][0]) if rows else 0


def heartbeat(owner: UUID, name: str, seconds: float) -> _Operation[None]:
    """Say that a daemon lives for another `seconds`."""
    yield Statement(_HEARTBEAT, (owner, name, seconds))


def release(owner: UUID) -> _Operation[None]:
    """Give up every lease of a daemon."""
    yield Statement(_RELEASE, (owner,))


def status() -> _Operation[list[FollowerStatus]]:
    """Return every follower's status."""
    rows: Sequence[Any] = yield Statement(_STATUS)
    return [FollowerStatus(*row) for row in rows]
