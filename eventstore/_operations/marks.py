"""The settled mark: up to which position is everything committed or dead, for ever?

Argument (docs/ordering.md has it at length). A writer takes ROW EXCLUSIVE on `events` before it draws a position
(nextval), and PostgreSQL releases the lock only after the transaction's outcome is visible to new snapshots. So:

1. L := the last position given out.
2. In a *later* statement, H := the transactions that hold that lock. Whoever drew a position <= L and has not ended is
   in H: it drew before step 1 ended, hence held the lock since before, and holds it still.
3. When all of H have ended, every position <= L is decided. Transactions that came later drew positions > L.

A transaction that is prepared (PREPARE TRANSACTION) while we wait keeps its virtual id but loses its pid (since PostgreSQL
14.1), so it stays in H; its lock is held without a process until COMMIT PREPARED.

If the connection dies meanwhile, nothing is known: virtual ids are used again after a restart, and a prepared transaction
has another then. Start again at 1. A connection pooler may hide a restart, and lead to another server without a word: so
each step also reads when the server was started, and a change counts as a lost connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from ..errors import ConnectionLost, LogReplaced
from ..streams import Position
from .statement import Operation, Pause, Row, Statement, load_sql

__all__ = [
    "Identity",
    "LogState",
    "Mark",
    "advance",
    "as_of",
    "begin",
    "holders_left",
    "last_given",
    "log_state",
    "notify",
    "open_round",
    "publish",
    "settle",
]

_QUERIES: Final = Path(__file__).parent.parent / "sql" / "queries"
_LAST_GIVEN: Final = load_sql(_QUERIES, "last_given")
_HOLDERS: Final = load_sql(_QUERIES, "holders")
_ADVANCE: Final = load_sql(_QUERIES, "advance")
_IDENTITY: Final = load_sql(_QUERIES, "identity")
_PUBLISH: Final = load_sql(_QUERIES, "publish_mark")
_NOTIFY: Final = load_sql(_QUERIES, "notify")
_AS_OF: Final = load_sql(_QUERIES, "as_of")

FIRST_PAUSE: Final = 0.002
"""Seconds until holders are looked at again: the time of a commit. Each look costs writers a little (5 to 8% at one
poller every 2 ms and 16 writers, measured), so it backs off."""

LONGEST_PAUSE: Final = 0.05
"""Seconds between looks at a transaction that is held for long."""

CHUNK: Final = 10_000
"""Positions that one look for holes goes through."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Every position up to `position` is settled; it was read from the sequence at `seen_at` (database clock)."""

    position: Position
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Identity:
    """Which log: a cluster, its timeline, and the epoch that the log itself carries."""

    system_identifier: int
    timeline: int
    log_epoch: UUID

    def __str__(self) -> str:
        return f"{self.log_epoch} on system {self.system_identifier}, timeline {self.timeline}"


@dataclass(frozen=True, slots=True)
class LogState:
    """What a connection finds: which log, the published safe mark, the last position given out, since when it runs."""

    identity: Identity
    safe_mark: Position
    last_given: Position
    started: datetime


def log_state() -> Operation[LogState]:
    """Return which log this is, and how far it goes."""
    rows = yield Statement(_IDENTITY)
    if not rows:
        raise LogReplaced("with its row in safe_mark", "without one: a restore left it out, or somebody deleted it")
    system_identifier, timeline, epoch, safe_mark, last_given, started = rows[0]
    return LogState(Identity(system_identifier, timeline, epoch), Position(safe_mark), Position(last_given), started)


def begin() -> Operation[tuple[LogState, Position]]:
    """Return which log this is, and up to where it is decided, without waiting for anybody."""
    state = yield from log_state()
    mark, holders = yield from open_round(state.started)
    if not holders:
        return state, mark.position
    reached, _hole = yield from advance(state.safe_mark, state.started)
    return state, Position(reached)


def last_given() -> Operation[int]:
    """Return the last position given out: no cursor of this log can lie beyond it."""
    rows = yield Statement(_LAST_GIVEN)
    return int(rows[0][0])


def open_round(started: datetime | None = None) -> Operation[tuple[Mark, set[str]]]:
    """Steps 1 and 2: return the mark that will hold, and who must end before it does.

    Args:
        started: when the server was started, here and below; None: not known yet.

    Raises:
        ConnectionLost: it was started at another time: it is not the one that was asked before.
    """
    rows = yield Statement(_LAST_GIVEN)
    mark = Mark(Position(rows[0][0]), rows[0][1])
    rows = yield Statement(_HOLDERS)  # a later statement: its order is the proof
    _refuse_restarted(started, rows[0][0])
    return mark, set(rows[0][1])


def holders_left(holders: set[str], started: datetime | None = None) -> Operation[set[str]]:
    """Step 3, once: return which of `holders` have not ended yet."""
    rows: Sequence[Row] = yield Statement(_HOLDERS)
    _refuse_restarted(started, rows[0][0])
    return holders & set(rows[0][1])


def _refuse_restarted(known: datetime | None, found: datetime) -> None:
    if known is not None and known != found:
        raise ConnectionLost(f"the server that was started at {known} is gone, this one was started at {found}")


def settle() -> Operation[Mark]:
    """Wait until everything given out by now is decided; return that mark. May wait as long as a transaction lasts."""
    mark, holders = yield from open_round()
    pause = FIRST_PAUSE
    while holders:
        yield Pause(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
        holders = yield from holders_left(holders)
    return mark


def advance(decided: int, started: datetime | None = None) -> Operation[tuple[int, bool]]:
    """Return how far the log goes on from `decided` without a hole, and whether a hole stopped it.

    Where nothing can be seen within reach although more was given out, that counts as a hole too: what lies beyond is found
    when it is decided.
    """
    while True:
        rows = yield Statement(_ADVANCE, (decided, CHUNK))
        reached, seen, given, found = rows[0]
        _refuse_restarted(started, found)
        if seen is None:
            return decided, given > decided + CHUNK
        if reached != seen:
            return (decided if reached is None else reached), True
        if reached - decided < CHUNK:
            return reached, False
        decided = reached


def publish(mark: Mark, *, always: bool = False) -> Operation[bool]:
    """Publish a settled mark; return whether a time mark was noted. `always`: even if the position has not moved."""
    rows = yield Statement(_PUBLISH, (mark.position, mark.seen_at, always))
    return bool(rows[0][0])


def notify() -> Operation[None]:
    """Wake the listeners of other processes."""
    yield Statement(_NOTIFY)


def as_of(at: datetime) -> Operation[tuple[Position | None, datetime]]:
    """Return the position that the log had reached at `at` (None: no later mark yet), and the database's time."""
    rows = yield Statement(_AS_OF, (at,))
    return rows[0][0], rows[0][1]
