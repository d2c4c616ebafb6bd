"""Runs an iterator one item ahead, in a thread: what comes next is made while the server works on what came before.

The thread is a daemon: an iterator that waits for a terminal or a pipe must not keep a process that wants to end. One
item is made ahead, never more, so memory is bounded by two of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Generic, TypeVar

__all__ = ["Ahead"]

T = TypeVar("T")

LEAVE_SECONDS: Final = 1.0
"""How long leaving waits for the item under way, so that the iterator is no longer running when its owner closes it."""


class Ahead(Generic[T]):
    """An async iterator over the items of a blocking one. An async context manager; iterate inside.

    Raises, from iterating: whatever the iterator raised, at its place.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._wanted: queue.SimpleQueue[asyncio.Future[T | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="eventstore-ahead", daemon=True)

    async def __aenter__(self) -> Ahead[T]:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self._next = self._ask()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wanted.put(None)
        await asyncio.wait({self._next}, timeout=LEAVE_SECONDS)
        if self._next.done() and not self._next.cancelled():
            self._next.exception()  # an error in what nobody asked for any more

    def __aiter__(self) -> Ahead[T]:
        return self

    async def __anext__(self) -> T:
        item = await asyncio.shield(self._next)
        if item is None:
            raise StopAsyncIteration
        self._next = self._ask()
        return item

    def _ask(self) -> asyncio.Future[T | None]:
        future: asyncio.Future[T | None] = self._loop.create_future()
        self._wanted.put(future)
        return future

    def _work(self) -> None:
        while (future := self._wanted.get()) is not None:
            item: T | None = None
            error: BaseException | None = None
            try:
                item = next(self._items, None)
            except BaseException as raised:  # handed over whole
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever asked
                self._loop.call_soon_threadsafe(_answer, future, item, error)


def _answer(future: asyncio.Future[T | None], item: T | None, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(item)
