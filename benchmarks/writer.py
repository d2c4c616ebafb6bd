"""A writer in a process of its own: ``python -m benchmarks.writer MODE``, its task as a line of JSON on standard input.

It opens a store and says so by a line. At the next line on its standard input its callers begin; in the end it prints what
they did. Modes: *own*: ten events to each stream, which nobody else appends to; *hot*: any version of a few streams that
other processes append to as well.
"""

import asyncio
import contextlib
import json
import sys

from eventstore import EventStore
from eventstore.errors import LockTimeout

from . import calling, children
from .meter import Meter, Sample, percentiles
from .sample import event

STREAM_LENGTH = 10
HOT_STREAMS = 8


async def together(arena, mode, processes, callers, seconds):
    """Let so many processes begin at once; what each of them did.

    Returns:
        for each process: counted calls (`count`), `seconds` of its window, CPU seconds of its own (`client`) and of the
        server's (`server`, or None) in it, the `latencies` of its calls in seconds, and how many of its calls `failed`.
    """
    task = {"dsn": arena.dsn, "postmaster": arena.postmaster, "token": arena.token(), "callers": callers, "seconds": seconds}
    async with contextlib.AsyncExitStack() as stack:
        ran = [
            await stack.enter_async_context(children.child(__name__, task | {"number": number}, mode))
            for number in range(processes)
        ]
        for one in ran:
            await one.stdout.readline()  # it is ready
        for one in ran:
            one.stdin.write(b"go\n")
        return [json.loads(line) for line in await asyncio.gather(*(one.stdout.readline() for one in ran))]


def summed(done):
    """The sample of all processes together."""
    seconds = sum(one["seconds"] for one in done) / len(done)
    servers = [one["server"] for one in done]
    return Sample(
        sum(one["count"] for one in done),
        seconds,
        sum(one["client"] for one in done),
        None if None in servers else sum(servers) / len(servers),
        percentiles([latency * 1000 for one in done for latency in one["latencies"]]),
    )


async def own(store, task):
    """One event a call, at the version that the stream has."""
    prefix = f"bench-{task['token']}-{task['number']}"

    async def append(caller, n):
        await store.append(f"{prefix}-{caller}-{n // STREAM_LENGTH}", event(n), expect=n % STREAM_LENGTH)

    return await _timed(task, append) | {"failed": 0}


async def hot(store, task):
    """One event a call, on whatever came before; who waited too long goes on."""
    failed = 0

    async def append(caller, n):
        nonlocal failed
        try:
            await store.append(f"hot-{task['token']}-{caller % HOT_STREAMS}", event(n))
        except LockTimeout:
            failed += 1

    return await _timed(task, append) | {"failed": failed}


async def _timed(task, append):
    sample, latencies = await calling.timed(lambda: Meter(task["postmaster"]), task["callers"], task["seconds"], append)
    return {
        "count": sample.count,
        "seconds": sample.seconds,
        "client": sample.client_seconds,
        "server": sample.server_seconds,
        "latencies": [round(one, 6) for one in latencies],
    }


async def main():
    """Do what the task says."""
    task = json.loads(sys.stdin.readline())
    async with EventStore(task["dsn"]) as store:
        await store.append(f"first-{task['token']}-{task['number']}", event(0))  # opens a connection
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps(await {"own": own, "hot": hot}[sys.argv[1]](store, task)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
