"""The sequences: the settled mark and decisions over tags rest on how they are set (docs/ordering.md, docs/boundaries.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from .._operations.statement import Row
from .examination import Check, Examination, sql
from .findings import Finding, Level

__all__ = ["CHECKS"]

_SEQUENCE: Final = sql("sequence")
_POSITIONS: Final = sql("positions")
_TAG_NUMBERS: Final = sql("tag_numbers")

_LARGEST: Final = 2**63 - 1
NEARLY_FULL: Final = 0.9
"""The share of the sequence's range from which on it is said."""

NAME: Final = "sequence"


class Identity(NamedTuple):
    """A column that a sequence fills.

    Attributes:
        table, column: where.
        cached: what goes wrong if sessions keep ranges of it.
        skipping, falling: what goes wrong if it grows by more than one, or falls.
    """

    table: str
    column: str
    cached: str
    skipping: str
    falling: str

    @property
    def sequence(self) -> str:
        """The name of its sequence."""
        return f"{self.table}_{self.column}_seq"


POSITIONS: Final = Identity(
    "events",
    "position",
    "sessions give out positions long after they drew them, and readers skip events",
    "every second position is a hole that readers stop at",
    "positions do not grow",
)
TAGS: Final = Identity(
    "event_tags",
    "seq",
    "sessions give out numbers long after they drew them, and decisions overlook events",
    "numbers are wasted",
    "numbers do not grow, and decisions overlook events",
)


async def sequence(examination: Examination) -> Sequence[Finding]:
    """CACHE 1, increment 1, no cycle, the identities of events.position and event_tags.seq; not behind the log, room left."""
    at = f'"{examination.schema}".{POSITIONS.sequence}'
    bad, rows = await _bad_settings(examination, POSITIONS)
    if rows:
        highest, given = (await examination.rows(_POSITIONS))[0]
        if given < highest:
            found = f"{at} stands at {given}, behind the log's {highest}: a restore left it behind, appends are refused"
            cure = f"select setval('{at}', (select max(position) from \"{examination.schema}\".events)); "
            bad.append(Finding(NAME, Level.ERROR, found, f"at least {highest}", cure + "-- with all writers stopped"))
        largest = rows[0][3]
        if given > largest * NEARLY_FULL:
            found = f"{at} stands at {given} of {largest}"
            cure = f"alter sequence {at} maxvalue {_LARGEST};"
            bad.append(
                Finding(NAME, Level.WARNING, found, "room to grow", cure if largest < _LARGEST else "begin another log")
            )
    of_tags, rows = await _bad_settings(examination, TAGS)
    bad += of_tags
    if rows:
        highest, given = (await examination.rows(_TAG_NUMBERS))[0]
        if given < highest:
            at_tags = f'"{examination.schema}".{TAGS.sequence}'
            found = f"{at_tags} stands at {given}, behind the {highest} of a tag: a restore left it behind, decisions are refused"
            cure = _setval(at_tags, examination.schema, TAGS) + " -- with all writers stopped"
            bad.append(Finding(NAME, Level.ERROR, found, f"at least {highest}", cure))
    return bad or [Finding(NAME, Level.OK, f"{at} gives out positions one by one, {given} so far")]


async def _bad_settings(examination: Examination, of: Identity) -> tuple[list[Finding], Sequence[Row]]:
    at = f'"{examination.schema}".{of.sequence}'
    rows = await examination.rows(_SEQUENCE, of.table, of.column)
    if rows:
        return list(_set_up(at, examination.schema, of, *rows[0])), rows
    cure = f'alter table "{examination.schema}".{of.table} alter {of.column} add generated always as identity (cache 1); '
    cure += _setval(at, examination.schema, of)
    return [Finding(NAME, Level.ERROR, f"the sequence {at} is missing: nothing can be appended", "the identity", cure)], rows


def _setval(at: str, schema: str, of: Identity) -> str:
    return f"select setval('{at}', greatest((select max({of.column}) from \"{schema}\".{of.table}), 1));"


def _set_up(
    at: str, schema: str, of: Identity, cache: int, increment: int, cycle: bool, _largest: int, identity: str
) -> Iterator[Finding]:
    def error(found: str, expected: str, cure: str, level: Level = Level.ERROR) -> Finding:
        return Finding(NAME, level, f"{at} {found}", expected, cure)

    if cache != 1:
        found = f"has CACHE {cache}: {of.cached}"
        yield error(found, "CACHE 1", f"alter sequence {at} cache 1; -- then end every session that has appended")
    if increment != 1:
        found = f"has INCREMENT {increment}: {of.falling if increment < 0 else of.skipping}"
        yield error(found, "INCREMENT 1", f"alter sequence {at} increment 1;")
    if cycle:
        yield error("has CYCLE: it would begin again", "NO CYCLE", f"alter sequence {at} no cycle;")
    table = f'alter table "{schema}".{of.table} alter {of.column}'
    if identity in ("none", ""):
        # a sequence of that name that is not the column's: the identity cannot be made while the name is taken
        cure = f"alter sequence {at} rename to {of.sequence}_stray; {table} add generated always as identity (cache 1); "
        yield error(
            f"is not the identity of {of.table}.{of.column}", "the column's own sequence", cure + _setval(at, schema, of)
        )
    elif identity == "d":
        found = "is the identity BY DEFAULT: an INSERT may choose its number, behind the readers' backs"
        yield error(found, "GENERATED ALWAYS", f"{table} set generated always;", Level.WARNING)


CHECKS: Final = (Check(NAME, sequence, needs_schema=True),)
