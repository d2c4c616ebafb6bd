"""Notices that readers have been waiting at one hole for long, and says for whom. See `frontier`."""

from __future__ import annotations

import logging
from typing import Final

from ..telemetry import Blocker, FeedBlocked, FeedUnblocked, Telemetry, emit

__all__ = ["HoleWatch"]

_log = logging.getLogger("eventstore.feed")

BLOCKED_SECONDS: Final = 5.0
"""How long readers may wait at a hole until it is worth a word: far above any append."""

REPEAT_SECONDS: Final = 60.0
"""How often it is said again while it lasts."""


class HoleWatch:
    """Keeps the time at a hole.

    Args:
        telemetry: who is told; None: only the log of the program.
    """

    def __init__(self, telemetry: Telemetry | None) -> None:
        self._telemetry = telemetry
        self._position = -1
        self._since = 0.0
        self._said_at: float | None = None

    def is_due(self, position: int, now: float, *, hole: bool) -> bool:
        """Note what a look has found; return whether it is time to say who blocks.

        Args:
            position: everything up to here is decided.
            now: seconds, on the loop's clock.
            hole: whether a hole follows that readers wait at.
        """
        if not hole or position != self._position:
            self._end(now)
            self._position, self._since = position if hole else -1, now
        if not hole:
            return False
        if self._said_at is None:
            return now - self._since >= BLOCKED_SECONDS
        return now - self._said_at >= REPEAT_SECONDS

    def say(self, blockers: tuple[Blocker, ...], now: float) -> None:
        """Say who blocks."""
        self._said_at = now
        signal = FeedBlocked(self._position, now - self._since, blockers)
        _log.warning("%s", signal)
        emit(self._telemetry, signal)

    def _end(self, now: float) -> None:
        if self._said_at is None:
            return
        self._said_at = None
        signal = FeedUnblocked(self._position, now - self._since)
        _log.warning("readers go on behind position %d after %.0f s", signal.position, signal.seconds)
        emit(self._telemetry, signal)
