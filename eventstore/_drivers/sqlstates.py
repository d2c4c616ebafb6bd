"""SQLSTATEs to our errors, the same for every driver. Source: PostgreSQL manual, appendix A."""

from __future__ import annotations

from typing import Final

from ..errors import (
    AuthenticationFailed,
    CannotConnect,
    ConnectionLost,
    DatabaseRefused,
    EventStoreError,
    InvalidArgument,
    LockTimeout,
    PermissionDenied,
    Retryable,
    SchemaMissing,
    UniqueViolation,
)
from .budget import THROUGH_A_POOLER

__all__ = ["from_sqlstate"]

_RETRYABLE: Final = {
    "40001": "serialization failure",
    "40P01": "deadlock",
    "57014": "the statement was cancelled",
    "57P01": "the server is shutting down, or the connection was terminated",
    "57P02": "the server crashed and restarts",
    "57P03": "the server is starting up or recovering",
    "25P03": "the transaction was idle for longer than idle_in_transaction_session_timeout (20 s; a handler took too long?)",
    "25006": "the server is read-only: a standby, or one being failed over",
    "53300": "the server has no free connection slot",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
}
_LOST: Final = ("57P01", "57P02", "57P03", "25P03")


def from_sqlstate(sqlstate: str, message: str) -> EventStoreError:
    """Return our error for a server's complaint."""
    if sqlstate == "23505":
        return UniqueViolation(message, sqlstate)
    if sqlstate == "55P03":
        return LockTimeout(
            f"another transaction holds what this one needs, and has for longer than lock_timeout ({message}); try "
            "again, or look for the holder in pg_stat_activity"
        )
    if sqlstate == "08P01" and "startup parameter" in message:  # said by PgBouncer
        return CannotConnect(f"a pooler such as PgBouncer refused the connection's settings: {message}; {THROUGH_A_POOLER}")
    if sqlstate in _LOST or sqlstate.startswith("08"):
        return ConnectionLost(f"{_RETRYABLE.get(sqlstate, 'the connection failed')}: {message}")
    if sqlstate in _RETRYABLE:
        return Retryable(f"{_RETRYABLE[sqlstate]}: {message}; try again", sqlstate)
    if sqlstate in ("28P01", "28000"):
        return AuthenticationFailed(f"{message}; check user and password in the URL")
    if sqlstate == "3D000":
        return CannotConnect(f"{message}; create it, or correct the URL")
    if sqlstate == "42501":
        return PermissionDenied(f"{message}; grant the role one of the schema's roles (docs/operations.md)")
    if sqlstate == "25P02":
        return DatabaseRefused(
            f"{message}: an earlier statement of this transaction failed; roll it back, or to a savepoint, and go on from there",
            sqlstate,
        )
    if sqlstate == "25001":  # raised by append_tagged_v1
        return InvalidArgument(message)
    if sqlstate in ("42P01", "3F000", "42883"):
        return SchemaMissing(f"{message}; run: eventstore migrate up")
    return DatabaseRefused(f"{message} (SQLSTATE {sqlstate})", sqlstate)
