"""Request ids besides the append's own: what a transaction leaves behind, asking for it, and pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..events import Appended
from .statement import Operation, Statement, load_sql

__all__ = ["find", "note", "prune", "wait"]

_QUERIES: Final = Path(__file__).parent.parent / "sql" / "queries"
_NOTE: Final = load_sql(_QUERIES, "note_transaction")
_WAIT: Final = load_sql(_QUERIES, "await_request")
_FIND: Final = load_sql(_QUERIES, "find_request")
_PRUNE: Final = load_sql(_QUERIES, "prune_requests")


def note(tenant_id: str, request_id: str, stream_id: str, done: Appended) -> Operation[None]:
    """Note in an open transaction that it is about to be committed, by its last append."""
    yield Statement(_NOTE, (tenant_id, request_id, stream_id, done.first_version, done.version, done.position))


def wait(tenant_id: str, request_id: str) -> Operation[None]:
    """Wait until no transaction is at work on the request; in a transaction, keep others out of it.

    Raises (thrown in by the driver): LockTimeout: one is, still.
    """
    yield Statement(_WAIT, (tenant_id, request_id))


def find(tenant_id: str, request_id: str) -> Operation[bool]:
    """Return whether the request was committed."""
    return bool((yield Statement(_FIND, (tenant_id, request_id))))


def prune(older_than_seconds: float, most: int) -> Operation[int]:
    """Forget at most so many of the oldest requests; return how many there were."""
    return len((yield Statement(_PRUNE, (older_than_seconds, most))))
