"""The server, and which version of the schema it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from .._binaries import OLDEST_MAJOR
from ..errors import PermissionDenied
from ..schema import DEFAULT_SCHEMA, VERSION
from .examination import Check, Examination, sql
from .findings import Finding, Level, quoted

__all__ = ["CHECKS", "SERVER"]

_PRESENCE: Final = sql("presence")
_SUBSCRIPTIONS: Final = sql("subscriptions")
_CLOCK: Final = sql("clock")
_SCHEMA_VERSION: Final = 'select max(version_num) from "eventstore".alembic_version'

SKEW_SECONDS: Final = 5.0


def _host_clock() -> datetime:
    return datetime.now(UTC)


now: Callable[[], datetime] = _host_clock


async def server(examination: Examination) -> Sequence[Finding]:
    """Version, and primary or standby."""
    major = examination.version // 10000
    if major < OLDEST_MAJOR:
        found, expected = f"PostgreSQL {examination.version_text}", f"PostgreSQL {OLDEST_MAJOR} or newer"
        return [Finding("server", Level.ERROR, found, expected, "upgrade the server (pg_upgrade)")]
    if examination.standby:
        found = f"PostgreSQL {examination.version_text}, a standby: it takes no appends, and cannot see who writes on the primary"
        return [Finding("server", Level.NOTE, found, "a primary, unless you only read")]
    return [Finding("server", Level.OK, f"PostgreSQL {examination.version_text}, a primary")]


async def schema(examination: Examination) -> Sequence[Finding]:
    """Is it there, and of the version that this library works with?"""
    name = examination.schema
    option = "" if name == DEFAULT_SCHEMA else f" --schema {name}"
    up = f"eventstore migrate up{option}"
    rows = await examination.rows(_PRESENCE)
    if not rows or not rows[0][0]:
        what = "has no tables of the event store" if rows else "is not there"
        return [Finding("schema", Level.ERROR, f"the schema {name!r} {what}", f"version {VERSION}", up)]
    examination.has_schema = True
    if not rows[0][1]:
        found = f"the role {examination.role!r} may not use the schema {name!r}"
        cure = f'grant "{name}_read" to {quoted(examination.role)};'
        return [Finding("schema", Level.ERROR, found, "a role that may read", cure)]
    try:
        version = int((await examination.rows(_SCHEMA_VERSION))[0][0] or 0)
    except PermissionDenied:
        found = f"the role {examination.role!r} may not read the version of the schema {name!r}"
        cure = f'grant "{name}_read" to {quoted(examination.role)};'
        return [Finding("schema", Level.ERROR, found, "a role that may read", cure)]
    examination.schema_version = version
    found = f"the schema {name!r} is at version {version}"
    if version < VERSION:
        return [Finding("schema", Level.ERROR, found, f"version {VERSION}", up)]
    if version > VERSION:
        cure = "pip install --upgrade pg-eventstore"
        return [Finding("schema", Level.ERROR, found, f"version {VERSION}: this library is older", cure)]
    return [Finding("schema", Level.OK, found)]


async def subscription(examination: Examination) -> Sequence[Finding]:
    """Is the log filled by logical replication?"""
    names = [row[0] for row in await examination.rows(_SUBSCRIPTIONS)]
    if not names:
        return [Finding("subscription", Level.OK, "the log is written here, not by logical replication")]
    return [
        Finding(
            "subscription",
            Level.ERROR,
            f"the subscription {name!r} of logical replication writes into events: positions arrive out of order, and who "
            "may still fill a hole cannot be seen here, so readers would skip events",
            "a log that is written here; read replicas are physical standbys",
            f"drop subscription {quoted(name)}; -- or take the table events out of its publication",
        )
        for name in names
    ]


async def clock(examination: Examination) -> Sequence[Finding]:
    """Do the clocks agree? Nothing rests on it."""
    before = now()
    there: datetime = (await examination.rows(_CLOCK))[0][0]
    seconds = abs((there - before).total_seconds())
    if seconds <= SKEW_SECONDS:
        return [Finding("clock", Level.OK, "this machine's clock agrees with the database's")]
    found = f"this machine's clock is {seconds:.0f} s off the database's; nothing rests on it, but times in logs differ"
    return [Finding("clock", Level.NOTE, found, f"less than {SKEW_SECONDS:.0f} s", "timedatectl set-ntp true")]


SERVER: Final = (Check("server", server), Check("schema", schema))
CHECKS: Final = (Check("subscription", subscription, needs_schema=True), Check("clock", clock))
