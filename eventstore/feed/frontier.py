"""The frontier: up to which position is the log decided, for every reader of this process.

**Authority.** PostgreSQL's lock table says who may still commit (`_operations/marks.py` has the proof). The frontier is
this process's copy of what was learnt from it: a number that only grows while one connection lives. The published safe
mark is only where a start begins; NOTIFY and clocks decide nothing.

**States.** One task and one connection a process, whatever the number of readers.

- *idle*: nobody waits and everything is published. No statements at all.
- *watching*: somebody waits for positions behind the frontier. The task looks how far the log goes on without a hole
  (one index look-up), at once after a local append or a notification, else in growing pauses up to the poll's bound
  (`wakeups`).
- *a hole stays open for longer than a commit takes, or somebody wants a fresh mark*: a round is opened: the last
  position given out, and in a later statement who could still commit. Holders are looked at again after 2 ms, backing
  off to 50 ms. When all of a round's holders have ended, the frontier moves to the round's position. Rounds overlap, so
  that one opened later, behind fewer holders, need not wait for an earlier one. Who keeps readers waiting for long is
  named (`blocked`).

**Trust window.** Holders are names that are used again after a restart, so every round dies with the connection. After
a reconnect the log's identity is compared with the first one seen, the frontier falls back to the published mark, and
its generation grows (a server that was restarted behind a pooler counts as one): each reader must then check that the
last event that it saw still stands where it stood.

**What if it dies here.** The task writes nothing but marks, each in a statement of its own, and a mark only ever says what
stays true; a notification is a hint. Killed before publishing: the next start begins a little earlier. A reader that is
cancelled leaves its future behind; the task drops it.

Longer than other modules: the states share their data, and cut apart the argument could not be read in one place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

from .._drivers.asyncpg import AsyncpgConnection
from .._failpoints import armed, hit, register
from .._operations import marks
from .._operations.blockers import blockers
from .._operations.marks import Identity, LogState, Mark
from ..errors import (
    ConnectionLost,
    DatabaseRefused,
    EventStoreError,
    LogReplaced,
    LogRewound,
    PermissionDenied,
    Retryable,
    SettleTimeout,
    StoreClosed,
    Transient,
)
from ..streams import Position
from ..telemetry import Telemetry
from .blocked import HoleWatch
from .rounds import Order, Publishing, Reached, Request, Round, Settled, Waiter
from .wakeups import LISTENING_POLL_SECONDS, REFUSED_SECONDS, Listener, Sender, WakeUps

__all__ = ["Frontier"]

_log = logging.getLogger("eventstore.feed")

CONNECTED: Final = register("feed.connected", "the connection is made and the log compared; no round is open yet")
LOOKING: Final = register("feed.before_look", "something calls for a look at the log; no statement was sent")
DECIDED: Final = register("feed.after_look", "the frontier has moved as far as the look allows; readers are told")
OPENING: Final = register("feed.before_round", "a round is to be opened; who may still commit has not been asked")
CLOSING: Final = register("feed.before_close", "rounds are open; whether their holders have ended has not been asked")
NOTIFYING: Final = register("feed.before_notify", "events are committed; other processes have not been notified")
NOTIFIED: Final = register("feed.after_notify", "other processes have been notified")
PUBLISHING: Final = register("marks.before_publish", "a mark is settled; it has not been published")
PUBLISHED: Final = register("marks.after_publish", "the mark is published and committed")

PUBLISH_SECONDS: Final = 1.0
"""Safe mark and time mark are written at most this often, and only when the log has moved."""

LOOK_SECONDS: Final = 0.0005
"""The shortest pause between two looks, however many appends call for one. A look is one index look-up."""

SHORTEST_PAUSE: Final = 0.002
"""The first pause of the poll, after something has happened; it grows from there."""

READER_GRACE_SECONDS: Final = 1.0
"""How long a reader that has stopped waiting counts as one that waits."""

HOLE_SECONDS: Final = 0.002
"""How long a hole is looked at again before the lock table is asked about it: most are filled within the time of a commit,
and asking costs writers a little (`marks.FIRST_PAUSE`), looking nothing."""

OPEN_SECONDS: Final = 15.0
"""How long a fresh mark may take to be begun: connecting, with retries."""

RECONNECT_SECONDS: Final = (0.05, 2.0)
"""First and longest pause before connecting again; jittered."""


class Frontier:
    """Answers, for all readers of one store: how far is the log decided? See the module's docstring.

    Args:
        connect: opens a connection that never appends.
        connect_listener: opens one for LISTEN.
        channel: what to listen on.
        wake_ups: what wakes it, and whom it wakes.
        telemetry: who is told when readers are blocked.
        closed: refuse everybody: the store is not open yet.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[AsyncpgConnection]],
        connect_listener: Callable[[], Awaitable[AsyncpgConnection]],
        channel: str,
        *,
        wake_ups: WakeUps,
        telemetry: Telemetry | None,
        closed: bool = False,
    ) -> None:
        self._connect = connect
        self._wake_ups = wake_ups
        self._listener = Listener(connect_listener, channel, heard=self._heard, ask=self._echo)
        self._sender = Sender()
        self._watch = HoleWatch(telemetry)
        self._connection: AsyncpgConnection | None = None
        self._started: datetime | None = None
        self._identity: Identity | None = None
        self._decided = 0
        self._generation = 0
        self._requests: list[Request] = []
        self._orders: list[Order] = []
        self._rounds: list[Round] = []
        self._waiters: list[Waiter] = []
        self._publishing = Publishing()
        self._hint = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._trouble: EventStoreError | None = None
        self._closed = closed
        self._pause = marks.FIRST_PAUSE
        self._idle_pause = SHORTEST_PAUSE
        self._looked_at = self._ask_at = self._waited_at = float("-inf")
        self._hole_since: tuple[int, float] | None = None  # which, and since when it has been looked at
        self.looks = 0  # how often the task has looked, for tests that must know that it has

    # -- what readers and appenders call

    async def beyond(self, position: int, generation: int | None = None) -> Reached:
        """Wait until something behind `position` is decided; return how far.

        Args:
            position: what the caller has seen.
            generation: what the caller was last told; returns at once when there is a newer one, so that the caller can
                check that what it has seen still stands.

        Raises:
            LogRewound: the log ends below `position` after a reconnect.
            LogReplaced: the connection now reaches another log.
            StoreClosed: the store was closed meanwhile.
        """
        waiter = Waiter(position, generation, asyncio.get_running_loop().create_future())
        if self.stands(self._generation):
            self._answer(waiter)
            if waiter.future.done():
                return waiter.future.result()
        self._waiters.append(waiter)
        self._call()
        if self._wake_ups.listen and position >= 0:
            self._listener.start()
        try:
            return await waiter.future
        finally:
            self._waited_at = _now()
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    async def settled(self, seconds: float) -> Settled:
        """Make a fresh mark and wait for it at most `seconds`; then take what is decided by then.

        Raises:
            SettleTimeout, ConnectionLost: the mark could not even be begun.
        """
        loop = asyncio.get_running_loop()
        request = Request(loop.create_future(), loop.create_future())
        self._requests.append(request)
        self._call()
        try:
            opened = await self._opened(request)
            async with asyncio.timeout(seconds):
                return Settled(await asyncio.shield(request.done), complete=True)
        except TimeoutError:
            return Settled(self._as_far_as_decided(opened), complete=False)
        finally:
            request.opened.cancel()
            request.done.cancel()

    def _as_far_as_decided(self, mark: Mark) -> Mark:
        """The part of an open round's mark that holds already. What was decided beyond it belongs to a later time."""
        return Mark(Position(min(self._decided, mark.position)), mark.seen_at)

    async def _opened(self, request: Request) -> Mark:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                return await asyncio.shield(request.opened)
        except TimeoutError as error:
            raise self._too_late() from error

    def _too_late(self) -> EventStoreError:
        why = f"; the last trouble was: {self._trouble}" if self._trouble else ""
        kind = ConnectionLost if isinstance(self._trouble, ConnectionLost) else SettleTimeout
        return kind(f"the log could not be looked at within {OPEN_SECONDS:.0f} s{why}")

    async def decided(self) -> Reached:
        """Return how far the log is decided as far as known, without waiting for any writer.

        Raises:
            ConnectionLost, SettleTimeout: the log could not be looked at in time.
        """
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                return await self.beyond(-1)
        except TimeoutError as error:
            raise self._too_late() from error

    @property
    def identity(self) -> Identity | None:
        """Which log the connection reaches; None before the first one."""
        return self._identity

    def touch(self) -> None:
        """Hint: this process has appended. Readers look at once, here and elsewhere; a mark is published within about
        a second.

        Never raises: an append that outlived `close` is committed all the same.
        """
        if self._closed:
            return
        known = self._publishing.due and (self._sender.due or not self._wake_ups.notify)
        self._publishing.due = True
        self._sender.due |= self._wake_ups.notify
        if self._waiters or not known:  # else the task rests until it is time to tell others, and to publish
            self._call()

    def stands(self, generation: int) -> bool:
        """Whether the connection on which `generation` was learnt is still there, as far as is known."""
        return self._connection is not None and not self._connection.closed and 0 < generation == self._generation

    @property
    def listener(self) -> Listener:
        """What hears of other processes' appends."""
        return self._listener

    async def publish(self, mark: Mark) -> None:
        """Publish a mark now, with a time mark even if it has not moved.

        Raises:
            PermissionDenied: the role may not publish.
            ConnectionLost, SettleTimeout: it could not be in time.
        """
        order = Order(mark, asyncio.get_running_loop().create_future())
        self._orders.append(order)
        self._call()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await order.done
        except TimeoutError as error:
            raise self._too_late() from error
        finally:
            order.done.cancel()

    async def close(self) -> None:
        """Publish what is due, end the task, fail who still waits."""
        try:
            if self._task is not None and self._publishing.due and self._publishing.allowed and not self._trouble:
                with contextlib.suppress(EventStoreError, TimeoutError):
                    async with asyncio.timeout(PUBLISH_SECONDS):
                        settled = await self.settled(PUBLISH_SECONDS / 2)
                        await self.publish(settled.mark)
        finally:
            self._closed = True
            await self._listener.close()
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
                self._task = None
            self._fail(StoreClosed("the store was closed while somebody was reading from it"))
            await self._disconnect()

    # -- the task

    def _heard(self, pid: int) -> None:
        """Somebody has appended, or the listener has just begun to listen. Our own notifications are no news."""
        if self._connection is None or pid != self._connection.pid:
            self._hint.set()

    def _echo(self) -> None:
        """The listener wants to know whether it hears."""
        self._sender.due = True
        self._hint.set()

    def _call(self) -> None:
        if self._closed:
            raise StoreClosed("the store is not open: use `async with EventStore(...) as store`, or `await store.open()`")
        self._hint.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._live(), name="eventstore-frontier")

    async def _live(self) -> None:
        pause = RECONNECT_SECONDS[0]
        while True:
            try:
                await self._serve()
            except Transient as error:
                if self._trouble is None:
                    _log.warning("the feed lost its connection and connects again: %s", error)
                self._trouble = error
                await self._disconnect()
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, RECONNECT_SECONDS[1])
            except Exception as error:
                if not isinstance(error, EventStoreError):
                    _log.exception("the feed met what it does not understand")
                await self._disconnect()
                self._fail(error)
                self._hint.clear()
                await self._hinted(None)
            else:
                pause = RECONNECT_SECONDS[0]

    async def _serve(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            await self._disconnect()
            connection = await self._begin()
        self._trouble = None
        await self._rest()
        if self._connection is connection and not connection.closed:
            await self._look(connection)

    async def _begin(self) -> AsyncpgConnection:
        """Connect, and compare the log with the one known."""
        connection = await self._connect()
        try:
            state = await connection.run(marks.log_state())
            self._compare(state)
            if armed:
                await hit(CONNECTED)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        self._started = state.started
        self._decided = state.safe_mark
        self._generation += 1
        self._identity = state.identity
        self._publishing.position = state.safe_mark
        self._rounds.clear()
        self._hole_since = None
        self._requests = [r for r in self._requests if not r.done.done()]
        await self._open_round(connection)
        for waiter in list(self._waiters):
            self._answer(waiter)
        return connection

    def _compare(self, state: LogState) -> None:
        known, found = self._identity, state.identity
        if known is not None and (known.system_identifier, known.log_epoch) != (
            found.system_identifier,
            found.log_epoch,
        ):
            self._identity = None
            raise LogReplaced(str(known), str(found))
        if known is not None and known.timeline != found.timeline:
            _log.warning("the server was failed over: the log is now %s, it was %s", found, known)
        for waiter in list(self._waiters):
            if waiter.position > state.last_given and not waiter.future.done():
                why = "nothing that far was ever given out"
                waiter.future.set_exception(LogRewound(waiter.position, state.last_given, why))

    async def _rest(self) -> None:
        """Wait until there is something to do: a hint, the poll, a notification to send, the next look at holders."""
        if self._requests or self._orders:
            return
        waits = [self._sender.due_in(_now())]
        if self._rounds:
            waits.append(max(0.0, self._ask_at - _now()))
        elif self._hole_since is not None:
            waits.append(LOOK_SECONDS)
        else:
            waits.append(self._publish_due_in())
            if self._waiters:
                bound = self._poll_bound()
                waits.append(min(self._idle_pause, bound))
                self._idle_pause = min(self._idle_pause * 1.5, bound)
        await self._hinted(min((seconds for seconds in waits if seconds is not None), default=None))

    def _poll_bound(self) -> float:
        """The longest pause between two looks while somebody waits."""
        bound = self._wake_ups.poll_seconds
        return max(bound, LISTENING_POLL_SECONDS) if self._listener.listening else bound

    async def _hinted(self, seconds: float | None) -> None:
        """Wait for a hint, at most `seconds`; never less than the shortest pause since the last look."""
        if self._hint.is_set():
            await asyncio.sleep(max(0.0, self._looked_at + LOOK_SECONDS - _now()))
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._hint.wait()
        if self._hint.is_set():
            self._idle_pause = SHORTEST_PAUSE
        self._hint.clear()

    def _publish_due_in(self) -> float | None:
        """Seconds until a mark is to be published; None: nothing is due."""
        publishing = self._publishing
        if not publishing.allowed or not (publishing.due or self._decided > publishing.position):
            return None
        return max(0.0, publishing.at + PUBLISH_SECONDS - _now())

    async def _look(self, connection: AsyncpgConnection) -> None:
        """Do everything that is due, once."""
        if armed:
            await hit(LOOKING)
        self.looks += 1
        self._looked_at = _now()
        while self._orders:
            await self._obey(connection, self._orders[0])
            self._orders.pop(0)
        if self._rounds and _now() >= self._ask_at:
            await self._close_rounds(connection)
            self._ask_again()
        due = self._publish_due_in() == 0 and not any(r.publishes for r in self._rounds)
        if self._requests or due:
            await self._open_round(connection, publishes=due)
        hole = False
        if self._waiters or self._rounds:
            reached, hole = await connection.run(marks.advance(self._decided, self._started))
            self._decide(reached)
            if armed:
                await hit(DECIDED)
            await self._note_hole(connection, hole=hole)
        else:
            self._hole_since = None
        await self._tell(connection)
        self._answer_opened()
        await self._publish_stuck(connection)
        if self._watch.is_due(self._decided, _now(), hole=hole and self._readers_wait()):
            await self._name_blockers(connection)

    async def _note_hole(self, connection: AsyncpgConnection, *, hole: bool) -> None:
        """Ask about a hole that has been there for a while."""
        if not hole or any(round_.mark.position > self._decided for round_ in self._rounds):
            self._hole_since = None
        elif self._hole_since is None or self._hole_since[0] != self._decided:
            self._hole_since = (self._decided, _now())
        elif _now() - self._hole_since[1] >= HOLE_SECONDS:
            await self._open_round(connection)

    def _ask_again(self) -> None:
        """When to look at holders again: in growing pauses."""
        self._ask_at = _now() + self._pause
        self._pause = min(self._pause * 1.5, marks.LONGEST_PAUSE)

    async def _tell(self, connection: AsyncpgConnection) -> None:
        """Notify other processes of what this one has appended."""
        if self._sender.due_in(_now()) != 0:
            return
        if armed:
            await hit(NOTIFYING)
        self._sender.sent(_now())
        try:
            await connection.run(marks.notify())
        except ConnectionLost:
            self._sender.due = True
            raise
        except (Retryable, DatabaseRefused) as error:  # its queue is full, say: the others' poll will have to do
            self._sender.refused(_now())
            _log.warning("other processes cannot be notified, trying again in %.0f s: %s", REFUSED_SECONDS, error)
        if armed:
            await hit(NOTIFIED)

    async def _name_blockers(self, connection: AsyncpgConnection) -> None:
        """Say for whom readers wait. The round that was opened first has the fewest to wait for."""
        behind = [round_ for round_ in self._rounds if round_.mark.position > self._decided]
        holders = min(behind, key=lambda round_: round_.opened_at).holders if behind else set()
        self._watch.say(await connection.run(blockers(holders)), _now())

    async def _obey(self, connection: AsyncpgConnection, order: Order) -> None:
        """Publish a mark that somebody waits for; a refusal is that caller's."""
        try:
            if not order.done.done():
                await connection.run(marks.publish(order.mark, always=True))
        except Transient as error:
            if not isinstance(error, Retryable):
                raise
            if not order.done.done():
                order.done.set_exception(error)
        except EventStoreError as error:
            if not order.done.done():
                order.done.set_exception(error)
        if not order.done.done():
            order.done.set_result(None)

    async def _open_round(self, connection: AsyncpgConnection, *, publishes: bool = False) -> None:
        requests, self._requests = self._requests, []
        if publishes:
            self._publishing.due = False
        try:
            if armed:
                await hit(OPENING)
            mark, holders = await connection.run(marks.open_round(self._started))
        except BaseException:
            self._requests = requests + self._requests
            self._publishing.due |= publishes
            raise
        opened = Round(mark, holders, requests, publishes, _now())
        self._pause = marks.FIRST_PAUSE
        self._ask_again()
        if holders:
            self._rounds = [r for r in self._rounds if not opened.takes_over(r)] + [opened]
        else:
            await self._complete(connection, opened)

    def _readers_wait(self) -> bool:
        """Whether somebody waits behind the frontier, or did a moment ago: a reader that works on what it was given comes
        back, and must not begin to wait anew.
        """
        return bool(self._waiters) or _now() - self._waited_at < READER_GRACE_SECONDS

    def _wanted_rounds(self) -> list[Round]:
        """Those that somebody waits for. To readers the earliest that goes beyond the frontier is enough: whoever it waits
        for, every later one waits for too.
        """
        wanted, for_readers = [], self._readers_wait()
        for round_ in self._rounds:
            if round_.wanted():
                wanted.append(round_)
            elif for_readers and round_.mark.position > self._decided:
                wanted.append(round_)
                for_readers = False
        return wanted

    async def _close_rounds(self, connection: AsyncpgConnection) -> None:
        self._rounds = self._wanted_rounds()
        if not self._rounds:
            return
        if armed:
            await hit(CLOSING)
        everybody = set().union(*(r.holders for r in self._rounds))
        left = await connection.run(marks.holders_left(everybody, self._started))
        rounds, self._rounds = self._rounds, []
        for round_ in rounds:
            round_.holders = round_.holders & left
            if round_.holders:
                self._rounds.append(round_)
            else:
                await self._complete(connection, round_)

    async def _complete(self, connection: AsyncpgConnection, round_: Round) -> None:
        self._decide(round_.mark.position)
        for request in round_.requests:
            if not request.opened.done():
                request.opened.set_result(round_.mark)
            if not request.done.done():
                request.done.set_result(round_.mark)
        if round_.publishes:
            await self._publish(connection, round_.mark)

    def _answer_opened(self) -> None:
        """Tell who asked for a mark that it is begun, once the frontier was brought up to the first hole."""
        for round_ in self._rounds:
            for request in round_.requests:
                if not request.opened.done():
                    request.opened.set_result(round_.mark)

    async def _publish_stuck(self, connection: AsyncpgConnection) -> None:
        """Publish up to the first hole where a held transaction keeps a round open for long."""
        now = _now()
        for round_ in self._rounds:
            if round_.publishes and now - round_.opened_at > PUBLISH_SECONDS:
                round_.publishes = False
                self._publishing.due = True  # what is behind the hole is yet to come
                await self._publish(connection, self._as_far_as_decided(round_.mark))

    async def _publish(self, connection: AsyncpgConnection, mark: Mark) -> None:
        publishing = self._publishing
        publishing.at = _now()
        try:
            if mark.position > publishing.position:
                if armed:
                    await hit(PUBLISHING)
                await connection.run(marks.publish(mark))
                publishing.position = mark.position
                if armed:
                    await hit(PUBLISHED)
        except (PermissionDenied, Retryable) as error:
            if isinstance(error, Retryable) and error.sqlstate != "25006":
                raise
            publishing.allowed = False
            _log.warning("safe marks are not published from here: %s", error)

    def _decide(self, position: int) -> None:
        if position <= self._decided:
            return
        self._decided = position
        self._idle_pause = SHORTEST_PAUSE
        for waiter in list(self._waiters):
            self._answer(waiter)

    def _answer(self, waiter: Waiter) -> None:
        news = waiter.position < self._decided or waiter.generation not in (None, self._generation)
        if news and not waiter.future.done():
            waiter.future.set_result(Reached(self._decided, self._generation))

    def _fail(self, error: Exception) -> None:
        self._rounds, rounds = [], self._rounds
        self._requests, requests = [], self._requests
        futures: list[asyncio.Future[Any]] = []  # of what each of them waits for
        futures += [waiter.future for waiter in self._waiters]
        self._orders, orders = [], self._orders
        futures += [order.done for order in orders]
        for request in [*requests, *(r for round_ in rounds for r in round_.requests)]:
            if request.opened.done():
                futures.append(request.done)
            else:
                request.done.cancel()
                futures.append(request.opened)
        for future in futures:
            if not future.done():
                future.set_exception(error)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        for round_ in self._rounds:  # what they waited for is not known any more: begin again
            self._requests += [r for r in round_.requests if not r.done.done()]
            self._publishing.due |= round_.publishes
        self._rounds.clear()
        if connection is not None:
            await connection.close()


def _now() -> float:
    """Seconds, on the loop's clock."""
    return asyncio.get_running_loop().time()
