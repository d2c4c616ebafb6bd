"""Tells those who hold connections, locks or threads that this process is now a forked child.

What a child inherits is not its own: a socket that the parent goes on to use, a lock that a thread held which is not
here, a thread that is gone. Whoever registers throws such things away without touching them, and makes new ones when
next needed.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Forked", "register"]


class Forked(Protocol):
    """Somebody who must know."""

    def _forked(self) -> None:
        """Called in the child, before anything else runs there; no other thread exists yet. Must not block."""


_told: weakref.WeakSet[Forked] = weakref.WeakSet()


def register(one: Forked) -> None:
    """Have `one` told, in each child, as long as it lives."""
    _told.add(one)


def _tell() -> None:
    for one in list(_told):
        one._forked()


os.register_at_fork(after_in_child=_tell)
