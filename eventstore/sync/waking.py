"""Wakes whoever follows the log after a commit: this process's subscribers at once, other processes by NOTIFY.

**Authority.** None: whatever is lost here, polls find.

**The thread.** One daemon thread a process with one connection, from the first append on, so that no append waits for it
and none fails by it. It notifies (the first append after a pause at once, then once for all of the next `NOTIFY_SECONDS`),
and publishes a settled mark at most once a second while the log moves, which is where other processes begin to read.

**Fork.** The thread is not in the child; the child's first append starts another.

**What if it dies here.** Others find the events by their poll, and begin a little earlier.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from .. import _forks
from .._drivers.psycopg import PsycopgConnection
from .._operations import marks
from .._operations.marks import LogState, Mark
from ..errors import DatabaseRefused, EventStoreError, PermissionDenied, Retryable
from ..feed.wakeups import NOTIFY_SECONDS, REFUSED_SECONDS
from ..streams import Position

__all__ = ["Waker"]

_log = logging.getLogger("eventstore.sync")

PUBLISH_SECONDS: Final = 1.0
"""Marks are published at most this often, and a held transaction is waited for as long."""

CLOSE_SECONDS: Final = 2.0
"""How long closing waits for the last notification."""


class Waker:
    """See the module's docstring.

    Args:
        connect: opens a connection that never appends.
        notify: whether other processes are notified.
    """

    def __init__(self, connect: Callable[[], PsycopgConnection], *, notify: bool) -> None:
        self._connect, self._notify = connect, notify
        self._make()
        _forks.register(self)

    def _make(self) -> None:
        self._stirred = threading.Condition()
        self._count = 0
        self._closed = False
        self._thread: threading.Thread | None = None
        self._notify_due = False
        self._publish_due = False

    def _forked(self) -> None:
        """Begin anew in a child."""
        closed = self._closed
        self._make()
        self._closed = closed

    def ring(self) -> None:
        """Something was committed. Cheap, never raises."""
        with self._stirred:
            if self._closed:
                return
            self._notify_due, self._publish_due = self._notify, True
            self._count += 1
            self._stirred.notify_all()
            if self._thread is None:
                thread = threading.Thread(target=self._live, name="eventstore-waker", daemon=True)
                with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
                    thread.start()
                    self._thread = thread

    def stir(self) -> None:
        """Have whoever waits look again."""
        with self._stirred:
            self._count += 1
            self._stirred.notify_all()

    @property
    def count(self) -> int:
        """Grows with everything that is worth a look."""
        return self._count

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self._closed

    def wait(self, seen: int, seconds: float) -> bool:
        """Wait until `count` is not `seen` any more, or the store is closed, at most `seconds`; return whether."""
        with self._stirred:
            return self._stirred.wait_for(lambda: self._closed or self._count != seen, seconds)

    def close(self) -> None:
        """Wake whoever waits for the last time; send what is still to be sent, within two seconds."""
        with self._stirred:
            self._closed = True
            self._stirred.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    # -- the thread

    def _live(self) -> None:
        work = _Work(self._connect)
        try:
            while True:
                with self._stirred:
                    while not self._closed and (due := self._due_in(work)) != 0:
                        self._stirred.wait(due)
                    last, notify = self._closed, self._notify_due
                    publish = self._publish_due and not work.waits and (last or work.publish_at <= time.monotonic())
                    self._notify_due, self._publish_due = False, self._publish_due and not publish
                again = work.do(notify=notify, publish=publish, last=last)
                with self._stirred:
                    self._publish_due |= again
                if last:
                    return
        finally:
            work.close()

    def _due_in(self, work: _Work) -> float | None:
        """Seconds until there is something to do; None: nothing is due."""
        now = time.monotonic()
        waits = [work.notify_at - now] if self._notify_due else []
        waits += [work.publish_at - now] if self._publish_due or work.waits else []
        return max(0.0, min(waits)) if waits else None


class _Work:
    """What the thread does, on its connection, and when it may again."""

    def __init__(self, connect: Callable[[], PsycopgConnection]) -> None:
        self._connect = connect
        self._connection: PsycopgConnection | None = None
        self._state: LogState | None = None
        self._round: tuple[Mark, set[str], float] | None = None
        self._published = 0
        self._refused = False
        self._trouble = ""
        self.notify_at = self.publish_at = float("-inf")

    @property
    def waits(self) -> bool:
        """Whether a mark is under way."""
        return self._round is not None

    def do(self, *, notify: bool, publish: bool, last: bool) -> bool:
        """Do what is due; return whether there is more to publish. Never raises."""
        try:
            connection = self._connected()
            if notify:
                self._notify(connection)
            if publish and not self._refused and self._round is None:
                assert self._state is not None
                self._round = (*connection.run(marks.open_round(self._state.started)), time.monotonic())
                self.publish_at = time.monotonic()
            return self._publish(connection, last=last)
        except Exception as error:
            if not isinstance(error, EventStoreError) or str(error) != self._trouble:
                self._trouble = str(error)
                _log.warning("others are not woken, they have their poll: %s", error)
            self.close()
            self.notify_at = self.publish_at = time.monotonic() + PUBLISH_SECONDS
            return publish

    def close(self) -> None:
        """Give the connection up."""
        connection, self._connection, self._round = self._connection, None, None
        if connection is not None:
            connection.close()

    def _connected(self) -> PsycopgConnection:
        if self._connection is None or self._connection.closed:
            self.close()
            self._connection = self._connect()
            self._state = self._connection.run(marks.log_state())
            self._published = self._state.safe_mark
            self._trouble = ""
        return self._connection

    def _notify(self, connection: PsycopgConnection) -> None:
        self.notify_at = time.monotonic() + NOTIFY_SECONDS
        try:
            connection.run(marks.notify())
        except (Retryable, DatabaseRefused) as error:  # its queue is full, say
            self.notify_at = time.monotonic() + REFUSED_SECONDS
            _log.warning("other processes cannot be notified, trying again in %.0f s: %s", REFUSED_SECONDS, error)

    def _publish(self, connection: PsycopgConnection, *, last: bool) -> bool:
        """Go on with the mark under way; return whether one is to be made again."""
        if self._round is None or self._state is None:
            return False
        mark, holders, opened_at = self._round
        holders = connection.run(marks.holders_left(holders, self._state.started)) if holders else holders
        self._round = (mark, holders, opened_at)
        now = time.monotonic()
        stuck = bool(holders) and (last or now - opened_at > PUBLISH_SECONDS)
        if holders and not stuck:
            self.publish_at = now + marks.LONGEST_PAUSE
            return False
        if stuck:
            reached, _hole = connection.run(marks.advance(self._published, self._state.started))
            mark = Mark(Position(min(reached, mark.position)), mark.seen_at)
        self._round, self.publish_at = None, now + PUBLISH_SECONDS
        try:
            if mark.position > self._published:
                connection.run(marks.publish(mark))
                self._published = mark.position
        except (PermissionDenied, Retryable) as error:
            if isinstance(error, Retryable) and error.sqlstate != "25006":
                raise
            self._refused = True
            _log.warning("safe marks are not published from here: %s", error)
        return stuck
