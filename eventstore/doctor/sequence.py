"""The sequence of positions: the settled mark rests on how it is set (docs/ordering.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from .examination import Check, Examination, sql
from .findings import Finding, Level

__all__ = ["CHECKS"]

_SEQUENCE: Final = sql("sequence")
_POSITIONS: Final = sql("positions")

_LARGEST: Final = 2**63 - 1
NEARLY_FULL: Final = 0.9
"""The share of the sequence's range from which on it is said."""

NAME: Final = "sequence"


async def sequence(examination: Examination) -> Sequence[Finding]:
    """CACHE 1, increment 1, no cycle, the identity of events.position, not behind the log, room left."""
    at = f'"{examination.schema}".events_position_seq'
    rows = await examination.rows(_SEQUENCE)
    if not rows:
        cure = f'alter table "{examination.schema}".events alter position add generated always as identity (cache 1);'
        cure += f" select setval('{at}', greatest((select max(position) from \"{examination.schema}\".events), 1));"
        return [Finding(NAME, Level.ERROR, f"the sequence {at} is missing: nothing can be appended", "the identity", cure)]
    bad = list(_set_up(at, examination.schema, *rows[0]))
    highest, given = (await examination.rows(_POSITIONS))[0]
    if given < highest:
        found = f"{at} stands at {given}, behind the log's {highest}: a restore left it behind, appends are refused"
        cure = f"select setval('{at}', (select max(position) from \"{examination.schema}\".events)); -- with all writers stopped"
        bad.append(Finding(NAME, Level.ERROR, found, f"at least {highest}", cure))
    largest = rows[0][3]
    if given > largest * NEARLY_FULL:
        found = f"{at} stands at {given} of {largest}"
        cure = f"alter sequence {at} maxvalue {_LARGEST};"
        bad.append(Finding(NAME, Level.WARNING, found, "room to grow", cure if largest < _LARGEST else "begin another log"))
    return bad or [Finding(NAME, Level.OK, f"{at} gives out positions one by one, {given} so far")]


def _set_up(
    at: str, schema: str, cache: int, increment: int, cycle: bool, _largest: int, identity: str
) -> Iterator[Finding]:
    def error(found: str, expected: str, cure: str, level: Level = Level.ERROR) -> Finding:
        return Finding(NAME, level, f"{at} {found}", expected, cure)

    if cache != 1:
        found = f"has CACHE {cache}: sessions give out positions long after they drew them, and readers skip events"
        yield error(found, "CACHE 1", f"alter sequence {at} cache 1; -- then end every session that has appended")
    if increment != 1:
        found = f"has INCREMENT {increment}: " + (
            "positions do not grow" if increment < 0 else "every second position is a hole that readers stop at"
        )
        yield error(found, "INCREMENT 1", f"alter sequence {at} increment 1;")
    if cycle:
        yield error("has CYCLE: it would begin again", "NO CYCLE", f"alter sequence {at} no cycle;")
    table = f'alter table "{schema}".events alter position'
    if identity in ("none", ""):
        # a sequence of that name that is not the column's: the identity cannot be made while the name is taken
        cure = (
            f"alter sequence {at} rename to events_position_seq_stray; {table} add generated always as identity (cache 1);"
        )
        cure += f" select setval('{at}', greatest((select max(position) from \"{schema}\".events), 1));"
        yield error("is not the identity of events.position", "the column's own sequence", cure)
    elif identity == "d":
        found = "is the identity BY DEFAULT: an INSERT may choose its position, behind the readers' backs"
        yield error(found, "GENERATED ALWAYS", f"{table} set generated always;", Level.WARNING)


CHECKS: Final = (Check(NAME, sequence, needs_schema=True),)
