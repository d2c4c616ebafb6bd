"""The log behind `MemoryStore`: rows, locks and what is visible to whom, as PostgreSQL would have it.

**Authority.** One `MemoryLog`, changed only between two awaits of one event loop.

**States.** A piece of `Work` (a transaction, or one append by itself) draws positions and keeps its rows to itself; `commit` shows
them to everybody, `roll_back` drops them and leaves a hole. A stream that it has appended to is locked until it ends: an append of
somebody else's waits, first come first served, and compares its expectation anew. Two that wait for each other are found at
once, and the one that closed the circle is told.

**Trust window.** Readers go no further than the first position that open work has drawn, as those of the real store do.

**What if it is cancelled here.** Waiting for a lock: nothing was written. Rows are inserted without an await in between.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final, NamedTuple

from .. import _details
from .._operations.boundary import Item, Seen, Token
from .._operations.prepare import EventRow, PreparedAppend
from .._operations.statement import Row
from ..errors import BoundaryConflict, IdempotencyMismatch, LockTimeout, Retryable, StoreClosed, VersionConflict
from ..events import DATA, DETAILS, POSITION, STREAM, TYPE, VERSION, Appended
from ..serialization.json import parse_exact_json
from ..streams import ANY, EXISTS, Expectation, Position, Version

__all__ = ["MemoryLog", "Repeated", "Work"]

DEADLOCK: Final = "40P01"
_position: Final = itemgetter(POSITION)

Name = tuple[str, str]
"""What can be locked: ("stream", its id), ("request", its id) or ("tag", the tag)."""


class Repeated(NamedTuple):
    """What was committed under a request id."""

    stream_id: str
    digest: bytes | None
    appended: Appended


@dataclass(eq=False, slots=True)
class Work:
    """What a transaction has done and not committed.

    Attributes:
        rows: its events, in the order of the log.
        requests: its request ids.
        held: what it has locked.
        awaited: what it waits for.
        over: whether it has ended.
    """

    rows: list[Row] = field(default_factory=list)
    requests: dict[str, Repeated] = field(default_factory=dict)
    held: list[Name] = field(default_factory=list)
    awaited: Name | None = None
    over: bool = False


class MemoryLog:
    """Every event of a `MemoryStore`.

    Args:
        lock_seconds: how long to wait for somebody else's transaction.
        clock: says when an event is recorded.
    """

    def __init__(self, lock_seconds: float, clock: Callable[[], datetime] | None) -> None:
        self._lock_seconds = lock_seconds
        self._clock = clock or _now
        self._rows: list[Row] = []
        self._streams: dict[str, list[Row]] = {}
        self._tagged: dict[str, list[Row]] = {}
        self._requests: dict[str, Repeated] = {}
        self._locks: dict[Name, asyncio.Lock] = {}
        self._owners: dict[Name, Work] = {}
        self._open: list[Work] = []
        self._changed = asyncio.Event()
        self.last_given = 0
        self.is_open = False

    # -- what can be seen

    @property
    def head(self) -> int:
        """The highest position that is committed."""
        return int(self._rows[-1][POSITION]) if self._rows else 0

    @property
    def decided(self) -> int:
        """Up to which position nothing may still appear."""
        return min((work.rows[0][POSITION] - 1 for work in self._open if work.rows), default=self.last_given)

    def between(self, after: int, upto: int) -> Sequence[Row]:
        """Return what is committed in (after, upto]."""
        return self._rows[bisect_right(self._rows, after, key=_position) : bisect_right(self._rows, upto, key=_position)]

    def stream(self, stream_id: str, work: Work | None = None) -> Sequence[Row]:
        """Return a stream as `work` sees it: what is committed, and its own."""
        committed = self._streams.get(stream_id, [])
        own = [row for row in work.rows if row[STREAM] == stream_id] if work is not None else []
        return [*committed, *own] if own else committed

    def refuse_closed(self) -> None:
        """Refuse whoever uses the store before `open` or after `close`.

        Raises:
            StoreClosed: it is closed.
        """
        if not self.is_open:
            raise StoreClosed("the store is not open: use `async with MemoryStore() as store`, or `await store.open()`")

    async def beyond(self, position: int) -> int:
        """Wait until something behind `position` is decided; return how far.

        Raises:
            StoreClosed: the store was closed meanwhile.
        """
        self.refuse_closed()
        while (decided := self.decided) <= position:
            await self._changed.wait()
            self.refuse_closed()
        return decided

    async def settled(self, seconds: float) -> tuple[int, bool]:
        """Wait, at most so long, until everything that was given out by now is decided; return how far, and whether it is."""
        mark = self.last_given
        try:
            async with asyncio.timeout(seconds):
                await self.beyond(mark - 1)
        except TimeoutError:
            return self.decided, False
        return mark, True

    def announce(self) -> None:
        """Let those look again who wait."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # -- what changes it

    def begin(self) -> Work:
        """Begin a transaction, or one append."""
        self.refuse_closed()
        work = Work()
        self._open.append(work)
        return work

    async def append(self, work: Work, one: PreparedAppend) -> tuple[Appended, Mapping[str, Seen] | None]:
        """Insert an append's rows into `work`, or find that it was done before; return also how far a decision's tags have come.

        Raises:
            VersionConflict: the stream is not where it was expected.
            BoundaryConflict: what the decision rests on has changed.
            IdempotencyMismatch: the request id, or the event ids, were used for other content.
            LockTimeout: another transaction held the stream, or the request id, for too long.
            Retryable: it waits for one that waits for this one.
        """
        before = len(work.held)
        try:
            if one.request_id is not None:
                await self._lock(work, ("request", one.request_id))
                if (repeated := work.requests.get(one.request_id) or self._requests.get(one.request_id)) is not None:
                    return _first_result(one.request_id, repeated, one.digest), None
            for tag in sorted(
                {tag for row in one.rows for tag in row.tags or ()} | set(one.token.seen if one.token else ())
            ):
                await self._lock(work, ("tag", tag))
            if (found := self._compared(work, one)) is None:
                await self._lock(work, ("stream", one.stream_id))
                found = self._compared(work, one)
            if found is not None:
                return found, None
            if one.token is not None:
                self._refuse_overtaken(work, one.token)
            appended = self._insert(work, one)
        except BaseException:
            self._release(work, keep=before)
            raise
        if one.request_id is not None:
            work.requests[one.request_id] = Repeated(one.stream_id, one.digest, appended)
        return appended, None if one.token is None else self._seen(work, one.token.seen)

    async def append_together(self, work: Work, ones: Sequence[PreparedAppend]) -> list[Appended]:
        """Insert several appends' rows into `work`, all or none; raises as `append`."""
        rows, requests = len(work.rows), dict(work.requests)
        try:
            return [(await self.append(work, one))[0] for one in ones]
        except BaseException:
            del work.rows[rows:]
            work.requests = requests
            raise

    def read_boundary(self, items: tuple[Item, ...], work: Work | None = None) -> tuple[list[Row], Token]:
        """Return what matches one of the items, as `work` sees it, and what a decision on top of it is held to."""
        found = {row[POSITION]: row for item in items for row in self._matching(item, work)}
        seen = self._seen(work, dict.fromkeys(tag for item in items for tag in item.tags))
        return [found[position] for position in sorted(found)], Token(items, "", seen)

    def _refuse_overtaken(self, work: Work, token: Token) -> None:
        """Each row of a tag has its position for a seq here: nothing is ever back-filled."""
        for item in token.items:
            for tag in item.tags:
                rows = self._bearing(tag, work)
                for row in rows[bisect_right(rows, token.seen[tag].seq, key=_position) :]:
                    if _matches(item, row):
                        raise BoundaryConflict(row[POSITION], row[STREAM], row[VERSION], row[TYPE])

    def _seen(self, work: Work | None, tags: Iterable[str]) -> dict[str, Seen]:
        return {tag: Seen(int(rows[-1][POSITION]) if (rows := self._bearing(tag, work)) else 0) for tag in tags}

    def _matching(self, item: Item, work: Work | None) -> list[Row]:
        rarest = min((self._bearing(tag, work) for tag in item.tags), key=len)
        return [row for row in rarest if _matches(item, row)]

    def _bearing(self, tag: str, work: Work | None) -> Sequence[Row]:
        """Return the rows that carry a tag, in order of position, as `work` sees them; its own are last: it holds the lock."""
        committed = self._tagged.get(tag, [])
        own = [row for row in work.rows if tag in _details.tags(row[DETAILS])] if work is not None else []
        return [*committed, *own] if own else committed

    def commit(self, work: Work) -> None:
        """Show what `work` has done to everybody."""
        for row in work.rows:
            insort(self._rows, row, key=_position)
            self._streams.setdefault(row[STREAM], []).append(row)
            for tag in _details.tags(row[DETAILS]):
                self._tagged.setdefault(tag, []).append(row)
        self._requests.update(work.requests)
        self._end(work)

    def roll_back(self, work: Work) -> None:
        """Drop what `work` has done; its positions are not given out again."""
        self._end(work)

    def _compared(self, work: Work, one: PreparedAppend) -> Appended | None:
        """Compare the expectation with the stream as it is; return an earlier result of the same append, or None: go on."""
        rows = self.stream(one.stream_id, work)
        version = len(rows)
        if one.expect in (ANY, version) or (one.expect == EXISTS and version > 0):
            return None
        if isinstance(one.expect, Expectation):
            raise VersionConflict(one.stream_id, one.expect.name, version)
        stored = rows[one.expect : one.expect + len(one.rows)]
        if one.ids_given and [_details.event_id(row[DETAILS]) for row in stored] == list(one.event_ids):
            _refuse_other_content(one, stored)
            last = Position(stored[-1][POSITION])
            first = Version(one.expect + 1)
            return Appended(first, Version(one.expect + len(stored)), last, one.event_ids, deduplicated=True)
        raise VersionConflict(one.stream_id, one.expect, version)

    def _insert(self, work: Work, one: PreparedAppend) -> Appended:
        version = len(self.stream(one.stream_id, work))
        for number, row in enumerate(one.rows, 1):
            self.last_given += 1
            work.rows.append(_to_row(row, one.stream_id, version + number, self.last_given, self._clock()))
        last = Version(version + len(one.rows))
        return Appended(Version(version + 1), last, Position(self.last_given), one.event_ids)

    # -- locks

    async def _lock(self, work: Work, name: Name) -> None:
        if self._owners.get(name) is work:
            return
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._refuse_circle(work, name)
        work.awaited = name
        try:
            async with asyncio.timeout(self._lock_seconds):
                await lock.acquire()
        except TimeoutError:
            raise LockTimeout(
                f"another transaction held the {name[0]} {name[1]!r} for more than {self._lock_seconds} s; if it is the "
                "same task's, append through that transaction"
            ) from None
        finally:
            work.awaited = None
        self._owners[name] = work
        work.held.append(name)

    def _refuse_circle(self, work: Work, name: Name) -> None:
        awaited: Name | None = name
        while awaited is not None:
            owner = self._owners.get(awaited)
            if owner is work:
                raise Retryable(
                    f"deadlock: the {name[0]} {name[1]!r} is held by one who waits for this transaction", DEADLOCK
                )
            awaited = None if owner is None else owner.awaited

    def _release(self, work: Work, *, keep: int) -> None:
        while len(work.held) > keep:
            name = work.held.pop()
            del self._owners[name]
            self._locks[name].release()

    def _end(self, work: Work) -> None:
        work.over = True
        self._open.remove(work)
        self._release(work, keep=0)
        self.announce()


