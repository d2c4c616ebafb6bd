"""``python -m examples.course_enrolment``: more students than seats, all at once, on EVENTSTORE_URL or a private server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

from eventstore import Boundary, Decision, EventStore, Query

from .decider import ChangeCapacity, Command, Enrol, Leave, OpenCourse, fold
from .events import COURSE, EVENTS
from .handling import handle
from .refusals import RefusedError

SEATS: Final = 5
STUDENTS: Final = [f"s{n:02}" for n in range(1, 21)]
STORES: Final = 4
"""Each has connections of its own, as four processes would."""


class Watched(Boundary):
    """A boundary that counts how often it was read: once a decision, and once more for each time that one is made again."""

    reads = 0

    async def read(self, query: Query) -> Decision[Any]:  # events of several classes
        """As ever, and counted."""
        self.reads += 1
        return await super().read(query)


async def main() -> bool:
    """Run the race and tell how it ended; return whether every rule was kept."""
    async with contextlib.AsyncExitStack() as stack:
        url = os.environ.get("EVENTSTORE_URL", "embedded:")
        first = await stack.enter_async_context(EventStore(url, events=EVENTS, migrate=True))
        others = [await stack.enter_async_context(EventStore(first.dsn, events=EVENTS)) for _ in range(STORES - 1)]
        boundaries = [Watched(store) for store in (first, *others)]
        course_id = f"pottery-{uuid4().hex[:8]}"  # another one each time: the database may be yours

        await handle(boundaries[0], OpenCourse(course_id, "Pottery", SEATS))
        print(f"{len(STUDENTS)} students want one of {SEATS} seats, through {STORES} stores at once:")
        await race(boundaries, [Enrol(student, course_id) for student in STUDENTS])
        seated = await who_is_in(boundaries[0], course_id)
        print(f"  in: {', '.join(seated)}")

        await handle(boundaries[0], Leave(seated[0], course_id))
        print(f"{seated[0]} has left; the others want that seat, while somebody wants to take it away:")
        others_want = [Enrol(student, course_id) for student in STUDENTS if student not in seated]
        await race(boundaries, [*others_want, ChangeCapacity(course_id, SEATS - 1)])
        print(f"  in: {', '.join(await who_is_in(boundaries[0], course_id))}")
        return await is_sound(boundaries[0], course_id)


async def race(boundaries: Sequence[Watched], commands: Sequence[Command]) -> None:
    """Give all commands at once, and print what became of them."""
    for boundary in boundaries:
        boundary.reads = 0
    calls = (handle(boundaries[n % len(boundaries)], command) for n, command in enumerate(commands))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refusals: Counter[str] = Counter()
    for answer in answers:
        if isinstance(answer, RefusedError):
            refusals[type(answer).__name__] += 1
        elif isinstance(answer, BaseException):
            raise answer
    told = "".join(f", {count} times {kind}" for kind, count in sorted(refusals.items()))
    print(f"  {len(commands) - refusals.total()} done{told}")
    again = sum(boundary.reads for boundary in boundaries) - len(commands)
    print(f"  {again} times somebody was faster, and it was decided again")


async def who_is_in(boundary: Boundary, course_id: str) -> list[str]:
    """Return who has a seat, from the events."""
    decision = await boundary.read(Query(tags=[COURSE.of(course_id)]))
    return sorted(student for _, student in fold(recorded.data for recorded in decision.events).seats)


async def is_sound(boundary: Boundary, course_id: str) -> bool:
    """Go through the course's events, one by one; return whether there were ever more students than seats."""
    decision = await boundary.read(Query(tags=[COURSE.of(course_id)]))
    facts = [recorded.data for recorded in decision.events]
    states = [fold(facts[:n]) for n in range(1, len(facts) + 1)]
    overbooked = sum(state.taken(course_id) > state.courses[course_id].capacity for state in states)
    taken, capacity = states[-1].taken(course_id), states[-1].courses[course_id].capacity
    print(f"{taken} of {capacity} seats are taken; after {overbooked} of {len(facts)} events there were too many")
    return not overbooked


sys.exit(0 if asyncio.run(main()) else 1)
