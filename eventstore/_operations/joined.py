"""Append inside a transaction that is not ours: whatever goes wrong with the append, the transaction stays usable.

Each attempt runs in a savepoint (`Savepoint`, made by the driver), the only place where one is asked for.

**Isolation.** Under READ COMMITTED a statement sees what was committed before it: whoever is appending to the stream is
waited for, and a version lost to somebody who takes no lock on it is tried again. Under REPEATABLE READ and SERIALIZABLE every
attempt would see the snapshot that the transaction began with and lose again: `Retryable` says to run the whole transaction
again. A conflict that the snapshot shows is a `VersionConflict` under each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from ..errors import LockTimeout, Retryable, SchemaMissing, UniqueViolation
from ..events import Appended
from .append import (
    RACES,
    Landed,
    Outcome,
    outcomes_of,
    refuse_reused_position,
    settle,
    settle_together,
    statement_of,
    together_statement,
)
from .boundary import Seen
from .prepare import PreparedAppend
from .statement import Operation, Savepoint, Statement

__all__ = ["append_joined", "append_joined_together"]

_SEES_LATER_COMMITS: Final = "select current_setting('transaction_isolation') like 'read %'"

_OVERTAKEN: Final = ("40001", "40P01")
"""Serialization failure and deadlock: what the transaction has read or locked is part of the trouble."""


def append_joined(one: PreparedAppend, schema: str) -> Operation[tuple[Appended, Mapping[str, Seen] | None]]:
    """Send one append as a part of the transaction that is open on the connection; return its result, and `Landed.written`.

    Args:
        one: the append.
        schema: the schema's name, for messages.

    Raises:
        VersionConflict, BoundaryConflict: the stream is not where it was expected, as far as the transaction sees; what the
            decision rests on has changed.
        IdempotencyMismatch: the request id, or the event ids, stand for other content.
        Retryable: the stream was appended to since the transaction's snapshot was taken, or the server broke a deadlock.
        LockTimeout, SequenceBehind and others: nothing was written. In all cases the transaction is as it was before.
    """
    (outcome,) = yield from _send([one], statement_of([one], waiting=True), schema)
    done = yield from settle(one, outcome)
    return done, outcome.written if isinstance(outcome, Landed) else None


def append_joined_together(ones: Sequence[PreparedAppend], schema: str) -> Operation[list[Appended]]:
    """As `append_joined`, for several appends, all or none."""
    outcomes = yield from _send(ones, together_statement(ones), schema)
    return (yield from settle_together(ones, outcomes))


def _send(ones: Sequence[PreparedAppend], statement: Statement, schema: str) -> Operation[list[Outcome]]:
    one = ones[0]
    for _ in range(RACES):
        try:
            rows = yield Savepoint(statement)
        except UniqueViolation as error:
            refuse_reused_position(error, schema)
            if not (yield Statement(_SEES_LATER_COMMITS))[0][0]:
                raise _overtaken(one, error) from error
        except (Retryable, SchemaMissing) as error:
            _explain(error, schema)
        else:
            return outcomes_of(ones, rows[0])
    raise LockTimeout(f"{RACES} attempts to append to {one.stream_id!r} each lost a race; too many writers share the stream")


def _overtaken(one: PreparedAppend, error: UniqueViolation) -> Retryable:
    return Retryable(
        f"stream {one.stream_id!r} was appended to since this transaction's snapshot was taken, and its isolation level "
        f"keeps it from seeing that ({error}); roll back and run the whole transaction again, or use READ COMMITTED",
        "40001",
    )


def _explain(error: Retryable | SchemaMissing, schema: str) -> NoReturn:
    """Raise the error again, saying what it means where somebody else's transaction is at stake."""
    if isinstance(error, SchemaMissing):
        raise SchemaMissing(
            f"the database of the joined connection has no schema {schema!r} of the event store, or an older one: {error}; "
            "join a connection to the store's own database"
        ) from error
    if error.sqlstate in _OVERTAKEN:
        raise Retryable(f"{error}: roll back and run the whole transaction again", error.sqlstate) from error
    if error.sqlstate == "25006":
        raise Retryable(
            f"{error}; either the joined transaction is READ ONLY, then begin one that may write, or the server is a standby",
            error.sqlstate,
        ) from error
    raise error
