"""Rows of tags that are not written by the append function: of an import, and of a back-fill.

Both do as `boundary` asks of every writer of tags: the locks first, in one statement, and in a later one of the same transaction
the rows, whose ``seq`` is drawn then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from .statement import Operation, Statement, load_sql

__all__ = ["TagRow", "add", "lock", "missing", "note"]

_QUERIES: Final = Path(__file__).parent.parent / "sql" / "queries"
_LOCK: Final = load_sql(_QUERIES, "lock_tags")
_NOTE: Final = load_sql(_QUERIES, "note_tags")
_MISSING: Final = load_sql(_QUERIES, "missing_tags")
_ADD: Final = load_sql(_QUERIES, "add_tags")


PATIENCE: Final = "100ms"
"""How long to wait for one lock while others are held, as lock_timeout has it: who holds it keeps nobody else waiting for the rest.
Below PostgreSQL's deadlock_timeout (1 s unless somebody changed it): a transaction that takes tags in another order is
never the one that a deadlock ends, since this one has given up before."""


class TagRow(NamedTuple):
    """One tag of one event, as `event_tags` has it."""

    tenant_id: str
    tag: str
    position: int
    type: str


def lock(tags: Collection[tuple[str, str]]) -> Operation[int]:
    """Take the locks of some tags in the open transaction; return the last position that was given out so far.

    Args:
        tags: tenants and tags.

    Raises (thrown in by the driver): LockTimeout: somebody has held one for longer than `PATIENCE`; roll back, and try again
        after a moment.
    """
    tenants, names = zip(*tags, strict=True)
    return int((yield Statement(_LOCK, (list(tenants), list(names), PATIENCE)))[0][0])


def note(last_given: int) -> Operation[None]:
    """Write the rows for the events that the open transaction has inserted, in no savepoint. Their tags are locked.

    Args:
        last_given: the last position that was given out before.
    """
    yield Statement(_NOTE, (last_given,))


def missing(rows: Sequence[TagRow]) -> Operation[list[TagRow]]:
    """Return those rows that are not there yet, in order."""
    tenants, tags, positions, _ = _columns(rows)
    found = yield Statement(_MISSING, (tenants, tags, positions))
    return [rows[n - 1] for n in sorted(row[0] for row in found)]


def add(rows: Sequence[TagRow]) -> Operation[int]:
    """Write rows for events that are there; return how many were not there already. Their tags are locked."""
    return len((yield Statement(_ADD, _columns(rows))))


def _columns(rows: Sequence[TagRow]) -> tuple[list[str], list[str], list[int], list[str]]:
    return (
        [row.tenant_id for row in rows],
        [row.tag for row in rows],
        [row.position for row in rows],
        [row.type for row in rows],
    )
