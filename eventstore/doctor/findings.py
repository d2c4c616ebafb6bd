"""What a check says: one finding or several, each with its cure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Finding", "Level", "Report", "quoted"]


class Level(enum.IntEnum):
    """How bad it is, in order.

    OK: as it should be. NOTE: worth knowing, nothing to do. WARNING: it works, but a promise is weaker than you may think, or
    it will stop working. ERROR: a promise is broken, or the store cannot be used.
    """

    OK = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check has found.

    Attributes:
        check: the check's name, stable: monitoring scripts may rest on it.
        level: how bad it is.
        found: what is there.
        expected: what should be; empty where nothing is wrong.
        cure: the command or the SQL that cures it, to be pasted; empty where nothing is to be done.
    """

    check: str
    level: Level
    found: str
    expected: str = ""
    cure: str = ""

    def document(self) -> Mapping[str, str]:
        """Return it as the JSON document that ``eventstore doctor --json`` prints."""
        level = self.level.name.lower()
        return {"check": self.check, "level": level, "found": self.found, "expected": self.expected, "cure": self.cure}


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found, in the order of the checks; at least one finding a check."""

    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The worst of them."""
        return max((finding.level for finding in self.findings), default=Level.OK)


def quoted(name: str) -> str:
    """Return `name` as an SQL identifier, for a cure."""
    return '"' + name.replace('"', '""') + '"'
