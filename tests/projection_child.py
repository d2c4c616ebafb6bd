"""A daemon in a process of its own, for tests that kill it: python projection_child.py URL [lease seconds]."""

import asyncio
import sys

import sqlalchemy as sa

from eventstore import Event, EventStore, WakeUps
from projections import Daemon, Projection, on

metadata = sa.MetaData()
balances = sa.Table(
    "balances",
    metadata,
    sa.Column("account_id", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text),
    sa.Column("balance", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("events", sa.BigInteger, nullable=False, server_default="0"),
)


class Opened(Event):
    owner: str


class Deposited(Event):
    amount: int


class Balances(Projection):
    """Rows folded in memory, and a count of how often each event took effect, by SQL of its own."""

    table = balances

    @on(Opened)
    def opened(self, event, recorded, rows):
        rows.upsert(account_id=recorded.stream_id, owner=event.owner)
        rows.add(account_id=recorded.stream_id, events=1)

    @on(Deposited)
    def deposited(self, event, recorded, rows):
        rows.add(account_id=recorded.stream_id, balance=event.amount, events=1)


class Applied(Projection):
    """One row an event: how often it took effect."""

    @on(Opened, Deposited)
    async def count(self, event, recorded, tx):
        await tx.execute(
            "insert into applied values ($1, 1) on conflict (event_id) do update set times = applied.times + 1",
            recorded.event_id,
        )


async def main(url, lease_seconds):
    async with (
        EventStore(url, wake_ups=WakeUps(poll_seconds=0.02, listen=False)) as store,
        Daemon(store, [Balances(), Applied()], create=True, lease_seconds=lease_seconds) as daemon,
    ):
        print("running", flush=True)
        await daemon.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.0))
