"""Contests and gauges, and the rounds in which they are measured.

A contest lets several do the same work; what counts is the ratio between ours and each other's rate, formed in each round.
Within a round the contestants follow each other directly, each round in another order, so that what drifts (the disk, the
neighbours, the size of the table) falls on all of them. A gauge has nobody beside it: it measures values of its own.
"""

import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from .meter import Sample
from .server import Arena

OURS = "pg-eventstore"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done.

    Attributes:
        quick: tiny sizes, to see that it works; the figures mean nothing.
        events: of the memory gauge; 0: its default.
        full: logs of up to 20 million rows.
    """

    quick: bool = False
    events: int = 0
    full: bool = False

    def pick(self, normal, quick):
        """The size to use."""
        return quick if self.quick else normal


@dataclass(frozen=True, slots=True)
class Goal:
    """What docs/design.md, section 10, asks for.

    Attributes:
        what: the contestant to compare with, or the gauge's value.
        bound: at least this ratio, or at most this value.
        due: what has to be built before it can be met; empty: due now.
    """

    what: str
    bound: float
    due: str = ""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One who does the work.

    Attributes:
        name: in the tables.
        run: does work of a size on an arena, and says what it took; None where the contest measures all at once.
        missing: says why it cannot take part; empty text: it can.
    """

    name: str
    run: Callable[[Arena, float], Awaitable[Sample]] | None
    missing: Callable[[], str] = str


@dataclass(frozen=True, slots=True)
class Contest:
    """The same work, done by several.

    Attributes:
        topic: by which it is asked for.
        key: of its own, in the JSON file.
        title: in the tables.
        contestants: ours first.
        size: of the work; seconds or events, as its contestants understand it.
        warmup: the same, for the run before that is thrown away.
        prepare: makes what the work of a size needs, once a round for all contestants; not measured.
        goals: to be reached.
        unit: of its rates.
        at_once: measures all contestants, instead of each one's `run`: where a small difference counts (`calling.in_slices`).
    """

    topic: str
    key: str
    title: str
    contestants: tuple[Contestant, ...]
    size: float
    warmup: float
    prepare: Callable[[Arena, float], Awaitable[None]] | None = None
    goals: tuple[Goal, ...] = ()
    unit: str = "events/s"
    at_once: Callable[[Arena, float], Awaitable[dict[str, Sample]]] | None = None


@dataclass(frozen=True, slots=True)
class Gauge:
    """Values with nobody beside them. Gauges of one topic have values of the same names.

    Attributes:
        topic: by which it is asked for.
        key: of its own, in the JSON file.
        title: in the tables.
        measure: measures once, on an arena.
        unit: of its values.
        goals: upper bounds of values.
        setting: server setting that must be on; the private server is started again with it.
        rounds: how often at most; 0: as often as asked.
        only_with: a value that must be so high on the median, else no goal counts as met: the load was not there.
    """

    topic: str
    key: str
    title: str
    measure: Callable[[Arena], Awaitable[dict[str, float]]]
    unit: str
    goals: tuple[Goal, ...] = ()
    setting: str = ""
    rounds: int = 0
    only_with: tuple[str, float] = ("", 0)


@dataclass(slots=True)
class Found:
    """What a contest or a gauge has brought: a sample a round for each contestant, or the values of each round."""

    of: Contest | Gauge
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    values: list[dict[str, float]] = field(default_factory=list)


async def run_contests(server, contests, rounds):
    """Measure every contest in every round. Rounds are the outer loop: each contest meets the machine at several times."""
    found = [Found(contest) for contest in contests]
    for number in range(rounds):
        for one in found:
            async with server.arena() as arena:
                await _one_round(arena, one, number, f"round {number + 1}/{rounds}")
    return [one for one in found if one.samples.get(OURS)]


async def run_gauges(server, gauges, rounds):
    """Measure every gauge; leave out those that need a setting which the server does not have."""
    found = []
    for gauge in gauges:
        if gauge.setting and not await _switch_on(server, gauge):
            continue
        found.append(Found(gauge))
    for number in range(rounds):
        for one in found:
            if number >= (one.of.rounds or rounds):
                continue
            async with server.arena() as arena:
                await arena.settle()
                values = await one.of.measure(arena)
            if values:
                one.values.append(values)
                say(f"round {number + 1}/{rounds} {one.of.key}: {', '.join(f'{k} {v:.3g}' for k, v in values.items())}")
    return [one for one in found if one.values]


def in_turn(contestants, number):
    """The order of a round: forwards and backwards in turn, and in time everybody is first."""
    shift = number // 2 % len(contestants)
    turned = [*contestants[shift:], *contestants[:shift]]
    return turned if number % 2 == 0 else turned[::-1]


def spread(values):
    """Median, smallest, largest."""
    return statistics.median(values), min(values), max(values)


def ratios(found, other):
    """Ours to the other's rate, round by round."""
    pairs = zip(found.samples[OURS], found.samples[other], strict=True)
    return [ours.rate / theirs.rate for ours, theirs in pairs]


def say(text):
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


async def _one_round(arena, found, number, label):
    contest = found.of
    present = [one for one in contest.contestants if not _left_out(arena.server, contest, one)]
    for size, counts in ((contest.warmup, False), (contest.size, True)):
        if contest.prepare is not None:
            await contest.prepare(arena, size)
        async for name, sample in _samples(arena, contest, in_turn(present, number), size):
            if counts:
                found.samples.setdefault(name, []).append(sample)
                say(f"{label} {contest.key} {name}: {sample.rate:,.0f} {contest.unit}")


async def _samples(arena, contest, contestants, size):
    """Names and samples."""
    if contest.at_once is not None:
        await arena.settle()
        for one in (await contest.at_once(arena, size)).items():
            yield one
        return
    for contestant in contestants:
        await arena.settle()
        yield contestant.name, await contestant.run(arena, size)


def _left_out(server, contest, contestant):
    why = contestant.missing()
    if why:
        server.note(f"{contest.topic}: without {contestant.name}: {why}")
    return why


async def _switch_on(server, gauge):
    if await server.execute(f"show {gauge.setting}") == "on":
        return True
    if not server.owned:
        server.note(f"{gauge.topic}: left out, since the server has {gauge.setting} off; switch it on and start it again")
        return False
    await server.restart_with(gauge.setting, "on")
    return True
