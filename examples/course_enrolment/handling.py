"""Where the rules meet the store: read what a command is about, decide, append, and again where somebody was faster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from eventstore import Appended, Boundary, Recorded
from eventstore.sync import Boundary as BlockingBoundary

from .decider import Command, decide, fold, query_of
from .events import Fact, stream_of

RETRIES: Final = 100
"""How often a decision is made again: each time somebody else was served, and a course has few seats to give away."""


async def handle(boundary: Boundary, command: Command) -> dict[str, Appended]:
    """Do what a command asks for; return what was appended to which stream.

    Raises:
        RefusedError: a rule is in the way.
        BoundaryConflict: others were faster, time and again.
        Transient: try again later (docs/errors.md). After `AppendUnknown` too: if it was done, the rules say so.
    """
    return await boundary.decide(query_of(command), partial(follow, command), retries=RETRIES)


def handle_blocking(boundary: BlockingBoundary, command: Command) -> dict[str, Appended]:
    """As `handle`, without an event loop."""
    return boundary.decide(query_of(command), partial(follow, command), retries=RETRIES)


def follow(command: Command, events: Sequence[Recorded[Any]]) -> dict[str, list[Fact]]:  # events of several classes
    """Return what follows from a command, given the events that it is decided on, by stream."""
    decided = decide(command, fold(recorded.data for recorded in events))
    return {stream_of(command.course_id): decided} if decided else {}
