"""Decisions over a boundary, blocking. See `eventstore.boundary`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from .._operations.boundary import Item, Seen, Token
from .._operations.prepare import Limits, PreparedAppend, prepare
from ..boundary import Query, check_fresh, items_of, pauses, prepare_together, worth_retrying
from ..errors import Conflict
from ..events import Appended, Recorded
from ..serialization import Registry
from ..streams import ANY, Expectation
from ..turns import BlockingTurns

__all__ = ["Boundary", "Decision", "Decisions"]

E = TypeVar("E")


class Decisions(Protocol):
    """What decisions are made on: a store or a transaction."""

    _registry: Registry
    _limits: Limits

    @property
    def _turns(self) -> BlockingTurns | None: ...

    def _read_boundary(self, items: tuple[Item, ...]) -> tuple[list[Recorded[Any]], Token]: ...

    def _append(self, one: PreparedAppend) -> tuple[Appended, Mapping[str, Seen] | None]: ...

    def _append_together(self, ones: Sequence[PreparedAppend]) -> list[Appended]: ...


class Decision(Generic[E]):
    """The events that a decision rests on, and the append that holds only while they are all. Made by `Boundary.read`.

    Attributes:
        query: what was asked.
        events: what matches it, in the order of the log, at one moment.
    """

    def __init__(self, source: Decisions, query: Query, events: list[Recorded[E]], token: Token) -> None:
        self._source, self.query, self.events, self._token = source, query, events, token
        self._spent = False

    def append(
        self, stream_id: str, events: object, *, expect: int | Expectation = ANY, request_id: str | None = None
    ) -> Appended:
        """Append, if nothing that matches the query has appeared since it was read; as the async one."""
        one = prepare(
            self._source._registry,
            stream_id,
            events,
            expect=expect,
            request_id=request_id,
            token=check_fresh(self._token, spent=self._spent),
            limits=self._source._limits,
        )
        done, written = self._source._append(one)
        if written is not None:
            self._token = self._token.after(written)
        return done

    def append_all(self, appends: Mapping[str, object]) -> dict[str, Appended]:
        """Append to several streams, all or none, under the same condition; once. As the async one."""
        ones = prepare_together(self._source, appends, check_fresh(self._token, spent=self._spent))
        if not ones:
            return {}
        done = [self._source._append(ones[0])[0]] if len(ones) == 1 else self._source._append_together(ones)
        self._spent = True
        return {one.stream_id: each for one, each in zip(ones, done, strict=True)}


class Boundary:
    """Decisions over tags; as `eventstore.Boundary`.

    Args:
        source: a store of `eventstore.sync`, or a transaction of one; `eventstore.sqlalchemy.join()` with a blocking session.
    """

    def __init__(self, source: Decisions) -> None:
        self._source = source

    def read(self, query: Query) -> Decision[Any]:
        """Return what matches a query now; as the async one."""
        events, token = self._source._read_boundary(items_of(query, self._source._registry))
        return Decision(self._source, query, events, token)

    def decide(
        self, query: Query, decide: Callable[[Sequence[Recorded[Any]]], Mapping[str, object] | None], *, retries: int = 20
    ) -> dict[str, Appended]:
        """Read, decide and append, and again where somebody else was faster; as the async one."""
        left, retried, turns = pauses(retries), worth_retrying(self._source), self._source._turns
        turn: AbstractContextManager[None] = contextlib.nullcontext()
        while True:
            deciding = False
            try:
                with turn:
                    decision = self.read(query)
                    deciding = True
                    appends = decide(decision.events) or {}
                    deciding = False
                    return decision.append_all(appends)
            except retried as error:
                if deciding or (pause := next(left, None)) is None:
                    raise
                overtaken = isinstance(error, Conflict)
            if not overtaken or turns is None:
                time.sleep(pause)
            if turns is not None:
                turn = turns.at(query.tags)