def _first_result(request_id: str, repeated: Repeated, digest: bytes | None) -> Appended:
    if repeated.digest != digest:
        raise IdempotencyMismatch(request_id, f"a request for stream {repeated.stream_id!r}")
    return repeated.appended._replace(deduplicated=True)


def _refuse_other_content(one: PreparedAppend, stored: Sequence[Row]) -> None:
    for row, wanted in zip(stored, one.rows, strict=True):
        if row[TYPE] != wanted.type or json.loads(row[DATA]) != json.loads(wanted.data):
            raise IdempotencyMismatch(str(wanted.event_id), f"version {row[VERSION]} of stream {one.stream_id!r}")


def _matches(item: Item, row: Row) -> bool:
    return (item.types is None or row[TYPE] in item.types) and set(item.tags) <= set(_details.tags(row[DETAILS]))


def _to_row(row: EventRow, stream_id: str, version: int, position: int, recorded_at: datetime) -> Row:
    """Make a row as the read statements return it."""
    details = _details.pack(
        row.event_id,
        recorded_at,
        occurred_at=row.occurred_at,
        metadata=_as_jsonb(row.metadata) if row.metadata and row.metadata != "{}" else None,
        correlation_id=row.correlation_id,
        causation_id=row.causation_id,
        tags=row.tags,
    )
    return position, stream_id, version, row.type, row.schema_version, _as_jsonb(row.data), details


def _as_jsonb(text: str) -> str:
    """Return a document as jsonb gives it back: keys in jsonb's order, by length and then by bytes."""
    try:
        return json.dumps(_sorted(parse_exact_json(text)), ensure_ascii=False)
    except ValueError:  # digits that a float would lose: kept to the letter
        return text


def _sorted(value: Any) -> Any:  # any JSON document
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return {key: _sorted(value[key]) for key in keys}
    return value


def _now() -> datetime:
    return datetime.now(UTC)
