"""Who keeps readers waiting: the transactions that may still fill a hole in the log."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ..telemetry import Blocker, FeedBlocked
from . import marks
from .statement import Operation, Statement, load_sql

__all__ = ["blockers", "find_blocked"]

_BLOCKERS: Final = load_sql(Path(__file__).parent.parent / "sql" / "queries", "blockers")


def blockers(holders: Iterable[str]) -> Operation[tuple[Blocker, ...]]:
    """Return who `holders` (virtual ids) are, the one that began first on top; who has ended is left out."""
    rows = yield Statement(_BLOCKERS, (list(holders),))
    found = [Blocker(*row[1:]) for row in rows]
    return tuple(sorted(found, key=lambda one: -(one.seconds or 0.0)))


def find_blocked(at_least_seconds: float) -> Operation[FeedBlocked | None]:
    """Return whether the log has a hole that a reader would wait at, and behind whom; None where it goes on.

    For whoever does not follow the log: what is not known is how long readers have waited, so the age of the oldest
    blocker stands for it.

    Args:
        at_least_seconds: younger transactions are not worth a word.
    """
    state = yield from marks.log_state()
    _, holders = yield from marks.open_round()
    decided, hole = yield from marks.advance(state.safe_mark)
    if not hole or not holders:
        return None
    found = yield from blockers(holders)
    old = tuple(one for one in found if one.seconds is None or one.seconds >= at_least_seconds)
    if not old:
        return None
    return FeedBlocked(decided, max(one.seconds or 0.0 for one in old), old)
