"""What the library tells whoever watches it: signals, given to one callable.

::

    def count(signal: telemetry.Signal) -> None:
        if isinstance(signal, telemetry.FeedBlocked):
            blocked_seconds.set(signal.seconds)

    store = EventStore(url, telemetry=count)

It is called on the event loop, between two steps: return at once. What it raises is logged and has no effect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Blocker", "FeedBlocked", "FeedUnblocked", "Signal", "Telemetry", "emit"]

_log = logging.getLogger("eventstore")


@dataclass(frozen=True, slots=True)
class Blocker:
    """A transaction that has appended, or may have, and has not ended. What the role may not see is None.

    Attributes:
        pid: its server process; None: it is prepared (PREPARE TRANSACTION) and has none.
        application: its application_name.
        user: who it is.
        state: of its session, as ``pg_stat_activity`` says.
        since: when the transaction began, on the database's clock.
        seconds: how long ago that was.
        query: its last statement; needs ``pg_read_all_stats``.
        prepared: the name of a prepared transaction.
    """

    pid: int | None
    application: str | None
    user: str | None
    state: str | None
    since: datetime | None
    seconds: float | None
    query: str | None
    prepared: str | None

    def __str__(self) -> str:
        """Who it is, and how to end it, in one line."""
        if self.prepared is not None:
            return (
                f"the prepared transaction {self.prepared!r}, prepared {_ago(self.seconds)}; COMMIT or ROLLBACK PREPARED it"
            )
        who = f"pid {self.pid} ({self.application or 'no application_name'}"
        who += f", user {self.user})" if self.user else ")"
        what = f"{self.state or 'state not visible'}, transaction begun {_ago(self.seconds)}"
        query = " ".join(self.query.split())[:200] if self.query else None
        query = f"last statement: {query}" if query else "its statement is not visible (pg_read_all_stats may see it)"
        return f"{who}: {what}; {query}"


def _ago(seconds: float | None) -> str:
    return "at a time that is not visible" if seconds is None else f"{seconds:.0f} s ago"


@dataclass(frozen=True, slots=True)
class FeedBlocked:
    """Readers wait at a hole that a transaction may still fill. Repeated while it lasts.

    Attributes:
        position: everything up to here is decided and delivered; the hole follows.
        seconds: how long readers have been waiting.
        blockers: who may fill the hole, the one that began first on top.
    """

    position: int
    seconds: float
    blockers: tuple[Blocker, ...]

    def __str__(self) -> str:
        """The warning that is logged."""
        who = "; ".join(str(blocker) for blocker in self.blockers) or "nobody who could be seen"
        return f"readers have been waiting at position {self.position} for {self.seconds:.0f} s, for {who}"


@dataclass(frozen=True, slots=True)
class FeedUnblocked:
    """The hole is decided; readers go on.

    Attributes:
        position: where they waited.
        seconds: for how long.
    """

    position: int
    seconds: float


Signal = FeedBlocked | FeedUnblocked
"""What may be told."""

Telemetry = Callable[[Signal], None]
"""Who is told."""


def emit(telemetry: Telemetry | None, signal: Signal) -> None:
    """Tell `telemetry`, if there is one; what it raises is logged."""
    if telemetry is None:
        return
    try:
        telemetry(signal)
    except Exception:
        _log.exception("the telemetry hook failed on %s", type(signal).__name__)
