"""Memory of a process that reads the log, and of one that runs a projection, over many events.

The process is one of its own and looks at its resident set fifty times on its way. Flat means: what it has after everything
lies within 8 MiB of what it had after a tenth, as tests/test_memory.py has it.
"""

import functools
import json

from .. import follower
from ..core import Gauge, Goal
from ..sample import fill

EVENTS = 500_000
FLAT_MIB = 8.0

EVENT_BYTES = 340
"""Of one event with its indexes: 316 at one million, measured."""

SPARE_BYTES = 3 * 2**30
"""For the log of changes, which grows to 2 GB before a checkpoint."""


MODES = {"read": "read_all", "project": "a projection"}


def gauges(scale):
    """One for reading, one for a projection; each fills a log of its own."""
    events = scale.events or scale.pick(EVENTS, 20_000)
    for mode, title in MODES.items():
        yield Gauge(
            topic="memory",
            key=f"memory.{mode}",
            title=f"memory of {title} over {events:,} events",
            measure=functools.partial(measure, events=events, mode=mode),
            unit="MiB",
            goals=(Goal("growth", FLAT_MIB),),
            rounds=1,
        )


async def measure(arena, events, mode):
    """Resident sets after a tenth, a half and all, the growth from the first to the last, and the same by a million."""
    too_small = arena.server.too_small(events * EVENT_BYTES + SPARE_BYTES)
    if too_small:
        arena.server.note(f"memory: left out: for {events:,} events {too_small}")
        return {}
    await fill(arena.bare, events)
    async with follower.child(mode, arena.dsn, events) as process:
        return _summary(json.loads(await process.stdout.readline()))


def _summary(points):
    """Of [events, MiB] pairs that grow to the last."""
    last = points[-1][0]

    def at(share):
        return next(mib for count, mib in points if count >= share * last)

    slope = (points[-1][1] - at(0.1)) / (0.9 * last / 1e6)
    return {
        "10 %": at(0.1),
        "50 %": at(0.5),
        "100 %": at(1),
        "growth": max(0.0, at(1) - at(0.1)),
        "per million events": slope,
    }
