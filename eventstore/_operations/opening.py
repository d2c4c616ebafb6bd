"""What is checked before a store is used: the server's version and the schema's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..errors import LogicalSubscriber, SchemaMissing, SchemaOutdated, SchemaTooNew, ServerTooOld
from .statement import Operation, Statement, load_sql

__all__ = ["check_versions"]

_SCHEMA_VERSION: Final = load_sql(Path(__file__).parent.parent / "sql" / "queries", "schema_version")
_SERVER_VERSION: Final = "select current_setting('server_version_num')::int"


def check_versions(needed: int, oldest_major: int, schema: str) -> Operation[None]:
    """Check that server and schema are ones that this library works with.

    Raises:
        ServerTooOld, SchemaMissing, SchemaOutdated, SchemaTooNew: each with its cure.
        LogicalSubscriber: a subscription writes into events. Its rows are committed in another order than that of their
            positions, and whoever may still fill a hole holds his lock on the publisher: readers would skip events.
    """
    rows = yield Statement(_SERVER_VERSION)
    if rows[0][0] < oldest_major * 10000:
        raise ServerTooOld(
            f"PostgreSQL {oldest_major} or newer is needed, the server is {rows[0][0] // 10000}.{rows[0][0] % 10000}"
        )
    option = "" if schema == "eventstore" else f" --schema {schema}"
    cure = f"run: eventstore migrate up{option} (or open the store with migrate=True)"
    try:
        rows = yield Statement(_SCHEMA_VERSION)
    except SchemaMissing as error:
        raise SchemaMissing(f"the database has no schema {schema!r} of the event store; {cure}") from error
    current = int(rows[0][0] or 0)
    if current == 0:
        raise SchemaMissing(f"the schema {schema!r} holds no tables of the event store; {cure}")
    if current < needed:
        raise SchemaOutdated(f"the schema {schema!r} is at version {current}, this library needs {needed}; {cure}")
    if current > needed:
        raise SchemaTooNew(
            f"the schema {schema!r} is at version {current}, this library knows {needed}; upgrade pg-eventstore"
        )
    if subscriptions := rows[0][1]:
        raise LogicalSubscriber(
            f"the log in schema {schema!r} is filled by the subscription {subscriptions[0]!r} of logical replication, so that "
            "readers would skip events; use the publisher, or a physical standby, or take the table events out of the "
            "publication"
        )
