"""The blocking store with the async store's methods, so that one suite of tests runs on both.

Each call runs in a thread: plain ones in any of the event loop's, those of a transaction in one of its own, since it belongs
to a thread, and each subscription in one of its own, since it may wait there for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, TypeVar

from .. import sync
from ..events import Appended, Recorded
from ..streams import Position
from ..turns import Turns

__all__ = ["Awaitable"]

T = TypeVar("T")
E = TypeVar("E")
_END = object()


class Awaitable:
    """An async face of a blocking store.

    Args:
        store: not open yet, or open.
    """

    def __init__(self, store: sync.EventStore) -> None:
        self._store = store
        self._turns = Turns()

    def __getattr__(self, name: str) -> Any:  # of the store: context, wake, dsn, schema
        return getattr(self._store, name)

    async def open(self) -> Awaitable:
        """As the store's, and so are all the others."""
        await asyncio.to_thread(self._store.open)
        return self

    async def close(self) -> None:
        """Close the store."""
        await asyncio.to_thread(self._store.close)

    async def __aenter__(self) -> Awaitable:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def append(self, stream_id: str, events: object, **options: Any) -> Appended:  # those of the store's append
        """Append."""
        return await asyncio.to_thread(self._store.append, stream_id, events, **options)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AwaitableTransaction]:
        """Begin a transaction, and end it."""
        block = self._store.transaction()
        thread = _Thread()
        transaction = AwaitableTransaction(await thread.call(block.__enter__), thread)
        try:
            yield transaction
        except BaseException as error:
            if not await asyncio.shield(thread.call(block.__exit__, type(error), error, error.__traceback__)):
                raise
        else:
            await thread.call(block.__exit__, None, None, None)

    def join(self, connection: object) -> AwaitableTransaction:
        """Join a psycopg connection."""
        return AwaitableTransaction(self._store.join(connection))

    def read_stream(self, stream_id: str, **options: Any) -> AsyncGenerator[Recorded[Any], None]:  # of the store's
        """Read a stream."""
        return _iterated(self._store.read_stream(stream_id, **options))

    def read_all(self, **options: Any) -> AwaitableReader[Any]:  # those of the store's read_all
        """Read the log."""
        return AwaitableReader(self._store.read_all(**options))

    def subscribe(self, **options: Any) -> AwaitableSubscription[Any]:  # those of the store's subscribe
        """Follow the log."""
        return AwaitableSubscription(self._store.subscribe(**options))

    async def head(self) -> Position:
        """Return the head."""
        return await asyncio.to_thread(self._store.head)

    async def stream_version(self, stream_id: str) -> int:
        """Return a stream's version."""
        return await asyncio.to_thread(self._store.stream_version, stream_id)

    async def _append(self, *args: Any) -> Any:  # those of the store's, and what it returns
        return await asyncio.to_thread(self._store._append, *args)

    async def _append_together(self, *args: Any) -> Any:  # as above
        return await asyncio.to_thread(self._store._append_together, *args)

    async def _read_boundary(self, *args: Any) -> Any:  # as above
        return await asyncio.to_thread(self._store._read_boundary, *args)


class _Thread:
    """One thread, which makes its calls one after the other: one that was cancelled meanwhile is waited for by the next.

    It ends when nobody holds this any more.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="eventstore-transaction")

    async def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:  # whatever function takes
        """Call a function there."""
        call = functools.partial(contextvars.copy_context().run, function, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


class AwaitableTransaction:
    """An async face of a blocking transaction, which belongs to one thread."""

    def __init__(self, transaction: sync.Transaction, thread: _Thread | None = None) -> None:
        self._transaction, self._thread = transaction, thread or _Thread()
        self._turns = None

    def __getattr__(self, name: str) -> Any:  # of the transaction: appended, appended_ids, connection
        return getattr(self._transaction, name)

    async def append(self, stream_id: str, events: object, **options: Any) -> Appended:  # those of the transaction's append
        """Append."""
        return await self._thread.call(self._transaction.append, stream_id, events, **options)

    async def read_stream(self, stream_id: str, **options: Any) -> list[Recorded[Any]]:  # those of its read_stream
        """Read a stream."""
        return await self._thread.call(self._transaction.read_stream, stream_id, **options)

    async def stream_version(self, stream_id: str) -> int:
        """Return a stream's version."""
        return await self._thread.call(self._transaction.stream_version, stream_id)

    async def _append(self, *args: Any) -> Any:  # those of the transaction's, and what it returns
        return await self._thread.call(self._transaction._append, *args)

    async def _append_together(self, *args: Any) -> Any:  # as above
        return await self._thread.call(self._transaction._append_together, *args)

    async def _read_boundary(self, *args: Any) -> Any:  # as above
        return await self._thread.call(self._transaction._read_boundary, *args)


class AwaitableReader(Generic[E]):
    """An async face of a blocking reader."""

    def __init__(self, reader: sync.LogReader[E]) -> None:
        self._reader = reader

    @property
    def settled(self) -> bool | None:
        """As the reader's."""
        return self._reader.settled

    def __aiter__(self) -> AsyncGenerator[Recorded[E], None]:
        return _iterated(iter(self._reader))


class AwaitableSubscription(Generic[E]):
    """An async face of a blocking subscription. Cancelling a wait for it ends it: its thread would wait on."""

    def __init__(self, live: sync.Subscription[E]) -> None:
        self._live = live
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="eventstore-subscription")

    async def __aenter__(self) -> AwaitableSubscription[E]:
        await self._call(self._live.__enter__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.close()
        await asyncio.to_thread(self._thread.shutdown)
        self._live.__exit__(kind, error, trace)

    @property
    def position(self) -> int:
        """As the subscription's."""
        return self._live.position

    def __aiter__(self) -> AsyncGenerator[Recorded[E], None]:
        return _iterated(iter(self._live), self._call)

    def batches(self, **options: Any) -> AsyncGenerator[Any, None]:  # options and batches of the subscription
        """Yield batches."""
        return _iterated(self._live.batches(**options), self._call)

    async def _call(self, function: Callable[..., T], *args: Any) -> T:  # whatever function takes
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        except asyncio.CancelledError:
            self._live.close()
            raise


async def _iterated(
    iterator: Iterator[T],
    call: Callable[..., Any] = asyncio.to_thread,  # runs a function elsewhere
) -> AsyncGenerator[T, None]:
    while (value := await call(next, iterator, _END)) is not _END:
        yield value
