"""Callers that make one call after the other, and the window in which their calls are counted.

Callers run for some time before the clock starts; counted are the calls that end while it runs.
"""

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor

from .meter import Sample, percentiles

LEAD_SECONDS = 0.3
SLICE_SECONDS = 0.1
LEAD_LAPS = 2


async def measure(meter, callers, seconds, call):
    """Let so many callers call until time is up.

    Args:
        meter: begins a `Meter`.
        callers: how many.
        seconds: of the window.
        call: is awaited with the number of the caller, and how many calls that has made.
    """
    sample, _ = await timed(meter, callers, seconds, call)
    return sample


async def timed(meter, callers, seconds, call):
    """As `measure`; also the seconds that each counted call took."""
    calls, stopped = [], asyncio.Event()

    async def repeat(caller):
        n = 0
        while not stopped.is_set():
            begun = time.perf_counter()
            await call(caller, n)
            calls.append(time.perf_counter() - begun)
            n += 1

    tasks = [asyncio.create_task(repeat(caller)) for caller in range(callers)]
    return await window(meter, seconds, tasks, calls, stopped)


async def threads(meter, count, seconds, call):
    """As `measure`, for a plain function, which as many threads call."""
    calls, stopped = [], asyncio.Event()

    def repeat(caller):
        n = 0
        while not stopped.is_set():
            begun = time.perf_counter()
            call(caller, n)
            calls.append(time.perf_counter() - begun)
            n += 1

    with ThreadPoolExecutor(count) as pool:
        tasks = [asyncio.wrap_future(pool.submit(repeat, caller)) for caller in range(count)]
        sample, _ = await window(meter, seconds, tasks, calls, stopped)
    return sample


async def in_slices(meter, callers, seconds, works):
    """Measure several works at once, one at a time for a tenth of a second, in an order by chance, until each had its seconds.

    What slows the machine for longer than that falls on all of them alike.

    Args:
        meter: begins a `Meter`.
        callers: of each work.
        seconds: of each work.
        works: names to what is awaited, as `call` of `measure`.

    Returns:
        a sample of each.
    """
    slices = {name: _Slices(meter, callers, call) for name, call in works.items()}
    laps = max(1, round(seconds / SLICE_SECONDS))
    for lap in range(-LEAD_LAPS, laps):
        for one in random.sample(list(slices.values()), len(slices)):
            await one.work(counts=lap >= 0)
    return {name: one.sample() for name, one in slices.items()}


class _Slices:
    """One work's part of the time."""

    def __init__(self, meter, callers, call):
        self._meter, self._call = meter, call
        self._made = [0] * callers
        self._samples, self._latencies = [], []

    async def work(self, *, counts):
        latencies, running, end = [], self._meter(), time.perf_counter() + SLICE_SECONDS
        await asyncio.gather(*(self._repeat(caller, end, latencies) for caller in range(len(self._made))))
        if counts:
            self._samples.append(running.stop(len(latencies)))
            self._latencies += latencies

    async def _repeat(self, caller, end, latencies):
        while (begun := time.perf_counter()) < end:
            await self._call(caller, self._made[caller])
            latencies.append(time.perf_counter() - begun)
            self._made[caller] += 1

    def sample(self):
        servers = [one.server_seconds for one in self._samples]
        return Sample(
            sum(one.count for one in self._samples),
            sum(one.seconds for one in self._samples),
            sum(one.client_seconds for one in self._samples),
            None if None in servers else sum(servers),
            percentiles([one * 1000 for one in self._latencies]),
        )


async def window(meter, seconds, tasks, calls, stopped):
    """Measure from the end of the lead on; `calls` grows by the latency of each call that has ended."""
    try:
        await _unless_one_fails(tasks, min(LEAD_SECONDS, seconds))
        before, running = len(calls), meter()
        await _unless_one_fails(tasks, seconds)
        counted = calls[before:]
        if not counted:
            raise RuntimeError(f"expected calls to end within {seconds} s, none did: measure for longer")
        sample = running.stop(len(counted), counted)
    finally:
        stopped.set()
        await asyncio.wait(tasks)
    for task in tasks:
        task.result()
    return sample, counted


async def _unless_one_fails(tasks, seconds):
    """Wait; a caller that ends before it is told to has failed."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
