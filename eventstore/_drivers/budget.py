"""How many connections a store opens, for what, and with which settings: the same for every driver.

A process has a stated, small budget of connections, each opened when it is first needed. Ours pin READ COMMITTED, bound
lock waits and idle transactions, and ask the server for keepalives. Readers switch sequential scans and sorts off, so
that no plan rests on the statistics of a table that was empty when the plan was made.

A pooler that hands out another session to each transaction takes no settings of a session. Through one, each transaction
begins with those that it must not be without (`set_local`); single statements bring theirs, or do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ..errors import CannotConnect, InvalidArgument

__all__ = [
    "READER_SETTINGS",
    "SETTINGS_SEEN",
    "SMALLEST_BUDGET",
    "STATEMENT_SECONDS",
    "THROUGH_A_POOLER",
    "WRITER_SETTINGS",
    "Budget",
    "Kind",
    "check_cache_size",
    "check_settings_seen",
    "set_local",
]

Kind = Literal["transaction", "read"]

CONNECT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 5.0
ACQUIRE_SECONDS: Final = 30.0
"""How long to wait for a free connection of the budget."""

STATEMENT_SECONDS: Final = 60.0
"""How long a statement of ours may take: none takes a hundredth of it, but a network may swallow the answer."""

IDLE_SECONDS: Final = 300.0
"""How long a connection that nobody uses is kept."""

SMALLEST_BUDGET: Final = 5
AMPLE_BUDGET: Final = 10
"""Above it appends with tags have a connection of their own."""

COMMON_SETTINGS: Final = {
    "default_transaction_isolation": "read committed",
    # Below the lease time of daemons (30 s), so that a client that froze in a transaction loses it before its lease.
    "idle_in_transaction_session_timeout": "20s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
READER_SETTINGS: Final = {
    "enable_seqscan": "off",
    "enable_sort": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_generic_plan",
}
"""Every read comes in an index's order and ends at a limit. Plans made by the statistics of a new table would look through
a whole range and sort it (25 ms instead of 4 ms a batch of 1,000 out of 100,000, measured) or scan the table. So each statement
is planned once, whatever its parameters."""

WRITER_SETTINGS: Final = {
    "enable_seqscan": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "lock_timeout": "20ms",
}
"""What queries/append_group.sql leans on; a group waits for nobody for long."""

SETTINGS: Final[dict[Kind, dict[str, str]]] = {
    "transaction": {"lock_timeout": "5s", "idle_in_transaction_session_timeout": "60s"},
    "read": READER_SETTINGS,
}

SETTINGS_SEEN: Final = "select current_setting('idle_in_transaction_session_timeout')"
"""Whether a connection's settings have arrived: `check_settings_seen` judges."""

THROUGH_A_POOLER: Final = (
    "through a pooler use EventStore(url, statement_cache_size=0, wake_ups=WakeUps(listen_url='the direct address')), or "
    "?statement_cache_size=0 in the URL; or give the server's own address (docs/operations.md, Behind PgBouncer)"
)


_OF_SESSIONS: Final = {
    "default_transaction_isolation",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_keepalives_count",
    "plan_cache_mode",  # nothing is prepared
}


def check_cache_size(given: object, of_url: int | None) -> int | None:
    """Return the store's `statement_cache_size`: what was given, else what the URL says.

    Raises:
        InvalidArgument: neither 0 nor None.
    """
    if given is not None and (isinstance(given, bool) or given != 0):
        raise InvalidArgument(
            f"statement_cache_size must be 0 (behind a pooler such as PgBouncer) or None (the driver's default), got {given!r}"
        )
    return of_url if given is None else 0


def check_settings_seen(found: object) -> None:
    """Judge the answer to `SETTINGS_SEEN` on a connection that has asked for the settings of ours.

    Raises:
        CannotConnect: they have not arrived: somebody in between has dropped them.
    """
    asked = COMMON_SETTINGS["idle_in_transaction_session_timeout"]
    if found != asked:
        raise CannotConnect(
            "something between here and the server drops the settings of a connection, as PgBouncer does with "
            f"ignore_startup_parameters (idle_in_transaction_session_timeout: asked for {asked}, found {found}); {THROUGH_A_POOLER}"
        )


def set_local(settings: Mapping[str, str]) -> str:
    """Return what begins a transaction on a connection without settings of its own: `settings`, as far as they matter in it,
    and READ COMMITTED.
    """
    ours = {name: value for name, value in (COMMON_SETTINGS | dict(settings)).items() if name not in _OF_SESSIONS}
    local = [f"set local {name} = '{value}'" for name, value in ours.items()]
    return "; ".join(["set transaction isolation level read committed", *local])


@dataclass(frozen=True, slots=True)
class Budget:
    """How many connections a store may open, by what they are for. Each is opened when it is first needed.

    Attributes:
        append: for appends, which share them.
        tagged: for appends with tags, and decisions; 0: they share those of the others.
        transaction: for `store.transaction()`; each holds one as long as the block lasts. Also for imports, and for
            appends that queue for a contended stream.
        read: for reads; none is held between batches.
        marks: always one: it settles, publishes and watches the log for every subscriber of the process, and wakes others.
        listen: always one: it hears that others have appended.
    """

    append: int = 2
    tagged: int = 1
    transaction: int = 3
    read: int = 3
    marks: int = 1
    listen: int = 1

    @classmethod
    def of(cls, most: int) -> Budget:
        """Return a budget of `most` connections in all.

        Raises:
            InvalidArgument: fewer than five: one of each kind is the least.
        """
        if isinstance(most, bool) or not isinstance(most, int) or most < SMALLEST_BUDGET:
            raise InvalidArgument(f"max_connections must be an int of at least {SMALLEST_BUDGET}, got {most!r}")
        append = 2 if most > SMALLEST_BUDGET else 1
        tagged = 1 if most > AMPLE_BUDGET else 0
        left = most - 2 - append - tagged
        transaction = max(1, left // 2)
        return cls(append, tagged, transaction, left - transaction)
