"""The protocol between operations and drivers: statements out, rows in."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

__all__ = ["Operation", "Pause", "Row", "Statement", "load_sql"]

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


Operation = Generator[Statement | Pause, Sequence[Row], T]
"""A generator that yields statements, is sent rows, and returns a T."""


def load_sql(folder: Path, name: str) -> str:
    """Return the SQL of the file `name` in `folder`, without its header comment."""
    lines = (folder / f"{name}.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))
