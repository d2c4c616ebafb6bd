"""Clients whose decisions touch each other's tags, and what of that is a conflict.

Half of the clients decide by one store, half by another, as if in two processes: within a store the appends of a moment travel
as one transaction, between the two the locks of tags meet. A conflict is false if the decision that is begun anew is given the
same answer as before. After some events the clients go on to other tags, so that what they read stays short.
"""

import collections
import contextlib
import functools
import itertools

from pydantic import create_model

from eventstore import Boundary, Event, EventStore, NewEvent, Query
from eventstore.errors import LockTimeout

from . import calling
from .enrolment import enrolled

CLIENTS = (8, 64)
STORES = 2
TERM = 200
"""Decisions until the tags change."""

MOST_ATTEMPTS = 1000

WAYS = {
    "apart": "nothing shared",
    "types": "one tag, each with types of its own",
    "items": "one tag, each with a second of its own",
    "same": "one tag, everything shared",
}
"""Only in the last does what one appends matter to another."""


async def measure(arena, seconds, way, clients):
    """Decisions a second, what a decision takes with all its attempts, and conflicts for a thousand decisions."""
    counts, asked = collections.Counter(), _ASKED[way]
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(EventStore(arena.dsn)) for _ in range(STORES)]

        async def decide(client, n):
            query, event = asked(client, counts["done"] // TERM)
            await decided(Boundary(stores[client % STORES]), query, {f"decided-{client}-{n}": event}, counts)
            counts["done"] += 1

        sample = await calling.measure(arena.meter, clients, seconds, decide)
    return {
        "decisions/s": sample.rate,
        **{name: sample.latency_ms[name] for name in ("p50", "p99", "max")},
        **{
            f"{name} a 1,000": counts[name] / counts["done"] * 1000 for name in ("conflicts", "false conflicts", "time-outs")
        },
    }


async def decided(boundary, query, appends, counts):
    """Let one decision be made; the answers that it was given one after the other tell which conflicts had a reason."""
    appended = False
    while not appended:
        answers = []

        def decide(events, answers=answers):
            answers.append([recorded.position for recorded in events])
            return appends

        try:
            appended = await boundary.decide(query, decide, retries=MOST_ATTEMPTS)
        except LockTimeout:
            counts["time-outs"] += 1
        counts["conflicts"] += len(answers) - 1
        counts["false conflicts"] += sum(before == after for before, after in itertools.pairwise(answers))


def _apart(client, term):
    tag = f"course:{term}-{client}"
    return Query(tags=[tag]), NewEvent(_noted(0)(note=tag), tags=[tag])


def _types(client, term):
    tag = f"course:{term}"
    return Query(tags=[tag], types=[_noted(client)]), NewEvent(_noted(client)(note=tag), tags=[tag])


def _items(client, term):
    return Query(tags=[f"course:{term}", f"student:{client}"]), enrolled(f"{term}", f"{client}")


def _same(client, term):
    return Query(tags=[f"course:{term}"]), enrolled(f"{term}", f"{client}")


_ASKED = {"apart": _apart, "types": _types, "items": _items, "same": _same}
"""What a client asks in a term, and the event that it appends then."""


@functools.cache
def _noted(client):
    """A type of event that only this client appends."""
    return create_model(f"Noted{client}", __base__=Event, note=(str, ...))
