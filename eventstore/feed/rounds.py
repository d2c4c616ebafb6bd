"""What the frontier keeps track of: who waits, for what, and the rounds under way. See `frontier`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from .._operations.marks import Mark

__all__ = ["Order", "Publishing", "Reached", "Request", "Round", "Settled", "Waiter"]


class Reached(NamedTuple):
    """Everything up to `position` is decided; `generation` grows with every reconnect."""

    position: int
    generation: int


@dataclass(frozen=True, slots=True)
class Settled:
    """A mark made on request.

    Attributes:
        mark: everything up to its position is decided.
        complete: whether that covers everything given out when it was asked for; else it ends before the first hole.
    """

    mark: Mark
    complete: bool


@dataclass(slots=True)
class Request:
    """Somebody wants a mark that covers everything given out by now."""

    opened: asyncio.Future[Mark]
    done: asyncio.Future[Mark]


@dataclass(slots=True)
class Round:
    """A mark that will hold once its holders have ended; opened on request, to publish, or because of a hole."""

    mark: Mark
    holders: set[str]
    requests: list[Request]
    publishes: bool
    opened_at: float

    def wanted(self) -> bool:
        """Whether somebody waits for this very mark."""
        return self.publishes or any(not request.done.done() for request in self.requests)

    def takes_over(self, earlier: Round) -> bool:
        """Whether the log has not moved since `earlier`: then whoever waits for that can have this one, which need not wait
        for anybody who came later.
        """
        if earlier.mark.position != self.mark.position:
            return False
        self.holders &= earlier.holders
        self.requests = earlier.requests + self.requests
        self.publishes |= earlier.publishes
        self.opened_at = min(self.opened_at, earlier.opened_at)
        return True


@dataclass(slots=True)
class Order:
    """A mark that somebody wants published now."""

    mark: Mark
    done: asyncio.Future[None]


@dataclass(slots=True)
class Waiter:
    """A reader that waits for positions behind its own."""

    position: int
    generation: int | None
    future: asyncio.Future[Reached]


@dataclass(slots=True)
class Publishing:
    """What was published, when, and whether there may be more."""

    position: int = 0
    at: float = 0.0
    due: bool = False
    allowed: bool = True
