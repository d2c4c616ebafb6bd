"""The database's schema: its version, migrations, and how they live beside a user's own Alembic.

Migrations are Alembic revisions that run frozen SQL files (`migrations/`; in an installed wheel `eventstore/_migrations`).
Their version table lies inside the event store's schema. They run on psycopg, blocking; each revision is one transaction.

In a user's own revision::

    from eventstore import schema

    def upgrade():
        schema.upgrade(op, to=1)

    def downgrade():
        schema.downgrade(op, to=0)

and in the user's ``env.py``, so that autogenerate leaves our tables alone::

    context.configure(..., include_object=schema.include_object())
"""

from __future__ import annotations

import importlib.util
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import exc

from ._drivers import urls
from .errors import CannotConnect, DatabaseRefused, InvalidArgument, PermissionDenied, SchemaTooNew

__all__ = [
    "DEFAULT_SCHEMA",
    "VERSION",
    "SchemaStatus",
    "check_schema_name",
    "downgrade",
    "include_object",
    "migrate",
    "migrate_down",
    "migrations_folder",
    "status",
    "to_sql",
    "upgrade",
]

VERSION: Final = 3
"""The schema version that this release of the library works with: the number of the newest revision."""

DEFAULT_SCHEMA: Final = "eventstore"

CONNECT_SECONDS: Final = 10
"""How long a connection may take to be made."""

_one_at_a_time = threading.Lock()
"""Alembic's `context` and `op` are one a process; databases are kept apart by an advisory lock, threads by this."""


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Where a database stands.

    Attributes:
        schema: the schema's name.
        current: its version; 0: nothing is there.
        latest: the version that this release of the library works with.
    """

    schema: str
    current: int
    latest: int = VERSION

    @property
    def pending(self) -> int:
        """How many revisions are yet to be applied; negative where the database is newer than the library."""
        return self.latest - self.current


def migrations_folder() -> Path:
    """Return the folder with the migrations: in the wheel beside this file, in a checkout at its root."""
    here = Path(__file__).parent
    for folder in (here / "_migrations", here.parent / "migrations"):
        if (folder / "env.py").exists():
            return folder
    raise InvalidArgument(f"the migrations are missing: expected them at {here / '_migrations'}; install the wheel again")


def check_schema_name(name: str) -> str:
    """Return `name` if it can be the schema's.

    Raises:
        InvalidArgument: not ``[A-Za-z_][A-Za-z0-9_]*``, or over 50 letters.
    """
    try:
        return str(_frozen().check_schema(name))
    except (ValueError, TypeError) as error:
        raise InvalidArgument(str(error)) from None


def migrate(url: object, *, schema: str = DEFAULT_SCHEMA, to: int = VERSION) -> SchemaStatus:
    """Bring the database up to version `to`. Safe when several run at once, and to repeat.

    Raises:
        CannotConnect, PermissionDenied, DatabaseRefused: in one line.
        InvalidArgument: there is no such version.
    """
    _check_target(to)
    return _run(url, schema, lambda config: command.upgrade(config, f"{to:04d}"))


def migrate_down(url: object, *, schema: str = DEFAULT_SCHEMA, to: int) -> SchemaStatus:
    """Take the database down to version `to`; 0 drops every table, **and every event**."""
    _check_target(to)
    return _run(url, schema, lambda config: command.downgrade(config, f"{to:04d}" if to else "base"))


def status(url: object, *, schema: str = DEFAULT_SCHEMA) -> SchemaStatus:
    """Return where the database stands."""
    return _run(url, schema, lambda config: None)


def to_sql(*, schema: str = DEFAULT_SCHEMA, since: int = 0, to: int = VERSION) -> str:
    """Return the SQL that brings a database from version `since` to version `to`, for whoever may not connect."""
    _check_target(to)
    if not 0 <= since < to:
        raise InvalidArgument(f"expected a version to come from below {to}, got {since!r}")
    config = _config(check_schema_name(schema))
    config.output_buffer = io.StringIO()
    with _one_at_a_time:
        command.upgrade(config, f"{since:04d}:{to:04d}" if since else f"{to:04d}", sql=True)
    return config.output_buffer.getvalue()


def upgrade(op: Any, *, to: int, schema: str = DEFAULT_SCHEMA, since: int = 0) -> None:  # Alembic's op is a module
    """Run our revisions up to `to` inside a user's own Alembic revision, in its transaction.

    Args:
        op: Alembic's `op`.
        to: the version to reach. Write the number: a revision must mean the same for ever.
        schema: the schema's name.
        since: offline (``--sql``) only: the version that the database is at.
    """
    _check_target(to)
    current = since if op.get_context().as_sql else _prepare(op, schema)
    for number in range(current + 1, to + 1):
        _frozen().run_frozen(op, _file(number, "up"), schema)
        table = f'"{schema}".alembic_version'
        op.execute(sa.text(f"delete from {table}"))
        op.execute(sa.text(f"insert into {table} (version_num) values ('{number:04d}')"))


def downgrade(op: Any, *, to: int, schema: str = DEFAULT_SCHEMA, since: int = VERSION) -> None:
    """Undo our revisions down to `to` inside a user's own Alembic revision; 0 drops **every event**."""
    _check_target(to)
    current = since if op.get_context().as_sql else _prepare(op, schema)
    for number in range(current, to, -1):
        _frozen().run_frozen(op, _file(number, "down"), schema)
        table = f'"{schema}".alembic_version'
        op.execute(sa.text(f"delete from {table}"))
        if number > 1:
            op.execute(sa.text(f"insert into {table} (version_num) values ('{number - 1:04d}')"))


