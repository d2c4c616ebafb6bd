"""Faults on purpose: what happens at the library's failpoints (crash points).

::

    with faults.armed("runner.before_commit", faults.Raise(ConnectionLost("cut"))):
        ...

In a child process that is to die at a point, arm what the parent put into its environment::

    faults.arm_from_environment()  # EVENTSTORE_FAILPOINT="runner.before_commit:kill@3;append.before_send:sleep=0.1"

`points()` lists every point with what holds there. Nothing else in the library arms a point: production code cannot be
made to fail from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from .. import _failpoints
from ..errors import ConnectionLost, InvalidArgument

__all__ = [
    "VARIABLE",
    "Action",
    "Fault",
    "Hang",
    "Kill",
    "Raise",
    "Sleep",
    "Stop",
    "arm",
    "arm_from_environment",
    "armed",
    "disarm",
    "points",
]

VARIABLE: Final = "EVENTSTORE_FAILPOINT"
"""The environment variable that `arm_from_environment` reads."""


@dataclass(frozen=True, slots=True)
class Kill:
    """End this process at once, without any cleanup (SIGKILL)."""

    async def strike(self) -> None:
        """Do it."""
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop this process until somebody sends it SIGCONT: a zombie that believes it is alive."""

    async def strike(self) -> None:
        """Do it."""
        os.kill(os.getpid(), signal.SIGSTOP)


@dataclass(frozen=True, slots=True)
class Sleep:
    """Let so many seconds pass; other tasks run on."""

    seconds: float

    async def strike(self) -> None:
        """Do it."""
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True, slots=True)
class Raise:
    """Raise this error."""

    error: BaseException = field(default_factory=lambda: ConnectionLost("a failpoint says so"))

    async def strike(self) -> None:
        """Do it."""
        raise self.error


@dataclass(frozen=True, slots=True)
class Hang:
    """Never go on, until the task is cancelled."""

    async def strike(self) -> None:
        """Do it."""
        await asyncio.get_running_loop().create_future()


Action = Kill | Stop | Sleep | Raise | Hang
"""What may happen at a point."""


@dataclass(slots=True)
class Fault:
    """A point that is armed.

    Attributes:
        point: its name.
        action: what happens there.
        at: at which hit it strikes, counted from 1; 0: at every hit.
        hits: how often the point was passed since.
        struck: set once it has struck.
    """

    point: str
    action: Action
    at: int = 1
    hits: int = 0
    struck: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> None:
        """Count a hit, and strike if it is the one."""
        self.hits += 1
        if self.at in (0, self.hits):
            self.struck.set()
            await self.action.strike()


def points() -> Mapping[str, str]:
    """Return every point of the modules imported so far: its name, and what holds there."""
    return dict(_failpoints.registered)


def arm(point: str, action: Action, *, at: int = 1) -> Fault:
    """Arm a point.

    Args:
        point: one of `points()`.
        action: what happens there.
        at: at which hit, counted from 1; 0: at every one.

    Raises:
        InvalidArgument: there is no such point.
    """
    if point not in _failpoints.registered:
        known = ", ".join(sorted(_failpoints.registered))
        raise InvalidArgument(f"there is no failpoint {point!r}; there are {known}")
    fault = Fault(point, action, at)
    _failpoints.armed[point] = fault
    return fault


def disarm() -> None:
    """Disarm every point."""
    _failpoints.armed.clear()


@contextlib.contextmanager
def armed(point: str, action: Action, *, at: int = 1) -> Iterator[Fault]:
    """Arm a point inside a ``with`` block. Arguments as for `arm`."""
    fault = arm(point, action, at=at)
    try:
        yield fault
    finally:
        _failpoints.armed.pop(point, None)


def arm_from_environment(text: str | None = None) -> list[Fault]:
    """Arm what ``EVENTSTORE_FAILPOINT`` (or `text`) says: ``point:action[=seconds][@hit]``, several with semicolons.

    Raises:
        InvalidArgument: it cannot be understood.
    """
    text = os.environ.get(VARIABLE, "") if text is None else text
    return [_parsed(part) for part in text.split(";") if part.strip()]


def _parsed(text: str) -> Fault:
    point, _, rest = text.strip().partition(":")
    rest, _, at = rest.partition("@")
    kind, _, value = rest.partition("=")
    simple: dict[str, Action] = {"kill": Kill(), "stop": Stop(), "hang": Hang(), "raise": Raise()}
    try:
        action: Action = Sleep(float(value)) if kind == "sleep" else simple[kind]
        return arm(point, action, at=int(at or 1))
    except (KeyError, ValueError):
        raise InvalidArgument(
            f"expected point:kill, stop, hang, raise or sleep=SECONDS, and @N for the Nth hit, got {text!r}"
        ) from None
