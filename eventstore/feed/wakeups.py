"""How a store learns that somebody else has appended, and tells others: hints, never the truth.

**Authority.** The poll of the frontier (`frontier`): whatever is lost here, it finds within a stated bound. A notification
carries nothing and says only "look".

**The listener.** One connection a store, whatever the number of subscribers, opened with the first of them. States:

- *connecting*: with backoff, for ever. The frontier polls at `poll_seconds` meanwhile.
- *listening*: after LISTEN a notification arrived, one that the frontier's connection was asked to send if need be. From here
  on the frontier polls less often. (One from its own connection proves nothing: PgBouncer returns that, and no other.)
  Every `PROBE_SECONDS` a statement asks whether the server still answers; if not within `ANSWER_SECONDS`, the connection is
  thrown away without a word, and made again.
- *deaf*: none arrived (a pooler lies between, or a standby answers). It is tried again after `DEAF_SECONDS`.

After every LISTEN the log is read again: what was notified before it was not heard.

**The sender.** NOTIFY goes out after the commit, never in the writer's transaction, where it would serialise all commits
of the cluster. The frontier's connection sends it: the first append after a pause at once, then one for all of the next
`NOTIFY_SECONDS`.

**What if it dies here.** Before NOTIFY, or when the server refuses it (its queue is full): the others' poll. A listener
that is half open: its probe, and until then the poll.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from .._drivers.asyncpg import AsyncpgConnection
from .._failpoints import armed, hit, register
from .._operations.statement import Statement
from ..errors import ConnectionLost, EventStoreError, InvalidArgument

__all__ = ["Listener", "Sender", "WakeUps"]

_log = logging.getLogger("eventstore.feed")

LISTENED: Final = register("listen.before_reread", "LISTEN is in force; what was notified before it has not been looked for")

PROBE_SECONDS: Final = 15.0
"""How often a listener that has heard nothing asks whether its connection lives."""

ANSWER_SECONDS: Final = 5.0
"""How long the server may take to answer the probe, or to deliver a notification."""

DEAF_SECONDS: Final = 60.0
"""How long to go without notifications where they do not arrive, before trying again."""

RECONNECT_SECONDS: Final = (0.05, 5.0)
"""First and longest pause before connecting again; jittered."""

NOTIFY_SECONDS: Final = 0.002
"""The shortest pause between two notifications of one process: 500 a second at most, whatever it appends."""

REFUSED_SECONDS: Final = 60.0
"""How long nobody is notified after the server has refused to, as it does when its queue is full."""

LISTENING_POLL_SECONDS: Final = 1.0
"""The longest pause between two looks at the log while notifications arrive: one cheap query a second. It bounds how long
an event goes unnoticed whose notification was lost, or that was inserted without one."""


@dataclass(frozen=True, slots=True)
class WakeUps:
    """How a store learns that others have appended. Nothing rests on it but speed.

    Attributes:
        poll_seconds: the longest pause between two looks at the log without notifications. Default 0.25: what a user
            takes for "at once". With them it is one second, or this if it is longer.
        listen: listen for notifications, on one connection of its own, from the first subscriber on.
        notify: notify others after a commit, from the connection that publishes marks.
        listen_url: another address for that one connection: LISTEN does not work through a pooler in transaction mode.
            Default: the store's own.
    """

    poll_seconds: float = 0.25
    listen: bool = True
    notify: bool = True
    listen_url: object = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            InvalidArgument: a poll interval that is not positive.
        """
        seconds: object = self.poll_seconds
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
            raise InvalidArgument(f"poll_seconds must be a positive number of seconds, got {seconds!r}")


class _Deaf(EventStoreError):  # noqa: N818 - nobody outside sees it
    """LISTEN is in force and nothing arrives."""