def include_object(schema: str = DEFAULT_SCHEMA) -> Callable[..., bool]:
    """Return a filter for Alembic's `include_object` that keeps autogenerate off our schema."""

    def include(object_: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
        table = getattr(object_, "table", object_)
        return getattr(table, "schema", None) != schema

    return include


def _frozen() -> ModuleType:
    file = migrations_folder() / "frozen.py"
    spec = importlib.util.spec_from_file_location("eventstore_frozen_migrations", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _file(number: int, direction: str) -> str:
    (found,) = (migrations_folder() / "sql").glob(f"{number:04d}_*.{direction}.sql")
    return found.name


def _check_target(to: int) -> None:
    if isinstance(to, bool) or not isinstance(to, int) or not 0 <= to <= VERSION:
        raise InvalidArgument(f"the schema has versions 0 to {VERSION}, got {to!r}")


def _config(schema: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["schema"] = schema
    return config


def _prepare(op: Any, schema: str) -> int:
    """Make schema and version table where missing; return the version."""
    check_schema_name(schema)
    op.execute(sa.text(f'create schema if not exists "{schema}"'))
    op.execute(
        sa.text(
            f'create table if not exists "{schema}".alembic_version ('
            "version_num varchar(32) not null constraint alembic_version_pkc primary key)"
        )
    )
    return int(op.get_bind().execute(sa.text(f'select max(version_num) from "{schema}".alembic_version')).scalar() or 0)


def _run(url: object, schema: str, action: Callable[[Config], None]) -> SchemaStatus:
    config = _config(check_schema_name(schema))
    dsn = urls.to_libpq(url)
    engine = sa.create_engine(
        urls.to_sqlalchemy(dsn),
        poolclass=sa.NullPool,
        connect_args={"connect_timeout": CONNECT_SECONDS, "prepare_threshold": None},  # nothing is left behind in a pooler
    )
    try:
        with _one_at_a_time, engine.connect() as connection:
            _refuse_newer(_current(connection, schema), schema)
            connection.rollback()
            config.attributes["connection"] = connection
            action(config)
            return SchemaStatus(schema, _current(connection, schema))
    except exc.DBAPIError as error:
        raise _translated(error, dsn) from error
    except CommandError as error:
        raise InvalidArgument(f"the migration cannot be done: {error}") from error


def _refuse_newer(current: int, schema: str) -> None:
    if current > VERSION:
        raise SchemaTooNew(
            f"the schema {schema!r} is at version {current}, this library knows {VERSION}; upgrade pg-eventstore"
        )


def _current(connection: sa.Connection, schema: str) -> int:
    table = f'"{schema}".alembic_version'
    if connection.execute(sa.text("select to_regclass(:name)"), {"name": table}).scalar() is None:
        return 0
    return int(connection.execute(sa.text(f"select max(version_num) from {table}")).scalar() or 0)


def _translated(error: exc.DBAPIError, dsn: str) -> Exception:
    sqlstate = getattr(error.orig, "sqlstate", None)
    line = str(error.orig).strip().replace("\n", " ")
    if sqlstate is None:
        return CannotConnect(f"cannot connect to {urls.redacted(dsn)}: {line}")
    if sqlstate == "42501":
        return PermissionDenied(f"the role may not migrate: {line}; migrate as a role that may create in the database")
    return DatabaseRefused(f"the migration failed and was rolled back: {line}", sqlstate)
