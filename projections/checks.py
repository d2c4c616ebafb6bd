"""What ``eventstore doctor`` looks at for the followers' sake; found by the entry point group ``eventstore.doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from eventstore.doctor import Check, Examination, Finding, Level, Need, objects_check, right_check, roles_check
from eventstore.spi import Row, load_sql

__all__ = ["CHECKS"]

_SQL: Final = Path(__file__).parent / "sql"
_FOLLOWERS: Final = load_sql(_SQL / "doctor", "followers")

STUCK_SECONDS: Final = 300.0
"""A follower that is behind, is run, and has not moved for so long waits for something, or works on one batch."""

_TABLES: Final = ("checkpoints", "daemons", "leases")
_FOLLOW: Final = (
    Need("USAGE", ""),
    *(Need("SELECT", name) for name in ("events", "safe_mark", "time_marks", "alembic_version", "events_position_seq")),
    Need("INSERT", "time_marks"),
    Need("UPDATE", "safe_mark", "position"),
    *(Need(verb, name) for name in _TABLES for verb in ("SELECT", "INSERT", "UPDATE")),
    *(Need("DELETE", name) for name in ("daemons", "leases")),
)


async def followers(examination: Examination) -> Sequence[Finding]:
    """Followers beyond the log's end, without a living daemon, or stuck."""
    found = [_of(row, examination.schema) for row in await examination.rows(_FOLLOWERS, STUCK_SECONDS)]
    return found or [Finding("followers", Level.OK, "no follower is lost, stuck or beyond the log")]


def _of(row: Row, schema: str) -> Finding:
    follower, shard, position, given, seconds, _leased, daemon, alive, behind = row
    name = f"{follower}/{shard}"
    if position > given:
        found = f"the follower {name} stands at {position}, but the log has given out only {given}: restored from an older backup"
        text = follower.replace("'", "''")
        cure = f"delete from \"{schema}\".checkpoints where follower = '{text}'; -- and empty what it has written: it begins anew"
        return Finding("followers", Level.ERROR, found, f"at most {given}", cure)
    option = "" if schema == "eventstore" else f" --schema {schema}"
    if not alive:
        found = f"the daemon {daemon or 'unknown'} that runs {name} has not been heard of: it died, or its machine did"
        level = Level.WARNING if behind else Level.NOTE
        return Finding("followers", level, found, "a daemon with a heartbeat", f"projections run module:attribute{option}")
    found = f"{name} is {given - position} positions behind and has not moved for {seconds:.0f} s, though {daemon} runs it"
    return Finding(
        "followers", Level.WARNING, found, "a follower that moves", f"projections status{option}; read the daemon's log"
    )


CHECKS: Final = (
    objects_check("followers.objects", _SQL / "schema"),
    roles_check("followers.roles", {"follow": _FOLLOW}),
    right_check("followers.role", "run followers", _FOLLOW, Need("INSERT", "checkpoints")),
    Check("followers", followers, needs_schema=True),
)