class Sender:
    """When to notify others: at once after a pause, then once for all that was appended meanwhile."""

    __slots__ = ("_at", "due")

    def __init__(self) -> None:
        self.due = False
        self._at = float("-inf")

    def due_in(self, now: float) -> float | None:
        """Seconds until a notification is to be sent; None: nobody is to be told anything."""
        return max(0.0, self._at + NOTIFY_SECONDS - now) if self.due else None

    def sent(self, now: float) -> None:
        """Note that everything that was appended before `now` is told."""
        self._at, self.due = now, False

    def refused(self, now: float) -> None:
        """Note that the server would not; try again later."""
        self._at, self.due = now + REFUSED_SECONDS, True


class Listener:
    """Hears that others have appended. See the module's docstring.

    Args:
        connect: opens a connection for LISTEN.
        channel: what to listen on.
        heard: called at each notification, with the sender's process id, and after every LISTEN, with 0.
        ask: asks for a notification from another connection.

    Attributes:
        listening: whether notifications are known to arrive.
        connects: how often it has begun to listen, for tests that must know that it has.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[AsyncpgConnection]],
        channel: str,
        *,
        heard: Callable[[int], None],
        ask: Callable[[], None],
    ) -> None:
        self._connect, self._channel, self._heard, self._ask = connect, channel, heard, ask
        self._task: asyncio.Task[None] | None = None
        self._trouble = ""
        self._count = 0
        self._lost = False
        self._stir = asyncio.Event()
        self.listening = False
        self.connects = 0

    def start(self) -> None:
        """Begin to listen, if that has not begun yet."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._live(), name="eventstore-listener")

    async def close(self) -> None:
        """End the task and its connection."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _live(self) -> None:
        pause = RECONNECT_SECONDS[0]
        while True:
            try:
                await self._listen()
            except _Deaf as error:
                pause = DEAF_SECONDS
                self._complain(f"{error}; give WakeUps(listen_url=...) an address without a pooler, or switch listen off")
            except EventStoreError as error:
                pause = RECONNECT_SECONDS[0] if self.listening else min(pause * 2, RECONNECT_SECONDS[1])
                self._complain(str(error))
            except Exception:
                pause = DEAF_SECONDS
                _log.exception("the listener met what it does not understand; the log is polled")
            finally:
                self.listening = False
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    def _complain(self, why: str) -> None:
        """Once for each kind of trouble."""
        if why != self._trouble:
            _log.warning("no notifications, the log is polled: %s", why)
        self._trouble = why

    async def _listen(self) -> None:
        """Listen until the connection is lost.

        Raises:
            ConnectionLost: it was.
            _Deaf: notifications do not arrive here.
            EventStoreError: the server refuses.
        """
        connection = await self._connect()
        try:
            self._lost = False
            await self._answered(connection.listen(self._channel, self._note, self._note_lost))
            await self._hear_something()
            self.listening, self._trouble = True, ""
            self.connects += 1
            if armed:
                await hit(LISTENED)
            self._heard(0)
            while True:
                before = self._count
                await self._wait(PROBE_SECONDS)
                if self._count == before:
                    await self._answered(connection.fetch(Statement("select 1")))
        except ConnectionLost:
            connection.abort()
            raise
        finally:
            await connection.end_listening()
            await connection.close()

    def _note(self, pid: int) -> None:
        self._count += 1
        if not self.listening:
            self._stir.set()
        self._heard(pid)

    def _note_lost(self) -> None:
        self._lost = True
        self._stir.set()

    async def _hear_something(self) -> None:
        self._stir.clear()
        before = self._count
        self._ask()
        await self._wait(ANSWER_SECONDS)
        if self._count == before:
            raise _Deaf(f"no notification arrived within {ANSWER_SECONDS:.0f} s of LISTEN")

    async def _answered(self, request: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await request
        except TimeoutError as error:
            raise ConnectionLost(f"the server did not answer the listener within {ANSWER_SECONDS:.0f} s") from error

    async def _wait(self, seconds: float) -> None:
        """Wait until something stirs, at most `seconds`.

        Raises:
            ConnectionLost: the connection is gone.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stir.wait()
        self._stir.clear()
        if self._lost:
            raise ConnectionLost("the listener's connection was closed")
