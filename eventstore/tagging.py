"""Back-fill: tags for events that were appended without them.

Events are never updated; what a back-fill writes are rows of ``event_tags``, by which decisions (`eventstore.boundary`) and readers
(`read_all(tags=...)`) find events. ``Recorded.tags`` goes on saying what an event was appended with.

**Authority.** The log, up to its settled end, and the rows of ``event_tags``: what is missing there is written. Nothing is remembered
elsewhere, so a back-fill that is repeated, resumed, or run twice at once adds every row once.

**Beside writers.** A transaction takes the locks of the tags that it writes, all of them first, as every writer of tags does
(`_operations.boundary` has the argument). So a decision that was read before it finds the new rows, and is refused if
they match; one that is appended meanwhile waits for it. Its transactions are short: some hundred events, and at most as many tags
as have locks of their own. Where somebody holds one for longer than a moment, it lets go of all, and tries again later: it
waits, and nobody waits for it.

**Failure.** Each transaction stands for itself. What was told last (`BackfillResult.position`) is done; the rest is found missing by
whoever goes on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ._operations import tagging
from ._operations.append import refuse_reused_position
from ._operations.tagging import TagRow
from .errors import InvalidArgument, Transient, UniqueViolation
from .events import Recorded
from .serialization import Registry
from .store import EventStore
from .tags import check_tags

__all__ = ["BackfillResult", "TagsOf", "backfill_tags"]

TagsOf = Callable[[Recorded[Any]], Iterable[str]]
"""Says which tags an event is to have. A pure function of the event."""

BATCH: Final = 500
"""Events of a transaction, at most."""

TRANSACTION_TAGS: Final = 256
"""Tags of a transaction, unless a single event has more: those that have locks of their own (`tag_locks_v1`). With more of them it
would lock out decisions over tags that it has nothing to do with."""

RETRY_SECONDS: Final = (0.05, 1.0)
"""First and longest pause after something that may be otherwise in a moment; doubled each time, jittered."""


@dataclass(slots=True)
class BackfillResult:
    """What a back-fill has done so far.

    Attributes:
        events: looked at.
        added: rows written, one a tag of an event. (Too few by those of a transaction whose commit nobody heard of.)
        present: tags of events that were there already.
        position: every event up to here has its tags; go on behind it.
        settled: None until the end is reached; then as `LogReader.settled`. Up to a position that lies before the end: True.
    """

    events: int = 0
    added: int = 0
    present: int = 0
    position: int = 0
    settled: bool | None = None


@dataclass(slots=True)
class _Batch:
    """Events of one transaction."""

    events: int = 0
    position: int = 0
    rows: list[TagRow] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)


async def backfill_tags(
    store: EventStore,
    tags_of: TagsOf | None = None,
    *,
    types: Sequence[type | str] | None = None,
    categories: Sequence[str] | None = None,
    after: int = 0,
    upto: int | None = None,
    rate: float | None = None,
    batch: int = BATCH,
    patience: float = 60.0,
    dry_run: bool = False,
    on_progress: Callable[[BackfillResult], None] | None = None,
) -> BackfillResult:
    """Give events the tags that they should have, up to the log's settled end, beside readers and writers.

    First let every writer append with tags, then back-fill: what an old process appends meanwhile is found by a second run.
    Rows of tags cannot be taken back: `dry_run` counts first.

    Args:
        store: open.
        tags_of: the tags that an event should have, those that it has already among them or not; default: those that its
            class declares (``Annotated[..., Tag("course")]``).
        types: only these event types; default: all, and with `tags_of` left out those whose class declares a tag.
        categories: only streams of these.
        after: only positions above this one, such as the `position` of a back-fill that ended early.
        upto: only positions up to this one; None: to the log's settled end.
        rate: events a second, at most; None: as fast as it goes.
        batch: events of one transaction, at most.
        patience: how many seconds to go on trying where nothing moves, because others hold locks or the connection is lost.
        dry_run: write nothing; `added` says what would be.
        on_progress: called after every batch, with the result so far.

    Raises:
        LockTimeout, ConnectionLost, Retryable: `patience` is over. What `on_progress` was told last is done; go on behind it.
        InvalidArgument: an argument; or no class declares a tag; or an event's value can be no tag (the message names the event).
        EventCorrupt, AmbiguousEventType, UnknownEventType: a stored event that cannot be decoded.
        SequenceBehind: a restore left the sequence of tags behind.
        Whatever `tags_of` and `on_progress` raise.

    Guarantees: idempotent; a row is there once its batch was told. A decision that was read before does not overlook it. A
    subscription or a projection that is past a position does not see it again because of its new tags.
    """
    _check(after, upto, rate, batch, patience)
    if tags_of is None:
        tags_of, declared = _declared(store._registry), store._registry.tagged_types()
        if not declared:
            raise InvalidArgument(
                'no registered class declares a tag; write course_id: Annotated[str, Tag("course")] and import its module, '
                "or say tags_of="
            )
        types = declared if types is None else types
    work = _Backfill(store, tags_of, types, categories, upto, rate, dry_run, on_progress)
    work.result.position = after
    work.batch_events = batch if rate is None else max(1, min(batch, int(rate)))
    return await work.run(patience)


def _check(after: int, upto: int | None, rate: float | None, batch: int, patience: float) -> None:
    for what, number, least in (("after", after, 0), ("upto", upto, 0), ("batch", batch, 1)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
            raise InvalidArgument(f"{what} must be an int of at least {least}, got {number!r}")
    if rate is not None and not rate > 0:
        raise InvalidArgument(f"rate must be a number of events a second above 0, got {rate!r}")
    if not patience >= 0:
        raise InvalidArgument(f"patience must be a number of seconds of at least 0, got {patience!r}")


def _declared(registry: Registry) -> TagsOf:
    def tags(recorded: Recorded[Any]) -> tuple[str, ...]:
        tagger = registry.tagger(type(recorded.data))
        return () if tagger is None else tagger(recorded.data)

    return tags


def _name_of(recorded: Recorded[Any]) -> str:
    return (
        f"the event at position {recorded.position} (type {recorded.type!r}, version {recorded.version} of stream "
        f"{recorded.stream_id!r})"
    )


class _Backfill:
    """Goes through the log and writes what is missing."""

    def __init__(
        self,
        store: EventStore,
        tags_of: TagsOf,
        types: Sequence[type | str] | None,
        categories: Sequence[str] | None,
        upto: int | None,
        rate: float | None,
        dry_run: bool,
        on_progress: Callable[[BackfillResult], None] | None,
    ) -> None:
        self._store, self._tags_of, self._types, self._categories = store, tags_of, types, categories
        self._upto, self._rate, self._dry_run, self._on_progress = upto, rate, dry_run, on_progress
        self.batch_events = BATCH
        self._next = 0.0
        self.result = BackfillResult()

    async def run(self, patience: float) -> BackfillResult:
        """Go on until the end is reached, through whatever a further try may cure."""
        begun, reached, pause = time.monotonic(), -1, RETRY_SECONDS[0]
        while True:
            try:
                await self._go_on()
                return self.result
            except Transient:
                if self.result.position > reached:
                    begun, reached, pause = time.monotonic(), self.result.position, RETRY_SECONDS[0]
                if time.monotonic() + pause > begun + patience:
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, RETRY_SECONDS[1])

    async def _go_on(self) -> None:
        """Read from where it is, and write batch by batch."""
        reader = self._store.read_all(after=self.result.position, types=self._types, categories=self._categories)
        batch, passed = _Batch(), False
        async for recorded in reader:
            if passed := self._upto is not None and recorded.position > self._upto:
                break
            tags = self._checked_tags(recorded)
            if batch.events == self.batch_events or (batch.tags and len(batch.tags.union(tags)) > TRANSACTION_TAGS):
                await self._write(batch)
                batch = _Batch()
            batch.events += 1
            batch.position = recorded.position
            batch.tags.update(tags)
            batch.rows += [TagRow(recorded.tenant_id, tag, recorded.position, recorded.type) for tag in tags]
        if batch.events:
            await self._write(batch)
        self.result.settled = True if passed else reader.settled

    def _checked_tags(self, recorded: Recorded[Any]) -> tuple[str, ...]:
        most = self._store._limits.event_tags
        try:
            tags = check_tags(self._tags_of(recorded), "what tags_of returns")
        except InvalidArgument as error:
            raise InvalidArgument(f"{_name_of(recorded)}: {error}") from error
        except Exception as error:
            error.add_note(f"for {_name_of(recorded)}")
            raise
        if len(tags) > most:
            raise InvalidArgument(f"{_name_of(recorded)}: {len(tags)} tags, at most {most} are taken (Limits.event_tags)")
        return tags

    async def _write(self, batch: _Batch) -> None:
        """Write a batch of at least one event, once the rate allows it, and tell of it."""
        if self._rate is not None:
            await asyncio.sleep(self._next - time.monotonic())
            self._next = time.monotonic() + batch.events / self._rate
        driver = self._store._driver
        missing = await driver.run("read", tagging.missing(batch.rows)) if batch.rows else []
        added = len(missing)
        if missing and not self._dry_run:
            try:
                async with driver.acquire("transaction") as connection, connection.transaction():
                    await connection.run(tagging.lock({(row.tenant_id, row.tag) for row in missing}))
                    added = await connection.run(tagging.add(missing))
            except UniqueViolation as error:
                refuse_reused_position(error, self._store.schema)
                raise
        result = self.result
        result.events += batch.events
        result.added += added
        result.present += len(batch.rows) - added
        result.position = batch.position
        if self._on_progress is not None:
            self._on_progress(result)
