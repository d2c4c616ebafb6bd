"""A follower in a process of its own: ``python -m benchmarks.follower MODE``, its task as a line of JSON on standard input.

Modes: *seen* runs the projection `Seen`, says so by a line, and ends with its standard input; *read* and *project* go through
the log once and print [events, MiB resident] pairs. The address comes by standard input, since it may hold a password.
"""

import asyncio
import json
import resource
import sys
from pathlib import Path

from eventstore import EventStore
from projections import Daemon

from . import children
from .sample import Seen, Totals

LOOKS = 50


def child(mode, dsn, events=0):
    """Run one."""
    return children.child(__name__, {"dsn": dsn, "events": events}, mode)


def resident_mib():
    """Memory of this process; where there is no /proc, the most that it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return pages * resource.getpagesize() / 2**20


async def seen(store, _events):
    """Follow until standard input ends."""
    async with Daemon(store, [Seen()], create=True) as daemon:
        running = asyncio.create_task(daemon.run())
        print("running", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        daemon.stop()
        await running


async def read(store, events):
    """Read the whole log."""
    points, count, step = [], 0, max(1, events // LOOKS)
    async for _ in store.read_all():
        count += 1
        if count % step == 0:
            points.append((count, resident_mib()))
    _show(points, count, events)


async def project(store, events):
    """Project the whole log; the look at the memory is taken between batches."""
    points, step = [], max(1, events // LOOKS)
    async with Daemon(store, [Totals()], create=True) as daemon:
        running = asyncio.create_task(daemon.run_until_caught_up())
        while not running.done():
            await asyncio.wait({running}, timeout=0.005)
            if daemon.applied >= (points[-1][0] if points else 0) + step:
                points.append((daemon.applied, resident_mib()))
        await running
        points.append((daemon.applied, resident_mib()))
    _show(points, daemon.applied, events)


def _show(points, count, events):
    if count != events:
        raise RuntimeError(f"expected {events} events, found {count}")
    print(json.dumps(points), flush=True)


async def main():
    """Do what the task says."""
    task = json.loads(sys.stdin.readline())
    async with EventStore(task["dsn"]) as store:
        await {"seen": seen, "read": read, "project": project}[sys.argv[1]](store, task["events"])


if __name__ == "__main__":
    asyncio.run(main())
