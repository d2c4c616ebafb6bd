"""A process that passes every failpoint: it imports, appends, holds a transaction, follows the log, and stops cleanly.

python fault_child.py URL [follow]: what happens at which point stands in EVENTSTORE_FAILPOINT. Prints "running" once its
daemon lives. With "follow" it appends nothing and follows for ever.
"""

import asyncio
import io
import json
import sys

from projection_child import Applied, Balances, Deposited, Opened

from eventstore import EventStore, WakeUps
from eventstore.bulk import import_lines, read_json_lines
from eventstore.testing import faults
from projections import Daemon

LEASE_SECONDS = 1.0


async def append(store):
    """Appends of every kind, one of them behind a hole that stays open for a while."""
    for n in range(5):
        await store.append(f"account-{n}", [Opened(owner="x"), Deposited(amount=n)])
    async with store.transaction() as held:
        await held.append("account-held", [Opened(owner="y"), Deposited(amount=7)])
        await store.append("account-1", Deposited(amount=3))
        await asyncio.sleep(0.15)
        await held.append("account-2", Deposited(amount=5))
    await store.append("account-3", Deposited(amount=1))


async def bring_in(store):
    """Lines with tags; those that are there already are left out."""
    documents = [{"stream_id": "account-in", "type": "Opened", "data": {"owner": "i"}, "tags": ["owner:i"]}]
    documents += [{"stream_id": "account-in", "type": "Deposited", "data": {"amount": 1}, "tags": ["by:1"]}] * 3
    text = "".join(json.dumps(one) + "\n" for one in documents)
    await import_lines(store, read_json_lines(io.BytesIO(text.encode()), "x"), on_bad=print)


async def main(url, *, follow):
    async with EventStore(url, wake_ups=WakeUps(poll_seconds=0.05)) as store:
        async with Daemon(store, [Balances(), Applied()], create=True, lease_seconds=LEASE_SECONDS) as daemon:
            following = asyncio.create_task(daemon.run())
            print("running", flush=True)
            if follow:
                await following
            await bring_in(store)
            await append(store)
            last = await store.append("account-4", Deposited(amount=1))
            while daemon.position < last.position:
                await asyncio.sleep(0.01)
                if following.done():
                    following.result()
            await asyncio.sleep(1.2)  # a heartbeat, a published mark
            daemon.stop()
            await following
        print("done", flush=True)


if __name__ == "__main__":
    faults.arm_from_environment()
    asyncio.run(main(sys.argv[1], follow=sys.argv[2:] == ["follow"]))
