"""Failpoints: named places at which a test may end, stop, delay or break a process on purpose.

A module names its points when it is imported, and passes them like this::

    if armed:
        await hit(BEFORE_SEND)

Unset, that is one truth test of an empty dictionary (docs/testing.md has what it costs). What a point does when it is
armed is decided by `eventstore.testing.faults`; nothing in production code arms one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

__all__ = ["armed", "hit", "register", "registered"]

armed: Final[dict[str, Callable[[], Awaitable[None]]]] = {}
"""What happens at which point; empty in production."""

registered: Final[dict[str, str]] = {}
"""Every point of the modules imported so far: its name, and what holds there."""


def register(name: str, holds: str) -> str:
    """Name a point.

    Args:
        name: dotted, the part of the library first.
        holds: what has happened and what has not when it is passed.

    Returns:
        The name.
    """
    assert name not in registered, f"two failpoints are called {name}"
    registered[name] = holds
    return name


async def hit(name: str) -> None:
    """Pass a point: do what it is armed with, if anything."""
    strike = armed.get(name)
    if strike is not None:
        await strike()
