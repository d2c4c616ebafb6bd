"""Runs frozen SQL files in a migration. Part of the migrations: uses nothing of the package that it lies beside.

The files are written for the schema ``"eventstore"``; that quoted identifier is swapped for the configured one, and
nothing else. Statements are run one by one, since some drivers take no more at a time.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

DEFAULT_SCHEMA = "eventstore"
LONGEST_SCHEMA = 50  # role names are the schema's name and a suffix, and PostgreSQL cuts names at 63 bytes
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

_TOKENS = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<quoted> '(?:[^']|'')*' | "(?:[^"]|"")*" | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<end> ; )
    | (?P<other> [^'"$;/-]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COLON = re.compile(r"(?<![:\w]):(?=\w)")


def check_schema(name: str) -> str:
    """Return `name` if it can be the schema's."""
    if not _SCHEMA.match(name) or len(name) > LONGEST_SCHEMA:
        raise ValueError(
            f"the schema's name must match [A-Za-z_][A-Za-z0-9_]* and have at most {LONGEST_SCHEMA} letters, got {name!r}"
        )
    return name


def statements(sql: str) -> Iterator[str]:
    """Split `sql` at the semicolons that end statements, leaving comments between statements out."""
    text = ""
    for token in _TOKENS.finditer(sql):
        if token["end"]:
            if text.strip():
                yield text.strip()
            text = ""
        elif not (token["comment"] and not text.strip()):
            text += token[0]
    if text.strip():
        yield text.strip()


def run_frozen(op: Any, file: str, schema: str = DEFAULT_SCHEMA) -> None:
    """Run one frozen file by Alembic's `op`, online or offline."""
    sql = (Path(__file__).parent / "sql" / file).read_text(encoding="utf-8")
    for statement in statements(sql.replace('"eventstore"', f'"{check_schema(schema)}"')):
        op.execute(sa.text(_COLON.sub(r"\\:", statement)))
