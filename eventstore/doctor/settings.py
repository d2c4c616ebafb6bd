"""The settings that a promise rests on, as a connection gets them that asks for none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from .examination import Check, Examination, sql
from .findings import Finding, Level, quoted

__all__ = ["CHECKS"]

_SETTINGS: Final = sql("settings")
_CONNECTIONS: Final = sql("connections")

FULL: Final = 0.9
"""The share of max_connections from which on it is said: a store opens up to ten, a daemon one a projection."""


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    good: Callable[[str], bool]
    level: Level
    expected: str
    why: str
    value: str = "on"
    of_database: bool = False


def _on(value: str) -> bool:
    return value == "on"


_RULES: Final = (
    _Rule("fsync", _on, Level.ERROR, "on", "a crash of the machine may destroy the whole cluster"),
    _Rule("full_page_writes", _on, Level.ERROR, "on", "a crash of the machine may leave torn pages"),
    _Rule(
        "synchronous_commit",
        lambda value: value != "off",
        Level.WARNING,
        "on",
        "an append that returned may be lost in a crash of the server, up to three times wal_writer_delay (0.6 s) of them; "
        "readers that saw them then meet LogRewound",
    ),
    _Rule("autovacuum", _on, Level.WARNING, "on", "nothing keeps the BRIN indexes and the visibility map fresh"),
    _Rule("track_counts", _on, Level.WARNING, "on", "autovacuum does not see what it has to do"),
    _Rule(
        "idle_in_transaction_session_timeout",
        lambda value: value != "0",
        Level.NOTE,
        "a limit, such as 1min",
        "a forgotten psql session that has inserted an event makes readers wait for ever (the store's own connections "
        "set 20 s)",
        "1min",
        of_database=True,
    ),
    _Rule(
        "default_transaction_read_only",
        lambda value: value == "off",
        Level.ERROR,
        "off",
        "every append is refused",
        "off",
        of_database=True,
    ),
    _Rule("server_encoding", lambda value: value == "UTF8", Level.ERROR, "UTF8", "not every text can be stored"),
)


async def settings(examination: Examination) -> Sequence[Finding]:
    """Durability, vacuum, and limits."""
    isolation = _Rule(
        "default_transaction_isolation",
        lambda value: value == "read committed",
        Level.NOTE if examination.has_settings else Level.WARNING,
        "read committed",
        "an asyncpg pool's connections take it, and appends in a transaction see stale versions; so do the statements outside of "
        "transactions with statement_cache_size=0 (other stores that were given an address set their own)",
        "read committed",
        of_database=True,
    )
    rules = (*_RULES, isolation)
    rows = await examination.rows(_SETTINGS, [rule.name for rule in rules])
    values = {row[0]: (row[1], row[2], row[3]) for row in rows}
    found = [_judge(rule, *values[rule.name], examination) for rule in rules if rule.name in values]
    bad = [finding for finding in found if finding is not None]
    return bad or [Finding("settings", Level.OK, f"{len(rules)} settings are as they should be")]


def _judge(rule: _Rule, value: str, source: str, file: str | None, examination: Examination) -> Finding | None:
    if rule.good(value):
        return None
    where = f"{source}, {file}" if file else source
    found = f"{rule.name} is {value} (from: {where}): {rule.why}"
    return Finding(
        f"settings.{rule.name}", rule.level, found, f"{rule.name} {rule.expected}", _cure(rule, source, examination)
    )


def _cure(rule: _Rule, source: str, examination: Examination) -> str:
    database, role = quoted(examination.database), quoted(examination.role)
    assignment = f"set {rule.name} = '{rule.value}'"
    if rule.name == "server_encoding":
        return "create database ... encoding 'UTF8' template template0, then dump this one and restore it there"
    if source == "user":
        return f"alter role {role} {assignment};"
    if source == "database user":
        return f"alter role {role} in database {database} {assignment};"
    if source == "command line":
        return f"restart the server without -c {rule.name}=..."
    if source in ("client", "environment variable"):
        return f"take {rule.name} out of the URL or of PGOPTIONS"
    if source == "database" or rule.of_database:
        return f"alter database {database} {assignment};"
    return f"alter system {assignment}; select pg_reload_conf();"


async def connections(examination: Examination) -> Sequence[Finding]:
    """Is there room for a store's?"""
    used, most = (await examination.rows(_CONNECTIONS))[0]
    if used < most * FULL:
        return [Finding("connections", Level.OK, f"{used} of {most} connections are in use")]
    return [
        Finding(
            "connections",
            Level.WARNING,
            f"{used} of {most} connections are in use",
            f"fewer than {most * FULL:.0f}: a store opens up to 10, a daemon one more for each projection",
            "alter system set max_connections = 200; -- then restart the server; or lower max_connections= of the stores",
        )
    ]


CHECKS: Final = (Check("settings", settings), Check("connections", connections))
