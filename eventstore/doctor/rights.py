"""Who may do what: the group roles, the role that looks, and whoever could rewrite the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .examination import Check, Examination, sql
from .findings import Finding, Level, quoted

__all__ = ["CHECKS", "Need", "right_check", "roles_check"]

_RIGHTS: Final = sql("rights")
_REWRITERS: Final = sql("rewriters")
_ROLE: Final = sql("role")
_PARTITIONS: Final = sql("partitions")


@dataclass(frozen=True, slots=True)
class Need:
    """One privilege that a kind of work needs. Object "" is the schema, column "" the whole object."""

    privilege: str
    object: str
    column: str = ""

    def grant(self, schema: str, role: str) -> str:
        """Return the statement that grants it."""
        where = f'"{schema}".{self.object}' if self.object else f'schema "{schema}"'
        what = f"{self.privilege} ({self.column})" if self.column else self.privilege
        return f"grant {what.lower()} on {where} to {quoted(role)};"


_READABLE: Final = (
    "events",
    "event_tags",
    "requests",
    "safe_mark",
    "time_marks",
    "alembic_version",
    "events_position_seq",
    "event_tags_seq_seq",
)
READ: Final = (
    Need("USAGE", ""),
    *(Need("SELECT", name) for name in _READABLE),
)
PUBLISH: Final = (Need("INSERT", "time_marks"), Need("UPDATE", "safe_mark", "position"))
APPEND: Final = (
    *(Need("INSERT", name) for name in ("events", "event_tags", "requests")),
    Need("DELETE", "requests"),
)
KINDS: Final[Mapping[str, tuple[Need, ...]]] = {"read": READ, "append": (*READ, *APPEND, *PUBLISH)}


async def _lacking(examination: Examination, wanted: Sequence[tuple[str, Need]]) -> dict[str, list[Need] | None]:
    """Return what each role lacks; None: there is no such role."""
    arguments = [[role, need.object, need.column, need.privilege] for role, need in wanted]
    rows = await examination.rows(_RIGHTS, *(list(column) for column in zip(*arguments, strict=True)))
    lacking: dict[str, list[Need] | None] = {role: [] for role, _ in wanted}
    for role, exists, object_, column, privilege, held in rows:
        if not exists:
            lacking[role] = None
        elif held is False:
            known = lacking[role]
            assert known is not None
            known.append(Need(privilege, object_, column))
    return lacking


def roles_check(name: str, kinds: Mapping[str, tuple[Need, ...]]) -> Check:
    """Return the check that the group roles ``<schema>_<kind>`` exist and may do what they are for."""

    async def look(examination: Examination) -> Sequence[Finding]:
        wanted = [(f"{examination.schema}_{kind}", need) for kind, needs in kinds.items() for need in needs]
        bad = list(_of_roles(name, examination.schema, wanted, await _lacking(examination, wanted)))
        names = ", ".join(f"{examination.schema}_{kind}" for kind in kinds)
        return bad or [Finding(name, Level.OK, f"{names} may do what they are for")]

    return Check(name, look, needs_schema=True)


def _of_roles(
    name: str, schema: str, wanted: Sequence[tuple[str, Need]], lacking: Mapping[str, list[Need] | None]
) -> Iterator[Finding]:
    for role, needs in lacking.items():
        if needs is None:
            grants = [need.grant(schema, role) for of, need in wanted if of == role]
            cure = " ".join([f"create role {quoted(role)} nologin;", *grants])
            found = f"the group role {role!r} is not there: nobody but the owner can be let in with one grant"
            yield Finding(name, Level.NOTE, found, "a role without login, to grant to users", cure)
        elif needs:
            cure = " ".join(need.grant(schema, role) for need in needs)
            what = ", ".join(cure_.split(" to ")[0].removeprefix("grant ") for cure_ in cure.split("; "))
            yield Finding(
                name, Level.WARNING, f"the group role {role!r} may not: {what}", "as the migrations grant it", cure
            )


def right_check(name: str, work: str, needs: tuple[Need, ...], sign: Need) -> Check:
    """Return the check whether the role that looks may do a kind of work; it need not.

    Args:
        name: of the check.
        work: what it is called.
        needs: what it takes.
        sign: who holds this one is meant to do it, and is warned if something else is lacking.
    """

    async def look(examination: Examination) -> Sequence[Finding]:
        me = examination.role
        lacks = (await _lacking(examination, [(me, need) for need in needs]))[me] or []
        if not lacks or sign in lacks:
            return [Finding(name, Level.OK, f"{me!r} may {'not ' if lacks else ''}{work}")]
        cure = " ".join(need.grant(examination.schema, me) for need in lacks)
        return [Finding(name, Level.WARNING, f"{me!r} may {work} in part only", "every grant that it takes", cure)]

    return Check(name, look, needs_schema=True)


async def role(examination: Examination) -> Sequence[Finding]:
    """What may the role do that looks?"""
    me, schema = examination.role, examination.schema
    can = {}
    for kind, needs in KINDS.items():
        can[kind] = (await _lacking(examination, [(me, need) for need in needs]))[me] or []
    if can["read"]:
        cure = f'grant "{schema}_read" to {quoted(me)};'
        what = can["read"][0].grant(schema, me).split(" to ")[0]
        return [Finding("role", Level.ERROR, f"{me!r} may not read the log (it lacks {what!r})", "a role that may", cure)]
    lacks = can["append"]
    may_insert = Need("INSERT", "events") not in lacks
    if lacks and may_insert:
        cure = " ".join(need.grant(schema, me) for need in lacks)
        found = f"{me!r} may append but not publish marks: as-of answers and the starts of readers fall behind"
        return [Finding("role", Level.WARNING, found, "both", cure)]
    rows = await examination.rows(_ROLE)
    if rows and (rows[0][0] or rows[0][1]):
        who = "a superuser" if rows[0][0] else "the log's owner"
        found = f"{me!r} is {who}: only a trigger keeps it from rewriting the log"
        cure = f'create role app login; grant "{schema}_append" to app; -- and use that one in applications'
        return [Finding("role", Level.NOTE, found, "applications of less privilege", cure)]
    return [Finding("role", Level.OK, f"{me!r} may read{' and append' if may_insert else '; it may not append'}")]


async def rewriting(examination: Examination) -> Sequence[Finding]:
    """Was anybody granted UPDATE, DELETE or TRUNCATE on the log?"""
    bad = []
    for table, grantee, privileges in await examination.rows(_REWRITERS):
        what = ", ".join(privileges)
        who = quoted(grantee) if grantee else "public"
        cure = f'revoke {what.lower()} on "{examination.schema}".{table} from {who};'
        found = f"{who} was granted {what} on {table}: only a trigger keeps the log from being rewritten"
        bad.append(Finding("rewriting", Level.WARNING, found, "nobody but the owner", cure))
    return bad or [Finding("rewriting", Level.OK, "nobody but the owner was granted the right to rewrite the log")]


async def partitions(examination: Examination) -> Sequence[Finding]:
    """Do rows get into the log past its own table, where no reader waits for them?"""
    bad = []
    for table, is_partition, unlogged, grantees in await examination.rows(_PARTITIONS):
        if not is_partition:
            found = f"{table} inherits from events: its rows are read as events, and nobody waits for their writers"
            cure = f'alter table {table} no inherit "{examination.schema}".events;'
            bad.append(Finding("partitions", Level.ERROR, found, "no inheritance", cure))
        if unlogged:
            found = f"the partition {table} is UNLOGGED: a crash empties it"
            bad.append(Finding("partitions", Level.ERROR, found, "a logged table", f"alter table {table} set logged;"))
        for grantee in grantees:
            found = (
                f"{grantee} may INSERT into {table}: a position chosen there may come before the lock that readers wait for"
            )
            cure = f"revoke insert on {table} from {grantee};"
            bad.append(Finding("partitions", Level.ERROR, found, "INSERT on events only", cure))
    return bad or [Finding("partitions", Level.OK, "nothing gets into the log past its own table")]


CHECKS: Final = (
    roles_check("roles", KINDS),
    Check("role", role, needs_schema=True),
    Check("rewriting", rewriting, needs_schema=True),
    Check("partitions", partitions, needs_schema=True),
)
