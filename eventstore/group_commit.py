"""Appends that arrive together are sent together: one statement, one commit, one wait for the disk.

Authority: the database alone says what became of an append. What is kept here is only who waits for an answer; if this
process dies, an append that was answered is committed, one that was not may be either, and nothing has to be repaired.

States of an append, in its lane:

1. *queued*: behind the earlier appends to its stream. Nothing was sent. Cancelled here, it is never sent.
2. *departed*: part of the group under way. One group at a time is under way in a lane, and of one stream one append at a
   time (or several with `ANY`, which cannot refuse each other, as one). Cancelled here, it may or may not be committed; the
   others of its group are not touched, since the group is sent by the lane's own task.
3. *answered*: its caller has an outcome or an error of its own.
4. *aside*: contended; see below. The appends behind it to the same stream stay queued, so call order holds.

Appends with tags, and decisions, have a lane of their own (but for stores with few connections): their statement costs more,
and one contended tag may hold up many. It tries the locks of tags as it tries those of streams, and what is said below of a
contended stream holds for a contended tag. A decision does not go in one group with an append that writes what it asks about.
While a stream has something in one lane, whatever comes next for it goes there too, so that calls for it keep their order;
then that lane sends the statement for tags.

A lane departs as soon as it is free: a lone caller pays one hop through the event loop and no timer; while a commit is under
way, others gather. The streams of a store are pinned to its lanes by hash, so appends to one stream never race each other.

What one append does must not hurt its group:

- Its expectation fails: that is its outcome; the rest is inserted (each is judged by itself in SQL).
- Another transaction is appending to its stream: the advisory lock that all appenders hold was tried, not waited for. It is
  tried again a few times within some milliseconds; then it queues for the lock on another connection (aside), where those of
  all processes take turns. If no such connection is to be had, it goes on trying.
- Somebody who takes no such lock (a plain INSERT, an older version of this library) holds its version: the statement fails
  with a lock time-out or a unique violation, whole. Then the appends of the group are sent one by one, and who fails again in
  that way goes aside.
- The server refuses a value of it, picks it as the victim of a deadlock, or the like: one by one as well, and the error is
  its own.
- The sequence of positions lies behind the log: everyone is told; nobody's append can be right.
- The connection dies: everyone who was on it gets `AppendUnknown`; who has a request id asks again by it (`store.append`).

Bounds: a group ends at so many appends or characters; the queue of all lanes is bounded by both, and who finds it full waits
in line.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Final, cast

from ._drivers.asyncpg import AsyncpgConnection, AsyncpgDriver
from ._drivers.budget import Budget
from ._failpoints import armed, hit, register
from ._operations import append as appends
from ._operations.append import CONTENDED, Landed, Outcome, Refused
from ._operations.prepare import PreparedAppend
from .errors import (
    AppendUnknown,
    ConnectionLost,
    EventStoreError,
    InvalidArgument,
    LockTimeout,
    SequenceBehind,
    StoreClosed,
    UniqueViolation,
)
from .streams import ANY

__all__ = ["GroupCommit", "Lanes"]

SENDING: Final = register("append.before_send", "the append is checked and encoded; nothing was sent")
COMMITTED: Final = register("append.after_commit", "the append is committed; neither the caller nor the readers are told")

PATIENCE: Final = "20ms"
"""How long a group waits for somebody who holds a version without the lock on its stream."""

TRIES_AFTER: Final = (0.0005, 0.002, 0.005)
"""Pauses before a contended stream is tried again in its lane, before it queues aside: most commits take less."""

LAST_TRY_AFTER: Final = 0.02
"""The pause while there is no place aside."""

MOST_TAGS: Final = 256
"""Tags of one group, unless a single append has more: above that `tag_locks_v1` takes coarser locks."""

ASIDE_SECONDS: Final = 5.0
"""How long an append may be contended in all, about."""

CLOSE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class GroupCommit:
    """How concurrent appends share commits.

    Attributes:
        appends: the most appends of one commit. 1: each is sent alone.
        size: the most characters of JSON of one commit, unless a single append has more.
        queue_appends, queue_size: how much may wait in this process; whoever comes then waits for room, in line.
    """

    appends: int = 256
    size: int = 2**20
    queue_appends: int = 10_000
    queue_size: int = 64 * 2**20

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InvalidArgument: a bound that is no int of at least 1.
        """
        for name in ("appends", "size", "queue_appends", "queue_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidArgument(f"GroupCommit.{name} must be an int of at least 1, got {value!r}")


class _Waiting:
    """One append whose caller waits."""

    __slots__ = ("future", "one", "since", "tries")

    def __init__(self, one: PreparedAppend, future: asyncio.Future[Outcome]) -> None:
        self.one, self.future = one, future
        self.tries = 0
        self.since = 0.0

    def answer(self, outcome: Outcome) -> None:
        """Tell the caller, if it still waits."""
        if not self.future.done():
            self.future.set_result(outcome)

    def fail(self, error: BaseException) -> None:
        """Raise from the caller's call, if it still waits."""
        if not self.future.done():
            self.future.set_exception(error)


Key = tuple[str, str]
"""Tenant and stream."""


class _Unit:
    """What goes to the database for one stream: one append, or several with ANY as if they were one."""

    __slots__ = ("key", "one", "waiting")

    def __init__(self, key: Key, waiting: Sequence[_Waiting]) -> None:
        self.key, self.waiting = key, waiting
        if len(waiting) == 1:
            self.one = waiting[0].one
        else:
            rows = tuple(itertools.chain.from_iterable(each.one.rows for each in waiting))
            tags = tuple({tag for each in waiting for tag in each.one.tags})
            self.one = waiting[0].one._replace(rows=rows, tags=tags)

    def answer(self, outcome: Outcome) -> None:
        """Tell every caller its part."""
        if len(self.waiting) == 1:
            self.waiting[0].answer(outcome)
            return
        before, positions, _ = cast(Landed, outcome)  # nothing that has ANY is refused
        done = 0
        for each in self.waiting:
            end = done + len(each.one.rows)
            each.answer(Landed(before + done, positions[done:end]))
            done = end

    def fail(self, error: EventStoreError, *, sent: bool = True) -> None:
        """Raise from every caller's call; each gets an error of its own, since raising one in two tasks mixes tracebacks.

        Args:
            error: what went wrong.
            sent: whether the append may have reached the server; then a lost connection leaves its outcome open.
        """
        for each in self.waiting:
            if sent and isinstance(error, ConnectionLost):
                own: EventStoreError = AppendUnknown((each.one.stream_id,), each.one.event_ids, str(error))
            else:
                own = copy.copy(error)
            own.__cause__ = error
            each.fail(own)


class Lanes:
    """The appends of one store under way and waiting.

    Args:
        driver: connects.
        options: the bounds.
        budget: how many connections.
        asides: how many appends may queue for contended streams at once, each on a connection for transactions.
        committed: called after every commit.
    """

    def __init__(
        self, driver: AsyncpgDriver, options: GroupCommit, budget: Budget, asides: int, committed: Callable[[], None]
    ) -> None:
        self.driver, self.options, self.committed = driver, options, committed
        self._lanes = [_Lane(self) for _ in range(budget.append)]
        self._tagged = _Lane(self) if budget.tagged else None
        self.asides_left = asides
        self._appends = self._size = 0
        self._room: deque[asyncio.Future[None]] = deque()
        self._empty: asyncio.Event | None = None
        self._closed = True

    def open(self) -> None:
        """Take appends."""
        self._closed = False

    async def append(self, one: PreparedAppend) -> Outcome:
        """Append, together with whoever else does.

        Raises:
            StoreClosed: before `open`, or after `close`.
            AppendUnknown: the connection died while the append was under way.
            LockTimeout: another transaction kept the stream for too long.
            EventStoreError: whatever the server said about it.
        """
        if self._room or self._is_full(one.size):
            await self._wait_for_room(one.size)
        if self._closed:
            raise StoreClosed("the store is not open: use `async with EventStore(...) as store`, or `await store.open()`")
        self._appends += 1
        self._size += one.size
        try:
            future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            key = (one.tenant_id, one.stream_id)
            lane, tagged = self._lanes[hash(key) % len(self._lanes)], self._tagged
            if tagged is not None and (one.tags or tagged.holds(key)) and not lane.holds(key):
                lane = tagged
            lane.put(key, _Waiting(one, future))
            return await future
        finally:
            self._appends -= 1
            self._size -= one.size
            if self._room:
                self._admit()
            elif self._empty is not None and not self._appends:
                self._empty.set()

    async def drain(self) -> None:
        """Refuse new appends; wait for those under way, at most five seconds."""
        self._closed = True
        while self._room:
            self._next_in_line()
        if self._appends:
            self._empty = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._empty.wait()

    async def close(self) -> None:
        """Close the connections. Whoever still waits gets `AppendUnknown` or `StoreClosed`."""
        await self.drain()
        for lane in (*self._lanes, *([self._tagged] if self._tagged else [])):
            await lane.close()

    def _is_full(self, size: int) -> bool:
        options = self.options
        return self._appends > 0 and (self._appends >= options.queue_appends or self._size + size > options.queue_size)

    async def _wait_for_room(self, size: int) -> None:
        """Wait in line. Who is let in counts at once: it runs before anybody who comes later."""
        while True:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._room:
                    self._room.remove(turn)
                else:
                    self._admit()  # it was this one's turn
                raise
            if self._closed or not self._is_full(size):
                return

    def _admit(self) -> None:
        if self._room and not self._is_full(0):
            self._next_in_line()

    def _next_in_line(self) -> None:
        turn = self._room.popleft()
        if not turn.done():
            turn.set_result(None)


class _Lane:
    """One connection, and the streams that are pinned to it."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._streams: dict[Key, deque[_Waiting]] = {}  # queued appends; a stream under way stays, maybe empty
        self._ready: deque[Key] = deque()  # streams with something queued and nothing under way
        self._task: asyncio.Task[None] | None = None
        self._asides: set[asyncio.Task[None]] = set()
        self._connection: AsyncpgConnection | None = None
        self._closed = False

    def put(self, key: Key, waiting: _Waiting) -> None:
        """Queue an append."""
        queue = self._streams.get(key)
        if queue is not None:
            queue.append(waiting)
            return
        self._streams[key] = deque((waiting,))
        self._ready.append(key)
        self._depart()

    def holds(self, key: Key) -> bool:
        """Whether an append to the stream is queued or under way here."""
        return key in self._streams

    async def close(self) -> None:
        """End what is under way, by force; close the connection."""
        self._closed = True
        tasks = [*self._asides, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for queue in self._streams.values():
            for waiting in queue:
                waiting.fail(StoreClosed("the store was closed before the append was sent"))
        await self._give_back()

    def _depart(self) -> None:
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="eventstore-append")

    async def _run(self) -> None:
        """Send groups for as long as anything is queued."""
        group: list[_Unit] = []
        try:
            while group := self._next_group():
                await self._send(group)
                await asyncio.sleep(0)  # whoever was answered may have the next append ready
            if self._lanes.driver.borrows:
                await self._give_back()
        except BaseException as error:
            for unit in group:
                unit.fail(ConnectionLost(f"the store was closed, or its task cancelled ({error!r})"))
            raise
        finally:
            self._task = None
            if self._ready:
                self._depart()

    def _next_group(self) -> list[_Unit]:
        group: list[_Unit] = []
        most, largest, size = self._lanes.options.appends, self._lanes.options.size, 0
        tags: set[str] = set()
        while self._ready and len(group) < most:
            key = self._ready[0]
            queue = self._streams[key]
            while queue and queue[0].future.done():  # cancelled
                queue.popleft()
            if queue and group:
                one = queue[0].one
                if size + one.size > largest or (one.tags and not _may_follow(tags, one)):
                    break
            self._ready.popleft()
            if not queue:
                del self._streams[key]
                continue
            first = queue.popleft()
            if queue:
                unit = _Unit(key, _with_joiners(first, queue, most - len(group), largest - size, tags))
                size += sum(each.one.size for each in unit.waiting)
            else:
                unit = _Unit(key, (first,))
                size += first.one.size
            group.append(unit)
            if unit.one.tags:
                tags.update(unit.one.tags)
        return group

    async def _send(self, group: list[_Unit]) -> None:
        """Send a group, and answer; never raises an EventStoreError."""
        try:
            connection = await self._connected()
        except EventStoreError as error:
            for unit in group:
                unit.fail(error, sent=False)
                self._finished(unit)
            return
        try:
            if armed:
                await hit(SENDING)
            outcomes = await self._run_on(connection, group)
        except EventStoreError as error:
            await self._failed(group, error)
            return
        if armed:
            await hit(COMMITTED)
        if any(isinstance(outcome, Landed) for outcome in outcomes):
            self._lanes.committed()
        for unit, outcome in zip(group, outcomes, strict=True):
            if outcome == CONTENDED:
                self._contended(unit)
            else:
                unit.answer(outcome)
                self._finished(unit, outcome)

    async def _run_on(self, connection: AsyncpgConnection, group: Sequence[_Unit]) -> list[Outcome]:
        ones = [unit.one for unit in group]
        if not self._lanes.driver.has_settings or any(one.request_id is not None for one in ones):
            return await connection.run(appends.append(ones, patience=PATIENCE))
        if any(one.tags for one in ones):
            if len(ones) == 1 and len(ones[0].tags) <= MOST_TAGS:
                return [await connection.run(appends.append_tagged_one(ones[0]))]
            return await connection.run(appends.append(ones, patience=PATIENCE))
        if len(ones) == 1 and len(ones[0].rows) == 1:
            outcome = await connection.run(appends.append_one(ones[0]))
            if outcome is not None:
                return [outcome]
        return await connection.run(appends.append_group(ones))

    async def _failed(self, group: Sequence[_Unit], error: EventStoreError) -> None:
        """Nothing was written, unless the connection is lost: find out whose fault it was."""
        if isinstance(error, UniqueViolation):
            try:
                appends.refuse_reused_position(error, self._lanes.driver.schema)
            except SequenceBehind as behind:
                error = behind
        if isinstance(error, ConnectionLost | SequenceBehind):
            if isinstance(error, ConnectionLost):
                await self._give_back()
            for unit in group:
                unit.fail(error)
                self._finished(unit)
        elif len(group) > 1:
            for unit in group:
                await self._send([unit])
        elif len(group[0].waiting) > 1:
            (unit,) = group
            queue = self._streams[unit.key]
            queue.extendleft(reversed(unit.waiting[1:]))
            await self._send([_Unit(unit.key, unit.waiting[:1])])
        elif isinstance(error, UniqueViolation | LockTimeout):
            self._contended(group[0], untried=True)
        else:
            group[0].fail(error)
            self._finished(group[0])

    def _finished(self, unit: _Unit, outcome: Outcome | None = None) -> None:
        """The stream's next append may depart; those that have lost by what just happened are told so at once."""
        queue = self._streams[unit.key]
        if isinstance(outcome, Landed):
            version = outcome.before + len(unit.one.rows)
            while queue and _has_lost(queue[0].one, version):
                queue.popleft().answer(Refused(version))
        if queue:
            self._ready.append(unit.key)
            self._depart()
        else:
            del self._streams[unit.key]

    # -- contended streams

    def _contended(self, unit: _Unit, *, untried: bool = False) -> None:
        """Try again in a moment, or queue aside.

        Args:
            unit: what to append.
            untried: the one in its way takes no advisory lock, so that trying it tells nothing.
        """
        first = unit.waiting[0]
        loop = asyncio.get_running_loop()
        first.since = first.since or loop.time()
        if self._lanes.asides_left > 0 and (untried or first.tries >= len(TRIES_AFTER)):
            self._lanes.asides_left -= 1
            task = loop.create_task(self._aside(unit), name="eventstore-append-aside")
            self._asides.add(task)
            task.add_done_callback(self._asides.discard)
            return
        if loop.time() - first.since > ASIDE_SECONDS:
            unit.fail(
                LockTimeout(f"another transaction has been appending to {unit.one.stream_id!r} for {ASIDE_SECONDS:.0f} s")
            )
            self._finished(unit)
            return
        pause = TRIES_AFTER[first.tries] if first.tries < len(TRIES_AFTER) else LAST_TRY_AFTER
        first.tries += 1
        self._streams[unit.key].extendleft(reversed(unit.waiting))
        loop.call_later(pause, self._try_again, unit.key)

    def _try_again(self, key: Key) -> None:
        self._ready.append(key)
        self._depart()

    async def _aside(self, unit: _Unit) -> None:
        """Queue for the stream's lock, on a connection that nobody else waits for."""
        outcome: Outcome | None = None
        try:
            for _ in range(appends.RACES):
                try:
                    operation = appends.append([unit.one], waiting=True, patience=f"{ASIDE_SECONDS:.0f}s")
                    async with self._lanes.driver.acquire("transaction") as connection:
                        (outcome,) = await connection.run(operation)
                    break
                except UniqueViolation as error:
                    appends.refuse_reused_position(error, self._lanes.driver.schema)
            else:
                raise LockTimeout(  # noqa: TRY301 - one place tells the caller
                    f"{appends.RACES} attempts to append to {unit.one.stream_id!r} each lost a race; too many writers share it"
                )
            if isinstance(outcome, Landed):
                self._lanes.committed()
            unit.answer(outcome)
        except EventStoreError as error:
            unit.fail(error)
        except BaseException as error:
            unit.fail(ConnectionLost(f"the store was closed ({error!r})"))
            raise
        finally:
            self._lanes.asides_left += 1
            self._finished(unit, outcome)

    # -- the connection

    async def _connected(self) -> AsyncpgConnection:
        if self._connection is None or self._connection.closed:
            self._connection = None
            self._connection = await self._lanes.driver.connect_writer()
        return self._connection

    async def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _may_follow(tags: set[str], one: PreparedAppend) -> bool:
    """Whether an append may be sent behind others that have these tags.

    A decision may not if it asks about what they write: it would be judged without that, and is judged by the next group. And
    whoever locks more than so many tags locks whole buckets of them.
    """
    if one.token is not None and not tags.isdisjoint(one.token.seen):
        return False
    return len(tags) + len(one.tags) <= MOST_TAGS


def _with_joiners(first: _Waiting, queue: deque[_Waiting], most: int, largest: int, others: Set[str]) -> list[_Waiting]:
    """Take those with ANY behind the first append that can go as one with it."""
    taken = [first]
    size, tags = first.one.size, {*others, *first.one.tags}
    most_tags = max(MOST_TAGS, len(tags))
    while queue and len(taken) < most and _can_join(taken[0].one, queue[0].one):
        if queue[0].future.done():
            queue.popleft()
            continue
        size += queue[0].one.size
        tags.update(queue[0].one.tags)
        if size > largest or len(tags) > most_tags:
            break
        taken.append(queue.popleft())
    return taken


def _can_join(first: PreparedAppend, one: PreparedAppend) -> bool:
    return _can_merge(first) and _can_merge(one)


def _can_merge(one: PreparedAppend) -> bool:
    return one.expect is ANY and one.request_id is None and one.token is None


def _has_lost(one: PreparedAppend, version: int) -> bool:
    """Whether an append cannot succeed on top of `version`: streams only grow, so this stays true.

    A request id, or ids that the caller gave, may stand for a repetition, which the database recognises.
    """
    return isinstance(one.expect, int) and one.expect < version and one.request_id is None and not one.ids_given
