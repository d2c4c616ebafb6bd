"""The log's end: who keeps readers waiting, and how old is what was published?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from .._operations import marks
from .._operations.blockers import blockers as who_are
from .._operations.blockers import find_blocked
from ..telemetry import Blocker
from .examination import Check, Examination, sql
from .findings import Finding, Level

__all__ = ["CHECKS"]

_MARKS: Final = sql("marks")

HELD_SECONDS: Final = 5.0
"""Appends take milliseconds; whoever holds the events lock for so long has been forgotten, or imports."""

LOOK_SECONDS: Final = 0.25
MARK_SECONDS: Final = 60.0
"""Marks are published at most once a second, by whoever appends or follows through the store."""


async def blockers(examination: Examination) -> Sequence[Finding]:
    """Name the transactions that have held the events lock for long."""
    if examination.standby:
        return [Finding("blockers", Level.NOTE, "a standby cannot see them", "ask the primary")]
    old = await _old(examination)
    if not old:
        return [Finding("blockers", Level.OK, "nobody keeps readers of the log waiting")]
    blocked = await examination.connection.run(find_blocked(0.0))
    level = Level.ERROR if blocked else Level.WARNING
    what = f"readers wait at position {blocked.position} for" if blocked else "readers will wait, once others append, for"
    expected = f"transactions that append end within {HELD_SECONDS:.0f} s"
    return [Finding("blockers", level, f"{what} {one}", expected, _cure(one)) for one in old]


def _cure(one: Blocker) -> str:
    if one.prepared is not None:
        gid = one.prepared.replace("'", "''")
        return f"commit prepared '{gid}'; -- or: rollback prepared '{gid}';"
    return f"select pg_terminate_backend({one.pid});"


async def _old(examination: Examination) -> list[Blocker]:
    """Who has held it for long. Where the start of a transaction is not visible, it is watched for that time."""
    connection = examination.connection
    _, holders = await connection.run(marks.open_round())
    known = await connection.run(who_are(holders)) if holders else ()
    hidden = any(one.seconds is None for one in known)
    loop = asyncio.get_running_loop()
    until = loop.time() + HELD_SECONDS
    while hidden and holders and loop.time() < until:
        await asyncio.sleep(LOOK_SECONDS)
        holders = await connection.run(marks.holders_left(holders))
    known = await connection.run(who_are(holders)) if holders else ()
    return [one for one in known if one.seconds is None or one.seconds >= HELD_SECONDS]


async def published(examination: Examination) -> Sequence[Finding]:
    """Compare the safe mark and the last time mark with the log."""
    at = f'"{examination.schema}"'
    rows = await examination.rows(_MARKS)
    if not rows:
        found = "safe_mark has no row: a restore left it out, or somebody deleted it; readers refuse the log"
        return [Finding("marks", Level.ERROR, found, "one row", f"insert into {at}.safe_mark default values;")]
    mark, noted, _when, ahead, given, waiting = rows[0]
    latest = max(mark, noted or 0)
    if latest > given:
        found = f"a mark stands at {latest}, but the last position given out is {given}: the log lost its tail"
        cure = f"select setval('{at}.events_position_seq', {latest}); -- then compare with a backup, and rebuild what was read beyond"
        return [Finding("marks", Level.ERROR, found, f"at most {given}", cure)]
    bad = []
    if ahead is not None and ahead > 1.0:
        found = f"the last time mark lies {ahead:.0f} s in the future: the database's clock went back"
        expected = "a clock that goes on; as-of answers get no new marks until it has caught up"
        bad.append(Finding("marks", Level.WARNING, found, expected, "timedatectl set-ntp true -- on the database's machine"))
    if waiting is not None and waiting > MARK_SECONDS:
        found = f"the published marks are {given - min(mark, noted or 0)} positions behind, for {waiting:.0f} s: nobody publishes"
        expected = "a process with a store that appends or follows, as a role that may publish (see blockers too)"
        bad.append(Finding("marks", Level.WARNING, found, expected, _publish(examination.schema)))
    return bad or [Finding("marks", Level.OK, f"everything up to position {mark} of {given} is settled and published")]


def _publish(schema: str) -> str:
    option = "" if schema == "eventstore" else f" --schema {schema}"
    return f'eventstore history any-1 --at "$(date -Iseconds)"{option}'


CHECKS: Final = (Check("blockers", blockers, needs_schema=True), Check("marks", published, needs_schema=True))
