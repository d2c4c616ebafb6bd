"""Decisions over a boundary: rules that span streams, sound under any interleaving.

A boundary is a question about the log, by tags: everything that was ever said about this course, and about this student. A
decision reads the answer and appends on top of it, and the append holds only if nothing that matches the question has
appeared since. The boundary may be another one for each decision, which is why it is called dynamic::

    boundary = Boundary(store)
    decision = await boundary.read(Query(types=[Enrolled, Left], tags=["course:42"]) | Query(tags=["student:7"]))
    if seats_taken(decision.events) < 30:
        await decision.append("course-42", Enrolled(course_id=42, student_id=7))

`eventstore._operations.boundary` has the argument why this is sound; docs/boundaries.md says when to use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Generic, Protocol, TypeVar

from ._operations.boundary import Item, Seen, Token
from ._operations.prepare import Limits, PreparedAppend, prepare
from .errors import Conflict, InvalidArgument, Retryable
from .events import Appended, Recorded
from .serialization import Registry
from .streams import ANY, Expectation
from .tags import check_tags
from .turns import Turns

__all__ = [
    "Boundary",
    "Decision",
    "Decisions",
    "Query",
    "check_fresh",
    "items_of",
    "pauses",
    "prepare_together",
    "worth_retrying",
]

E = TypeVar("E")

RETRY_SECONDS: Final = (0.002, 0.2)
"""First and longest pause before a decision is made again; jittered."""


class Query:
    """What a decision rests on: events with all of these tags and one of these types; several, joined by ``|``.

    Args:
        tags: at least one; an event matches if it carries all of them.
        types: classes or stored names; None: whatever its type.

    Raises:
        InvalidArgument: no tag, a text where a sequence is expected, an empty sequence of types.
    """

    __slots__ = ("_items",)

    def __init__(self, *, tags: Sequence[str] = (), types: Sequence[type | str] | None = None) -> None:
        checked = check_tags(tags, "Query(tags=...)")
        if not checked:
            raise InvalidArgument(
                "a query names at least one tag: a decision over the whole log, or over a type, would wait for every writer; "
                "tag what the rule is about"
            )
        if isinstance(types, str) or (types is not None and not types):
            raise InvalidArgument(f"types is a sequence of event types, or None for all, got {types!r}")
        self._items: tuple[tuple[tuple[str, ...], tuple[type | str, ...] | None], ...] = (
            (checked, None if types is None else tuple(types)),
        )

    def __or__(self, other: Query) -> Query:
        """Return the query for events that match either."""
        if not isinstance(other, Query):
            return NotImplemented
        both = Query.__new__(Query)
        both._items = tuple(dict.fromkeys((*self._items, *other._items)))
        return both

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Query) and self._items == other._items

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return " | ".join(
            f"Query(tags={list(tags)})" if types is None else f"Query(tags={list(tags)}, types={list(types)})"
            for tags, types in self._items
        )

    @property
    def tags(self) -> Set[str]:
        """All tags that it names."""
        return {tag for tags, _ in self._items for tag in tags}

    def items(self, registry: Registry) -> tuple[Item, ...]:
        """Return it with the stored names of its types.

        Raises:
            UnknownEventType: a class that is not registered.
        """
        return tuple(
            Item(tags, None if types is None else tuple(registry.name_of(type_) for type_ in types))
            for tags, types in self._items
        )


class Decisions(Protocol):
    """What decisions are made on: a store or a transaction, real or in memory."""

    _registry: Registry
    _limits: Limits

    @property
    def _turns(self) -> Turns | None: ...

    async def _read_boundary(self, items: tuple[Item, ...]) -> tuple[list[Recorded[Any]], Token]: ...

    async def _append(self, one: PreparedAppend) -> tuple[Appended, Mapping[str, Seen] | None]: ...

    async def _append_together(self, ones: Sequence[PreparedAppend]) -> list[Appended]: ...


class Decision(Generic[E]):
    """The events that a decision rests on, and the append that holds only while they are all. Made by `Boundary.read`.

    Attributes:
        query: what was asked.
        events: what matches it, in the order of the log, at one moment.
    """

    def __init__(self, source: Decisions, query: Query, events: list[Recorded[E]], token: Token) -> None:
        self._source, self.query, self.events, self._token = source, query, events, token
        self._spent = False

    async def append(
        self, stream_id: str, events: object, *, expect: int | Expectation = ANY, request_id: str | None = None
    ) -> Appended:
        """Append, if nothing that matches the query has appeared since it was read. Arguments as for `EventStore.append`.

        It may be called again: what was appended by an earlier call counts as known, unless that call was answered as a
        repetition (`Appended.deduplicated`), after which the decision is overtaken by its own event.

        Raises:
            BoundaryConflict: something has; its fields name an event. Nothing was written: read the boundary again.
            InvalidArgument: the transaction is REPEATABLE READ or SERIALIZABLE; or `append_all` was called before.
            VersionConflict and others: as `EventStore.append`.
        """
        one = prepare(
            self._source._registry,
            stream_id,
            events,
            expect=expect,
            request_id=request_id,
            token=check_fresh(self._token, spent=self._spent),
            limits=self._source._limits,
        )
        done, written = await self._source._append(one)
        if written is not None:
            self._token = self._token.after(written)
        return done

    async def append_all(self, appends: Mapping[str, object]) -> dict[str, Appended]:
        """Append to several streams, all or none, under the same condition; once.

        Args:
            appends: the events for each stream, one or several.

        Raises:
            BoundaryConflict and others: as `append`.
        """
        ones = prepare_together(self._source, appends, check_fresh(self._token, spent=self._spent))
        if not ones:
            return {}
        if len(ones) == 1:
            done = [(await self._source._append(ones[0]))[0]]
        else:
            done = await self._source._append_together(ones)
        self._spent = True
        return {one.stream_id: each for one, each in zip(ones, done, strict=True)}


class Boundary:
    """Decisions over tags.

    Args:
        source: a store; or a transaction (`store.transaction()`, `store.join()`, `eventstore.sqlalchemy.join()`), whose own
            appends count as known. A transaction must be READ COMMITTED.
    """

    def __init__(self, source: Decisions) -> None:
        self._source = source

    async def read(self, query: Query) -> Decision[Any]:
        """Return what matches a query now.

        Raises:
            InvalidArgument: no `Query`; the transaction is REPEATABLE READ or SERIALIZABLE; the server is a standby.
            UnknownEventType: a class in the query is not registered.
        """
        events, token = await self._source._read_boundary(items_of(query, self._source._registry))
        return Decision(self._source, query, events, token)

    async def decide(
        self, query: Query, decide: Callable[[Sequence[Recorded[Any]]], Mapping[str, object] | None], *, retries: int = 20
    ) -> dict[str, Appended]:
        """Read, decide and append, and again where somebody else was faster: those of this process that were overtaken take turns,
        and a transaction pauses; after a deadlock and the like there is a pause as well.

        Args:
            query: what the decision rests on.
            decide: a pure function of the events that match, which may be called several times: returns the events to append
                to each stream (``{"course-42": [Enrolled(...)]}``), or nothing; what it raises ends the attempt.
            retries: how often to try again after a conflict; on a store also after a deadlock and the like. In a transaction
                those concern the whole of it, and are the caller's.

        Returns:
            What was appended to each stream.

        Raises:
            Conflict, Retryable: of the last attempt.
            LockTimeout: somebody held a tag or a stream for too long; waiting for it again is left to the caller.
            InvalidArgument and others: as `read` and `Decision.append`.
        """
        left, retried, turns = pauses(retries), worth_retrying(self._source), self._source._turns
        turn: AbstractAsyncContextManager[None] = contextlib.nullcontext()
        while True:
            deciding = False
            try:
                async with turn:
                    decision = await self.read(query)
                    deciding = True
                    appends = decide(decision.events) or {}
                    deciding = False
                    return await decision.append_all(appends)
            except retried as error:
                if deciding or (pause := next(left, None)) is None:
                    raise
                overtaken = isinstance(error, Conflict)
            if not overtaken or turns is None:
                await asyncio.sleep(pause)
            if turns is not None:
                turn = turns.at(query.tags)


def items_of(query: object, registry: Registry) -> tuple[Item, ...]:
    """Return a query's items.

    Raises:
        InvalidArgument: no query.
    """
    if not isinstance(query, Query):
        raise InvalidArgument(f"expected a Query, got {query!r:.80}; write Query(tags=['course:1'])")
    return query.items(registry)


def check_fresh(token: Token, *, spent: bool) -> Token:
    """Return the token of a decision.

    Raises:
        InvalidArgument: it was used by `append_all`.
    """
    if spent:
        raise InvalidArgument("this decision was appended by append_all already; read the boundary again for another one")
    return token


def prepare_together(source: Any, appends: Mapping[str, object], token: Token) -> list[PreparedAppend]:
    """Return the appends of one decision; the first carries its token.

    Raises:
        InvalidArgument: no mapping.
        Others: as `prepare`.
    """
    if not isinstance(appends, Mapping):
        raise InvalidArgument(f"expected the events for each stream, {{'course-42': [...]}}, got {appends!r:.80}")
    ones: list[PreparedAppend] = []
    for stream_id, events in appends.items():
        one = prepare(source._registry, stream_id, events, token=None if ones else token, limits=source._limits)
        ones.append(one)
    return ones


def worth_retrying(source: object) -> tuple[type[Exception], ...]:
    """Return after which errors a decision is made again.

    In a transaction a deadlock is the whole transaction's: what it has locked before is part of the circle, and trying again
    inside it would meet the same circle again.
    """
    return (Conflict, Retryable) if hasattr(source, "transaction") else (Conflict,)


def pauses(retries: int) -> Iterator[float]:
    """Yield so many pauses, in seconds: doubled each time, jittered.

    Raises:
        InvalidArgument: no int of at least 0.
    """
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise InvalidArgument(f"retries must be an int >= 0, got {retries!r}")
    return _pauses(retries)


def _pauses(retries: int) -> Iterator[float]:
    pause, longest = RETRY_SECONDS
    for _ in range(retries):
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, longest)
