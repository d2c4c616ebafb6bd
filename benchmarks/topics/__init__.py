"""What can be asked for by name, in the order in which it is measured and shown."""

from . import (
    append,
    batch,
    boundary,
    growth,
    hot,
    importing,
    joined,
    memory,
    processes,
    projecting,
    reading,
    streams,
    visibility,
)

CONTESTS = {
    "append": append.contests,
    "processes": processes.contests,
    "joined": joined.contests,
    "boundary": boundary.contests,
    "batch": batch.contests,
    "import": importing.contests,
    "read": reading.contests,
    "stream": streams.contests,
    "project": projecting.contests,
}
GAUGES = {"hot": hot.gauges, "boundary": boundary.gauges, "visible": visibility.gauges, "memory": memory.gauges}
SERIES = {"growth": growth.series}

GROUPS = {"cpu": ("append", "batch", "read", "project")}
"""Every contest counts CPU on both sides; this name asks for those where the split matters most."""


def every(scale):
    """All contests, series and gauges."""
    return [one for topics in (CONTESTS, SERIES, GAUGES) for make in topics.values() for one in make(scale)]


def chosen(asked, scale):
    """What is meant by these topics, groups or keys; all for none.

    Raises:
        KeyError: there is none of that name.
    """
    there = every(scale)
    wanted = {name for one in asked for name in GROUPS.get(one, (one,))}
    if unknown := wanted - {one.topic for one in there} - {one.key for one in there}:
        raise KeyError(f"nothing is called {', '.join(sorted(unknown))}; there are {', '.join(names(scale))}")
    return [one for one in there if not wanted or wanted & {one.topic, one.key}]


def names(scale):
    """Everything that can be asked for."""
    return list(dict.fromkeys([*CONTESTS, *SERIES, *GAUGES, *GROUPS, *(one.key for one in every(scale))]))
