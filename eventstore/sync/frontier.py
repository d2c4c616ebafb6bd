"""How far the log is decided, for one blocking reader. See `eventstore.feed.frontier` for the same in many readers' service.

**Authority.** PostgreSQL's lock table, by the argument of `_operations/marks.py`. Nothing is shared between readers, and no
connection is held: who may still commit has a name that every session sees, so each step takes a reader's connection out
of the pool. Readers' connections never append.

**States.** *Lost* until the log has been looked at: which log it is, since when its server runs. Then each `look` moves on
to the first hole. A hole that outlasts a commit opens a round: the last position given out, and in a later statement who
could still commit; when those have ended, the log is decided up to that position.

**What if it fails here.** An error of a connection makes it lost again, and so does a connection that was made anew for
whatever reason (it may lead elsewhere), and a server that was started anew: rounds are forgotten, the log is compared with
the one known, and `generation` grows, so that the reader checks the last event it saw.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from .._drivers.psycopg_pools import PsycopgDriver
from .._operations import marks
from .._operations.blockers import blockers
from .._operations.marks import Identity, LogState, Mark
from .._operations.statement import Operation
from ..errors import EventStoreError, LogReplaced
from ..feed.blocked import HoleWatch
from ..telemetry import Telemetry

__all__ = ["Frontier"]

HOLE_SECONDS: Final = 0.002
"""How long a hole is looked at again before the lock table is asked about it: most are filled within a commit's time."""


class Frontier:
    """How far the log is decided, as far as its one reader knows.

    Args:
        driver: gives connections for reads.
        telemetry: who is told when the reader is blocked.

    Attributes:
        decided: everything up to this position is committed or dead.
        generation: grows each time that it was lost.
        hole: whether something further on was seen at the last look, behind a hole.
    """

    def __init__(self, driver: PsycopgDriver, telemetry: Telemetry | None) -> None:
        self._driver = driver
        self._watch = HoleWatch(telemetry)
        self._identity: Identity | None = None
        self._started: datetime | None = None
        self._made = 0  # connections, when it was last looked which log they lead to
        self._hole_since = 0.0
        self._round: tuple[Mark, set[str]] | None = None
        self._ask_at = 0.0
        self._pause = marks.FIRST_PAUSE
        self.decided = 0
        self.generation = 0
        self.hole = False

    def look(self) -> int:
        """Look once; return how far the log is decided. Waits for nobody.

        Raises:
            LogReplaced: another log is reached now.
            EventStoreError: of the connection; the next look begins anew.
        """
        if not self.stands(self.generation):
            self._begin()
            return self.decided
        try:
            self._close_round()
            reached, hole = self._run(marks.advance(self.decided, self._started))
            self._note(reached, hole=hole)
        except EventStoreError:
            self._lose()
            raise
        return self.decided

    def stands(self, generation: int) -> bool:
        """Whether all connections since `generation` began were those of then, as far as is known."""
        known = self._started is not None and self._made == self._driver.readers_made
        return known and generation == self.generation

    def next_look(self) -> float | None:
        """Seconds until another look may find more because of a hole; None: there is none."""
        if not self.hole:
            return None
        return HOLE_SECONDS if self._round is None else max(0.0, self._ask_at - time.monotonic())

    def settle(self, seconds: float, wait: Callable[[float], None]) -> tuple[int, bool]:
        """Make a fresh mark and wait for it at most `seconds`.

        Args:
            seconds: how long.
            wait: lets time pass.

        Returns:
            The mark's position and True; or how far the log is decided by then, and False.

        Raises:
            EventStoreError: of the connection.
        """
        deadline = time.monotonic() + seconds
        mark, holders = self._run(marks.open_round(self._started))
        pause = marks.FIRST_PAUSE
        while holders and (left := deadline - time.monotonic()) > 0:
            wait(min(pause, left))
            pause = min(pause * 1.5, marks.LONGEST_PAUSE)
            holders = self._run(marks.holders_left(holders, self._started))
        if not holders:
            self.decided = max(self.decided, mark.position)
            return mark.position, True
        reached, _hole = self._run(marks.advance(self.decided, self._started))
        return min(reached, mark.position), False

    def _begin(self) -> None:
        self._made = self._driver.readers_made
        state, decided = self._run(marks.begin())
        self._compare(state)
        self._identity, self._started = state.identity, state.started
        self.decided, self.hole, self._round = decided, False, None
        self.generation += 1

    def _compare(self, state: LogState) -> None:
        known, found = self._identity, state.identity
        if known and (known.system_identifier, known.log_epoch) != (found.system_identifier, found.log_epoch):
            raise LogReplaced(str(known), str(found))

    def _lose(self) -> None:
        self._started, self._round, self.hole = None, None, False

    def _note(self, reached: int, *, hole: bool) -> None:
        now = time.monotonic()
        if reached > self.decided or not self.hole:
            self._hole_since = now
        self.decided, self.hole = reached, hole
        if not hole or (self._round is not None and self._round[0].position <= reached):
            self._round = None
        if hole and self._round is None and now - self._hole_since >= HOLE_SECONDS:
            self._open_round()
        if self._watch.is_due(reached, now, hole=hole):
            self._watch.say(self._run(blockers(self._round[1] if self._round else set())), now)

    def _open_round(self) -> None:
        self._pause = marks.FIRST_PAUSE
        self._round = self._run(marks.open_round(self._started))
        self._ask_again()

    def _close_round(self) -> None:
        """Move to the mark of the round under way, once those that it waits for have ended."""
        if self._round is None or time.monotonic() < self._ask_at:
            return
        mark, holders = self._round
        holders = self._run(marks.holders_left(holders, self._started)) if holders else holders
        if holders:
            self._round = (mark, holders)
            self._ask_again()
        else:
            self._round = None
            self.decided = max(self.decided, mark.position)

    def _ask_again(self) -> None:
        self._ask_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 1.5, marks.LONGEST_PAUSE)

    def _run(self, operation: Operation[Any]) -> Any:  # what the operation returns
        return self._driver.run("read", operation)
