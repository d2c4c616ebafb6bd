"""The protocol between operations and drivers: statements out, rows in."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

__all__ = ["SAVEPOINT", "UNDO", "UNSAVE", "Operation", "Pause", "Row", "Savepoint", "Statement", "load_sql"]

T = TypeVar("T")

Row = Sequence[Any]
"""A row as drivers give it: values by index. asyncpg's Record and a tuple both will do."""


class Statement(NamedTuple):
    """One statement with its parameters; `sql` is written for the schema ``"eventstore"``, drivers swap it."""

    sql: str
    args: tuple[Any, ...] = ()  # whatever PostgreSQL takes


@dataclass(frozen=True, slots=True)
class Pause:
    """Let this many seconds pass; the driver holds nothing open meanwhile but the connection."""

    seconds: float


SAVEPOINT: Final = "savepoint eventstore_append"
UNSAVE: Final = "release savepoint eventstore_append"
UNDO: Final = "rollback to savepoint eventstore_append"
"""How drivers make, forget and return to the savepoint of a `Savepoint`. In plain SQL, since a transaction may have been
begun in ways that the driver's own object for transactions knows nothing of. One name will do: savepoints of one name hide
each other, the latest first."""


@dataclass(frozen=True, slots=True)
class Savepoint:
    """Run a statement in a savepoint of its own: if it fails, or the caller is cancelled while it runs, it never was.

    Drivers do it, since only they can still send something after a cancellation.
    """

    statement: Statement


Operation = Generator[Statement | Savepoint | Pause, Sequence[Row], T]
"""A generator that yields statements, is sent rows, and returns a T."""


def load_sql(folder: Path, name: str) -> str:
    """Return the SQL of the file `name` in `folder`, without its header comment."""
    lines = (folder / f"{name}.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))
