"""What every benchmark stores: one kind of event of about 100 bytes, two read models of it, a log full of them."""

import sqlalchemy as sa

from eventstore import Event
from projections import Projection, on

ACCOUNTS = 500
NOTE = "a note of some length, as notes are"
FILL_STEP = 500_000
"""Rows of one INSERT: a log of ten million is not one transaction."""


class Deposited(Event):
    """About 100 bytes as JSON, as events often are."""

    account: str
    amount: int
    note: str


totals = sa.Table(
    "bench_totals",
    sa.MetaData(),
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False, server_default="0"),
)


class Totals(Projection):
    """A sum for each account."""

    table = totals

    @on(Deposited)
    def deposited(self, event, recorded, rows):
        """Add it."""
        rows.add(account=event.account, amount=event.amount)


seen = sa.Table(
    "bench_seen",
    totals.metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
)


class Seen(Projection):
    """One row an event: when its transaction was committed, the event was in the read model."""

    table = seen

    @on(Deposited)
    def deposited(self, event, recorded, rows):
        """Write its row."""
        rows.upsert(position=recorded.position, amount=event.amount)


def event(n):
    """The nth event."""
    return Deposited(account=f"account-{n % ACCOUNTS}", amount=n, note=NOTE)


validate = Deposited.__pydantic_validator__.validate_json
"""What a bare loop calls for each event."""

_FILL = f"""
    insert into eventstore.events (stream_id, version, type, event_id, data)
    select 'fill-' || n / $3, n % $3 + 1, 'Deposited', gen_random_uuid(),
           jsonb_build_object('account', 'account-' || n % {ACCOUNTS}, 'amount', n, 'note', '{NOTE}')
    from generate_series($1::bigint, $2::bigint - 1) n"""


async def fill(connection, upto, stream_length=1000):
    """Bring the log to `upto` events, in streams ``fill-0``, ``fill-1``, … of `stream_length` events, and vacuum it.

    The vacuum sets the hint bits, which the first reader would otherwise write for all that come after.
    """
    there = await connection.fetchval("select count(*) from eventstore.events")
    while there < upto:
        step = min(upto, there + FILL_STEP)
        await connection.execute(_FILL, there, step, stream_length, timeout=600)
        there = step
    await connection.execute("vacuum (analyze) eventstore.events", timeout=600)
