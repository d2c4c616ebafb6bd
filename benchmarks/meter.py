"""Wall clock and CPU time, on both sides of the wire, of one stretch of work."""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "max": 1.0}
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one contestant did in one measurement.

    Attributes:
        count: operations (or events) done.
        seconds: of wall clock.
        client_seconds: CPU of this process and of its children that have ended.
        server_seconds: CPU of all of the server's processes; None where they cannot be seen.
        latency_ms: percentiles of single calls, where those were timed.
        retries: a call, on the average: how often it was begun anew after a conflict; None where that cannot be.
    """

    count: int
    seconds: float
    client_seconds: float
    server_seconds: float | None
    latency_ms: dict[str, float]
    retries: float | None = None

    @property
    def rate(self):
        """Operations a second."""
        return self.count / self.seconds

    def cpu_us(self, seconds):
        """CPU seconds as microseconds an operation."""
        return None if seconds is None or not self.count else seconds / self.count * 1e6

    def as_json(self):
        """For the JSON file."""
        shown = {
            "count": self.count,
            "seconds": round(self.seconds, 4),
            "rate": round(self.rate, 1),
            "client_us": _rounded(self.cpu_us(self.client_seconds)),
            "server_us": _rounded(self.cpu_us(self.server_seconds)),
            "latency_ms": {name: round(value, 3) for name, value in self.latency_ms.items()},
        }
        return shown if self.retries is None else shown | {"retries": round(self.retries, 6)}


class Meter:
    """Starts to measure when it is made; `stop` says what was used since then.

    Args:
        postmaster: process id of the server's first process; None: its CPU is not counted.
    """

    def __init__(self, postmaster=None):
        self._postmaster = postmaster
        self._server = server_cpu(postmaster)
        self._client = client_cpu()
        self._begun = time.perf_counter()

    def stop(self, count, latencies=()):
        """The sample; `latencies` in seconds."""
        seconds = time.perf_counter() - self._begun
        client = client_cpu() - self._client
        server = None if self._server is None else server_cpu(self._postmaster) - self._server
        return Sample(count, seconds, client, server, percentiles([one * 1000 for one in latencies]))


def percentiles(values):
    """Nearest-rank percentiles; empty for no values."""
    ordered = sorted(values)
    return (
        {name: ordered[max(0, math.ceil(part * len(ordered)) - 1)] for name, part in PERCENTILES.items()} if ordered else {}
    )


def client_cpu():
    """CPU seconds of this process and of its children that were waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def server_cpu(postmaster):
    """CPU seconds of a server's processes: those alive, and those that have ended (the postmaster waits for its children)."""
    if postmaster is None:
        return None
    ticks = sum(_stat(postmaster)[11:15])
    for child in children(postmaster):
        try:
            ticks += sum(_stat(child)[11:13])
        except OSError:
            continue  # ended just now: counted with the postmaster's next time
    return ticks / TICKS_A_SECOND


def children(parent):
    """Process ids of the children of `parent`."""
    try:
        return [int(n) for n in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        pass
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if _stat(folder.name)[1] == parent:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def parent_of(process):
    """Process id of its parent."""
    return _stat(process)[1]


def _stat(process):
    """The numbers of /proc/<process>/stat from the state on, which is given as 0 (proc(5)): 1 is the parent, 11 to 14 the CPU."""
    text = Path(f"/proc/{process}/stat").read_text()
    return [0, *(int(n) for n in text.rpartition(")")[2].split()[1:])]


def _rounded(value):
    return None if value is None else round(value, 2)
