"""Correlation, causation and actor: said once around a piece of work, written beside every event in it.

The context lives in a `contextvars.ContextVar`: it follows `await` and tasks started inside, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

__all__ = ["Context", "current_context", "use_context"]


@dataclass(frozen=True, slots=True)
class Context:
    """What `store.context(...)` says about the work under way.

    Attributes:
        correlation_id: the request or business process that all of it belongs to.
        causation_id: the id of the event that caused it.
        metadata: written into each event's metadata; `actor` is one key of it.
    """

    correlation_id: str | None = None
    causation_id: UUID | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)  # user's own JSON


_current: ContextVar[Context] = ContextVar("eventstore_context", default=Context())


def current_context() -> Context:
    """Return the context of the running task; an empty one where none was set."""
    return _current.get()


@contextmanager
def use_context(
    *, correlation_id: str | None = None, causation_id: UUID | None = None, actor: str | None = None, **metadata: Any
) -> Iterator[Context]:
    """Set the context inside a `with` block; what is not given is inherited from the context around it."""
    outer = _current.get()
    added = metadata if actor is None else {"actor": actor, **metadata}
    context = replace(
        outer,
        correlation_id=outer.correlation_id if correlation_id is None else correlation_id,
        causation_id=outer.causation_id if causation_id is None else causation_id,
        metadata={**outer.metadata, **added},
    )
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
