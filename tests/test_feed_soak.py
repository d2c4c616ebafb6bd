"""Sixteen writers with rollbacks against every kind of reader, and one reader broken on purpose that must be caught.

The writers keep a ledger of what they committed, from RETURNING, independent of anything that the library says. A
reader's record is compared with it: nothing missing, nothing twice, in order.
"""

import asyncio
import os
import random

import asyncpg
import pytest

from eventstore import Event, EventStore, WakeUps

pytestmark = [pytest.mark.server, pytest.mark.soak]

WRITERS = 16
SECONDS = float(os.environ.get("EVENTSTORE_SOAK_SECONDS", "6"))
INSERT = """insert into eventstore.events (stream_id, version, type, event_id, data)
            values ($1, $2, $3, gen_random_uuid(), '{}') returning position"""


class Even(Event):
    pass


class Odd(Event):
    pass


class Ledger:
    """What was really committed: position to type."""

    def __init__(self):
        self.committed = {}
        self.rolled_back = 0
        self.writing = True
        self.complete = False  # the last transaction has ended too

    def positions(self, type_=None):
        return sorted(p for p, t in self.committed.items() if type_ in (None, t))


async def write(dsn, name, ledger, seed):
    """Transactions of one to four events, some slow, some rolled back; the last one is over when writing ends."""
    chance = random.Random(seed)
    connection = await asyncpg.connect(dsn, ssl=False)
    version = 0
    while ledger.writing:
        drawn = {}
        transaction = connection.transaction()
        await transaction.start()
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            version += 1
            type_ = chance.choice(("Even", "Odd"))
            drawn[await connection.fetchval(INSERT, f"w-{name}", version, type_)] = type_
            if chance.random() < 0.2:
                await asyncio.sleep(chance.expovariate(1 / 0.004))
        if chance.random() < 0.12:
            await transaction.rollback()
            version -= len(drawn)
            ledger.rolled_back += 1
        else:
            await transaction.commit()
            ledger.committed |= drawn
    await connection.close()


async def follow(store, seen, **how):
    async with store.subscribe(**how) as live:
        async for recorded in live:
            seen.append(recorded.position)


async def read_again_and_again(store, seen, ledger):
    """read_all from where the last one ended, with hardly any patience for open holes."""
    while True:
        last = ledger.complete
        async for recorded in store.read_all(after=seen[-1] if seen else 0, settle=0.0 if not last else 5.0):
            seen.append(recorded.position)
        if last:
            return
        await asyncio.sleep(0.001)


async def broken(dsn, seen, ledger):
    """What everybody writes first: position > last. It skips whatever commits late."""
    connection = await asyncpg.connect(dsn, ssl=False)
    last = 0
    while True:
        final = ledger.complete
        for row in await connection.fetch("select position from eventstore.events where position > $1 order by 1", last):
            last = row[0]
            seen.append(last)
        if final:
            break
        await asyncio.sleep(0.001)
    await connection.close()


def assert_exact(name, seen, wanted):
    """Nothing missing, nothing twice, in order; short words where it is not so."""
    missing, extra = sorted(set(wanted) - set(seen)), sorted(set(seen) - set(wanted))
    assert not missing, f"reader {name!r} missed {len(missing)} events: {missing[:10]}"
    assert not extra, f"reader {name!r} saw {len(extra)} events that were never committed: {extra[:10]}"
    assert seen == wanted, f"reader {name!r} saw events twice or out of order"


async def until_seen(seen, wanted):
    async with asyncio.timeout(30):
        while not seen or seen[-1] < wanted[-1]:
            await asyncio.sleep(0.01)


async def test_no_reader_skips_an_event_while_sixteen_writers_commit_out_of_order(
    database, request, record_testsuite_property
):
    """Subscriptions, filtered and not, and repeated reads: all exact; the broken reader is caught."""
    seed = request.config.getoption("randomly_seed", 0)
    ledger = Ledger()
    seen = {name: [] for name in ("all", "even", "late", "again", "broken")}
    async with EventStore(database, wake_ups=WakeUps(poll_seconds=0.01, listen=False), max_connections=12) as store:
        writers = [asyncio.create_task(write(database, n, ledger, f"{seed}-{n}")) for n in range(WRITERS)]
        readers = [
            asyncio.create_task(follow(store, seen["all"])),
            asyncio.create_task(follow(store, seen["even"], types=[Even])),
            asyncio.create_task(read_again_and_again(store, seen["again"], ledger)),
            asyncio.create_task(broken(database, seen["broken"], ledger)),
        ]
        await asyncio.sleep(SECONDS / 2)
        readers.append(asyncio.create_task(follow(store, seen["late"])))
        await asyncio.sleep(SECONDS / 2)
        ledger.writing = False
        await asyncio.gather(*writers)
        ledger.complete = True
        for name, type_ in (("all", None), ("even", "Even"), ("late", None)):
            await until_seen(seen[name], ledger.positions(type_))
        await asyncio.gather(*readers[2:4])
        for reader in (readers[0], readers[1], readers[4]):
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    record_testsuite_property("soak", f"seed {seed}: {len(ledger.committed)} committed, {ledger.rolled_back} rolled back")
    assert ledger.rolled_back > 20
    for name, type_ in (("all", None), ("late", None), ("again", None), ("even", "Even")):
        assert_exact(name, seen[name], ledger.positions(type_))
    missed = set(ledger.positions()) - set(seen["broken"])
    assert missed, "the harness cannot catch a broken reader, so it proves nothing"
