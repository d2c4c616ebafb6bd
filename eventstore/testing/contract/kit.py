"""What the contract's tests are made of: their events, what they expect of a store, and a few words to say it with."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Annotated, Any, Final, Generic, Protocol, TypeVar

from pydantic import BaseModel

from ...context import Context
from ...events import Appended, Recorded
from ...serialization import EventType
from ...streams import ANY, Expectation, Position
from ...tags import Tag

__all__ = [
    "EVENTS",
    "PATIENCE",
    "Deposited",
    "Enrolled",
    "Everything",
    "Noted",
    "Opened",
    "Reader",
    "Store",
    "Subscriber",
    "Tx",
    "Unregistered",
    "amounts",
    "collect",
    "entered",
    "gathered",
    "new_stream",
    "refused",
    "within",
]

T = TypeVar("T")
X = TypeVar("X", bound=Exception)

PATIENCE: Final = 20.0
"""Seconds that anything may take before a test fails instead of waiting on: far above what it takes."""


class Opened(BaseModel):
    """A first event."""

    owner: str


class Deposited(BaseModel):
    """A small event, told apart by its number."""

    amount: int


class Noted(BaseModel):
    """An event as large as its text."""

    text: str


class Enrolled(BaseModel):
    """An event that declares tags."""

    course: Annotated[uuid.UUID, Tag("course")]
    student: Annotated[int, Tag("student")] | None


class Everything(BaseModel):
    """Every kind of value that must come back as it went."""

    text: str
    number: int
    ratio: float
    price: Decimal
    at: datetime
    name: uuid.UUID
    raw: bytes
    flag: bool
    nothing: str | None
    notes: Mapping[str, Sequence[int]]
    inner: Deposited


@dataclass(frozen=True)
class Unregistered:
    """A class that no store of the contract knows."""


EVENTS: Final = tuple(
    EventType(cls, f"contract_{cls.__name__.lower()}") for cls in (Opened, Deposited, Noted, Enrolled, Everything)
)
"""What the store under test must know: ``EventStore(url, events=EVENTS)``. Their type names are nobody else's."""


class Tx(Protocol):
    """What a transaction offers, whatever it runs on."""

    async def append(
        self, stream_id: str, events: object, *, expect: int | Expectation = ANY, request_id: str | None = None
    ) -> Appended:
        """Append, committed with the transaction."""

    async def read_stream(
        self,
        stream_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> Sequence[Recorded[Any]]:
        """Read a stream, own appends included."""

    async def stream_version(self, stream_id: str) -> int:
        """Say how long a stream is, own appends included."""


class Reader(Protocol):
    """What `read_all` returns."""

    settled: bool | None

    def __aiter__(self) -> AsyncIterator[Recorded[Any]]: ...


class Subscriber(Protocol):
    """What `subscribe` returns."""

    @property
    def position(self) -> int:
        """How far it has delivered."""

    async def __aenter__(self) -> Any: ...  # itself

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __aiter__(self) -> AsyncIterator[Recorded[Any]]: ...


class Store(Protocol):
    """What a store offers, whatever it runs on."""

    async def open(self) -> Any:  # itself
        """Be ready."""

    async def close(self) -> None:
        """Refuse new calls."""

    async def append(
        self, stream_id: str, events: object, *, expect: int | Expectation = ANY, request_id: str | None = None
    ) -> Appended:
        """Append in a transaction of its own."""

    def transaction(self) -> AbstractAsyncContextManager[Tx]:
        """Begin a transaction."""

    def context(
        self,
        *,
        correlation_id: str | None = None,
        causation_id: uuid.UUID | None = None,
        actor: str | None = None,
        **metadata: Any,
    ) -> AbstractContextManager[Context]:
        """Set what is written beside events."""

    def wake(self) -> None:
        """Hint that something was committed."""

    def read_stream(
        self,
        stream_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[Recorded[Any]]:
        """Read a stream."""

    def read_all(
        self,
        *,
        after: int = 0,
        limit: int | None = None,
        types: Sequence[type | str] | None = None,
        categories: Sequence[str] | None = None,
        settle: float = 1.0,
    ) -> Reader:
        """Read the log."""

    def subscribe(
        self, *, after: int = 0, types: Sequence[type | str] | None = None, categories: Sequence[str] | None = None
    ) -> Subscriber:
        """Follow the log."""

    async def head(self) -> Position:
        """Say how far the log goes."""

    async def stream_version(self, stream_id: str) -> int:
        """Say how long a stream is."""


class Refusal(Generic[X]):
    """A block that is to be refused.

    Attributes:
        error: why it was, once it was.
    """

    error: X

    def __init__(self, kind: type[X], words: tuple[str, ...]) -> None:
        self._kind, self._words = kind, words

    def __enter__(self) -> Refusal[X]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        assert error is not None, f"expected {self._kind.__name__}, and nothing was raised"
        if not isinstance(error, self._kind):
            return False
        self.error = error
        missing = [word for word in self._words if word not in str(error)]
        assert not missing, f"the message should say {missing}: {error}"
        return True


def refused(kind: type[X], *words: str) -> Refusal[X]:
    """Expect a block to be refused with an error of this class, whose message holds these words."""
    return Refusal(kind, words)


def new_stream(category: str = "") -> str:
    """Return the id of a stream that nobody has used: the contract needs no empty database."""
    return f"{category or 'contract'}-{uuid.uuid4().hex}"


async def within(work: Awaitable[T]) -> T:
    """Return what `work` returns; fail if it takes too long."""
    async with asyncio.timeout(PATIENCE):
        return await work


async def gathered(*work: Awaitable[T]) -> list[T | BaseException]:
    """Run all at once; return what each returned or raised."""
    return await within(asyncio.gather(*work, return_exceptions=True))


async def collect(events: Any) -> list[Recorded[Any]]:  # a Reader, or what read_stream returns
    """Return all events of a reader."""
    return [recorded async for recorded in events]


async def entered(block: AbstractAsyncContextManager[object]) -> None:
    """Enter a block, and leave it at once."""
    async with block:
        pass


async def amounts(store: Store, stream_id: str) -> list[int]:
    """Return the amounts of a stream of `Deposited`, after checking that its versions have no hole."""
    events = await collect(store.read_stream(stream_id))
    assert [recorded.version for recorded in events] == list(range(1, len(events) + 1))
    return [recorded.data.amount for recorded in events]
