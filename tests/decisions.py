"""Decisions that race, and the oracle that looks at each accepted one afterwards.

The oracle knows nothing of locks and tokens. It takes the log as it is in the end, and for each decision that was accepted asks
whether the events that its question matches, up to its own first event, are those that it was made on. That is the order in
which they took effect: whoever writes a tag, or decides over it, draws positions while the tag is its own.
"""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

import asyncpg

from eventstore import Boundary, BoundaryConflict, Event, EventStore, NewEvent, Query, WakeUps, errors


class Moved(Event):
    n: int


class Rested(Event):
    n: int


TYPES = (Moved, Rested)
QUIET = WakeUps(poll_seconds=1, listen=False, notify=False)


@dataclass
class Accepted:
    """A decision that was appended, or may have been: what it asked, what it saw, and the ids of its events."""

    items: tuple
    seen: list
    event_ids: tuple
    sure: bool = True


@dataclass
class Ledger:
    accepted: list = field(default_factory=list)
    conflicts: int = 0
    unknown: int = 0


def violations(ledger, log):
    """Return what the oracle finds: (decision, ids it should have seen, ids it saw), in the order of the log."""
    by_id = {recorded.event_id: recorded for recorded in log}
    found = []
    for decision in ledger.accepted:
        own = [by_id[event_id] for event_id in decision.event_ids if event_id in by_id]
        if not own:
            assert not decision.sure, "an accepted decision is not in the log"
            continue
        before = [
            recorded.event_id
            for recorded in log
            if recorded.position < own[0].position and any(matches(item, recorded) for item in decision.items)
        ]
        if before != decision.seen:
            found.append((decision, before, decision.seen))
    return found


def matches(item, recorded):
    tags, types = item
    return set(tags) <= set(recorded.tags) and (types is None or type(recorded.data) in types)


def query_of(items):
    query = None
    for tags, types in items:
        one = Query(tags=tags, types=types)
        query = one if query is None else query | one
    return query


class Race:
    """Racers over a few tags, on several stores, by every way that there is of appending.

    Args:
        url: the database.
        tags: how many.
        seed: of what they do.
    """

    def __init__(self, url, tags, seed):
        self.url, self.random = url, random.Random(seed)
        self.tags = [f"t:{n}" for n in range(tags)]
        self.ledger = Ledger()

    def some_tags(self, most):
        return tuple(self.random.sample(self.tags, self.random.randint(1, min(most, len(self.tags)))))

    def some_items(self):
        return tuple(
            (self.some_tags(2), self.random.choice([None, None, TYPES, TYPES[:1]])) for _ in range(self.random.randint(1, 3))
        )

    def some_event(self):
        return NewEvent(self.random.choice(TYPES)(n=self.random.randrange(1000)), tags=self.some_tags(3))

    async def run(self, racers, rounds, *, kills=0):
        """Race; return the log and the ledger."""
        async with contextlib.AsyncExitStack() as stack:
            stores = [
                await stack.enter_async_context(EventStore(self.url, events=TYPES, wake_ups=QUIET, max_connections=most))
                for most in (8, 11)  # without and with a lane for tags
            ]
            work = [self.race(stores[n % 2], f"r-{n}", rounds) for n in range(racers)]
            async with asyncio.timeout(120):
                await asyncio.gather(*work, self.kill(kills))
            return [recorded async for recorded in stores[0].read_all()], self.ledger

    async def race(self, store, stream, rounds):
        ways = (
            self.decide,
            self.decide,
            self.decide,
            self.decide_several,
            self.decide_in_transaction,
            self.append,
            self.hold,
        )
        for _ in range(rounds):
            try:
                await self.random.choice(ways)(store, stream)
            except (errors.Transient, errors.DatabaseRefused) as error:
                self.ledger.unknown += isinstance(error, errors.AppendUnknown)
            except BoundaryConflict:
                self.ledger.conflicts += 1

    async def decide(self, source, stream, *, sure=True):
        """One decision; retried by nobody. It is written down before it is sent."""
        items = self.some_items()
        decision = await Boundary(source).read(query_of(items))
        await asyncio.sleep(self.random.choice([0, 0, 0.001, 0.005]))
        await self.noted(items, decision, [self.some_event()], lambda events: decision.append(stream, events), sure=sure)

    async def decide_several(self, source, stream):
        items = self.some_items()
        decision = await Boundary(source).read(query_of(items))
        await self.noted(
            items,
            decision,
            [self.some_event(), self.some_event()],
            lambda events: decision.append_all({stream: events[0], f"{stream}-b": events[1]}),
        )

    async def noted(self, items, decision, events, send, *, sure=True):
        noted = Accepted(items, [recorded.event_id for recorded in decision.events], (), sure=False)
        events = [NewEvent(new.event, tags=new.tags, event_id=new_id()) for new in events]
        noted.event_ids = tuple(new.event_id for new in events)
        self.ledger.accepted.append(noted)
        await send(events)
        noted.sure = sure

    async def decide_in_transaction(self, store, stream):
        """Two decisions, the second of which knows of the first; sometimes it is rolled back, sometimes held."""
        with contextlib.suppress(LookupError):
            async with store.transaction() as tx:
                await self.decide(tx, stream, sure=False)
                await self.decide(tx, stream, sure=False)
                await asyncio.sleep(self.random.choice([0, 0.002, 0.01]))
                if self.random.random() < 0.3:
                    raise LookupError("rolled back")

    async def append(self, store, stream):
        await store.append(f"{stream}-c", [self.some_event() for _ in range(self.random.randint(1, 3))])

    async def hold(self, store, stream):
        """Append with tags, and commit or roll back a moment later."""
        with contextlib.suppress(LookupError):
            async with store.transaction() as tx:
                await tx.append(f"{stream}-d", self.some_event())
                await asyncio.sleep(self.random.choice([0, 0.002, 0.01, 0.03]))
                if self.random.random() < 0.4:
                    raise LookupError("rolled back")

    async def kill(self, times):
        """Kill connections of writers, whatever they are at."""
        if not times:
            return
        raw = await asyncpg.connect(self.url, ssl=False)
        try:
            for _ in range(times):
                await asyncio.sleep(0.05)
                await raw.execute(
                    "select pg_terminate_backend(pid) from (select pid from pg_stat_activity where datname = current_database() "
                    "and pid <> pg_backend_pid() and application_name ~ 'append|transaction' order by random() limit 1) x"
                )
        finally:
            await raw.close()


def new_id():
    from eventstore._ids import uuid7

    return uuid7()
