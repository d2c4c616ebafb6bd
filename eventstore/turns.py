"""Turns: who has lost a race for a tag takes turns with the others of this process that have, instead of racing them again.

A hint, not a lock that anything rests on: what is decided is judged by the database alone. Without it three hundred callers that
want the same tag at once make some five thousand decisions, and many give up; with it each makes two or three.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from weakref import WeakValueDictionary

__all__ = ["BlockingTurns", "Turns"]


class Turns:
    """Of the tasks of one event loop."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def at(self, tags: Iterable[str]) -> AsyncIterator[None]:
        """Wait until it is one's turn at each of the tags, in an order that cannot close a circle; keep it for the block."""
        locks = [self._locks.setdefault(tag, asyncio.Lock()) for tag in sorted(tags)]
        async with contextlib.AsyncExitStack() as stack:
            for lock in locks:
                await stack.enter_async_context(lock)
            yield


class BlockingTurns:
    """Of the threads of one process."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, _Lock] = WeakValueDictionary()
        self._guard = threading.Lock()

    @contextlib.contextmanager
    def at(self, tags: Iterable[str]) -> Iterator[None]:
        """As `Turns.at`."""
        with self._guard:
            locks = [self._locks.setdefault(tag, _Lock()) for tag in sorted(tags)]
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock.lock)
            yield


class _Lock:
    """A lock that can be referred to weakly."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
