"""What lies in the schema, against what its files declare: tables, columns, constraints, indexes, triggers, functions.

What is expected is read from the files in ``sql/schema``, which are the database as it stands today; so is the cure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..schema import VERSION
from .examination import Check, Examination, sql
from .findings import Finding, Level

__all__ = ["Declared", "declared", "objects_check"]

_OBJECTS: Final = sql("objects")
_FUNCTION: Final = re.compile(
    r'^create function "eventstore"\.(\w+)\(.*?^as \$function\$(.*?)\$function\$;', re.DOTALL | re.MULTILINE
)
_TABLE: Final = re.compile(r'^create table "eventstore"\.(\w+) \((.*?)^\).*?;', re.DOTALL | re.MULTILINE)
_INDEX: Final = re.compile(r'^create (unique )?index (\w+) on "eventstore"\.(\w+).*?;', re.DOTALL | re.MULTILINE)
_TRIGGER: Final = re.compile(r'^create trigger (\w+).*? on "eventstore"\.(\w+).*?;', re.DOTALL | re.MULTILINE)
_CONSTRAINT: Final = re.compile(r"constraint (\w+) (.*)")
_SETTING: Final = re.compile(r"^set (\w+) = (.+)$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*--.*$", re.MULTILINE)

_LOST: Final = "what a missing table held is lost: restore the database from a backup; or, if it never held a row: "


@dataclass(frozen=True, slots=True)
class Declared:
    """One object that a file declares.

    Attributes:
        kind: table, column, constraint, index, trigger or function.
        name: its name.
        table: the table that it belongs to; empty for a function.
        detail: "unique" of an index; the body of a function.
        settings: of a function, one a line.
        cure: the SQL that makes it.
    """

    kind: str
    name: str
    table: str
    detail: str
    settings: str
    cure: str


def declared(folder: Path) -> tuple[Declared, ...]:
    """Return what the files in `folder` declare, written for the schema ``"eventstore"``."""
    texts = (file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.sql")))
    return tuple(one for text in texts for one in _of_file(text))


def _of_file(text: str) -> Iterator[Declared]:
    for match in _FUNCTION.finditer(text):
        head, body = match[0].partition("$function$")[0], match[2]
        settings = "\n".join(f"{name}={value}" for name, value in _SETTING.findall(head))
        cure = match[0].replace("create function", "create or replace function", 1)
        yield Declared("function", match[1], "", body, settings, cure)
    rest = _COMMENT.sub("", _FUNCTION.sub("", text))
    for match in _TABLE.finditer(rest):
        yield Declared("table", match[1], match[1], "", "", _LOST + " ".join(match[0].split()))
        for line in match[2].splitlines():
            yield from _of_line(match[1], line.strip().removesuffix(","))
    for match in _INDEX.finditer(rest):
        concurrently = match[0].replace(" index ", " index concurrently ", 1)
        yield Declared("index", match[2], match[3], "unique" if match[1] else "", "", concurrently)
    for match in _TRIGGER.finditer(rest):
        yield Declared("trigger", match[1], match[2], "", "", " ".join(match[0].split()))


def _of_line(table: str, line: str) -> Iterator[Declared]:
    if not line:
        return
    alter = f'alter table "eventstore".{table} add'
    if not line.startswith("constraint "):
        yield Declared("column", line.split(maxsplit=1)[0], table, "", "", f"{alter} column {line};")
    if constraint := _CONSTRAINT.search(line):
        yield Declared("constraint", constraint[1], table, "", "", f"{alter} constraint {constraint[1]} {constraint[2]};")


def objects_check(name: str, folder: Path) -> Check:
    """Return the check that everything which `folder` declares is there and in force."""
    expected = declared(folder)

    async def look(examination: Examination) -> Sequence[Finding]:
        if examination.schema_version != VERSION:
            found = f"not compared: the files are those of version {VERSION} of the schema"
            return [Finding(name, Level.NOTE, found)]
        rows = await examination.rows(_OBJECTS)
        there = {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
        bad = [finding for one in expected for finding in _compare(name, one, there, examination.schema)]
        return bad or [
            Finding(name, Level.OK, f"{len(expected)} tables, columns, indexes, triggers and functions are in place")
        ]

    return Check(name, look, needs_schema=True)


def _compare(name: str, one: Declared, there: dict[tuple[str, str, str], tuple[str, str]], schema: str) -> Iterator[Finding]:
    def swapped(text: str) -> str:
        return text.replace('"eventstore"', f'"{schema}"')

    def finding(level: Level, what: str, expected: str, cure: str) -> Finding:
        of = f" of {one.table}" if one.table and one.kind != "table" else ""
        return Finding(name, level, f"the {one.kind} {one.name}{of} {what}", expected, swapped(cure))

    state = there.get((one.kind, one.name, one.table))
    if state is None:
        if one.kind == "table" or ("table", one.table, one.table) in there or not one.table:
            yield finding(Level.ERROR, f"is missing from the schema {schema!r}", "as the migrations make it", one.cure)
        return
    at = f'"eventstore".{one.table}'
    if one.kind == "function":
        if state[0] != swapped(one.detail) or state[1] != one.settings:
            yield finding(Level.WARNING, "was changed", "as the migrations make it", one.cure)
    elif "invalid" in state[0]:
        yield finding(
            Level.ERROR,
            "is invalid: no query uses it",
            "a valid index",
            f'reindex index concurrently "eventstore".{one.name};',
        )
    elif one.detail == "unique" and state[1] != "unique":
        cure = f'drop index "eventstore".{one.name}; {one.cure}'
        yield finding(Level.ERROR, "is not unique", "a unique index", cure)
    elif "not validated" in state[0]:
        yield finding(Level.WARNING, "is not validated", "valid", f"alter table {at} validate constraint {one.name};")
    elif "disabled" in state[0]:
        cure = f"alter table {at} enable trigger {one.name};"
        yield finding(Level.ERROR, "is disabled: the log can be rewritten by mistake", "enabled", cure)
    if "unlogged" in state[0].split() and one.kind == "table":
        cure = f"alter table {at} set logged;"
        yield finding(Level.ERROR, "is UNLOGGED: a crash empties it", "a logged table", cure)
    if "unvacuumed" in state[0].split() and one.kind == "table":
        cure = f"alter table {at} reset (autovacuum_enabled);"
        yield finding(Level.WARNING, "is left out by autovacuum", "autovacuum", cure)
