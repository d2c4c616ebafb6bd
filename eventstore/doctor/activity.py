"""What holds back the whole cluster: long transactions, and replication slots that nobody uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .._operations.statement import Row
from .examination import Check, Examination, sql
from .findings import Finding, Level, quoted

__all__ = ["CHECKS"]

_TRANSACTIONS: Final = sql("transactions")
_HIDDEN: Final = sql("hidden")
_SLOTS: Final = sql("slots")

OLD_SECONDS: Final = 600.0
VERY_OLD_SECONDS: Final = 3600.0
RETAINED_BYTES: Final = 1 << 30
"""From so much kept write-ahead log on, a slot that nobody uses is a warning: it will fill the disk."""


async def transactions(examination: Examination) -> Sequence[Finding]:
    """Name the transactions that keep vacuum from its work, in any database of the cluster."""
    found = [_of(row) for row in await examination.rows(_TRANSACTIONS, OLD_SECONDS)]
    hidden = 0 if examination.sees_all else (await examination.rows(_HIDDEN))[0][0]
    if hidden:
        what = f"{hidden} sessions of other roles cannot be looked into"
        cure = f"grant pg_read_all_stats to {quoted(examination.role)};"
        found.append(Finding("transactions", Level.NOTE, what, "pg_read_all_stats", cure))
    return found or [Finding("transactions", Level.OK, f"no transaction is older than {OLD_SECONDS / 60:.0f} minutes")]


def _of(row: Row) -> Finding:
    pid, database, application, user, state, seconds, gid = row
    expected = f"transactions of less than {OLD_SECONDS / 60:.0f} minutes"
    if gid is not None:
        name = gid.replace("'", "''")
        found = f"the prepared transaction {gid!r} of {user} in {database} is {seconds:.0f} s old: vacuum waits for it"
        cure = f"rollback prepared '{name}'; -- or commit prepared; in the database {database}"
        return Finding("transactions", Level.WARNING, found, expected, cure)
    idle = str(state).startswith("idle")
    found = f"pid {pid} ({application or 'no application_name'}, user {user}, database {database}, {state}) has a transaction of "
    found += f"{seconds:.0f} s: vacuum waits for it"
    level = Level.WARNING if idle or seconds > VERY_OLD_SECONDS else Level.NOTE
    return Finding("transactions", level, found, expected, f"select pg_terminate_backend({pid});")


async def slots(examination: Examination) -> Sequence[Finding]:
    """Name the replication slots that nobody uses."""
    found = []
    for name, status, retained, age in await examination.rows(_SLOTS):
        kept = "an unknown amount of" if retained is None else f"{retained >> 20} MiB of"
        what = f"nobody uses the replication slot {name!r}, which keeps {kept} write-ahead log"
        what += f" and rows of {age} transactions ({status})" if age else f" ({status})"
        level = Level.WARNING if (retained or 0) > RETAINED_BYTES or status == "lost" else Level.NOTE
        cure = f"select pg_drop_replication_slot('{name}');"
        found.append(Finding("slots", level, what, "slots in use", cure))
    return found or [Finding("slots", Level.OK, "no replication slot lies idle")]


CHECKS: Final = (Check("transactions", transactions), Check("slots", slots))
