"""Alembic's environment: one database, one schema, one migrator at a time.

The version table lies inside the schema, so that it lives beside a user's own Alembic. Two migrators at once queue on
an advisory lock, and the second finds nothing to do. Each revision is a transaction of its own: a migration killed
midway goes on with the first revision that is not recorded.
"""

import importlib.util
import os
from pathlib import Path

import sqlalchemy as sa
from alembic import context

_spec = importlib.util.spec_from_file_location("eventstore_frozen_migrations", Path(__file__).parent / "frozen.py")
assert _spec is not None and _spec.loader is not None
frozen = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(frozen)

config = context.config
schema = frozen.check_schema(
    config.attributes.get("schema")
    or context.get_x_argument(as_dictionary=True).get("schema")
    or os.environ.get("EVENTSTORE_SCHEMA")
    or frozen.DEFAULT_SCHEMA
)


def _configure(**how: object) -> None:
    context.configure(
        version_table="alembic_version",
        version_table_schema=schema,
        transaction_per_migration=True,
        frozen=lambda op, file: frozen.run_frozen(op, file, schema),
        **how,
    )


def _offline() -> None:
    _configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, literal_binds=True)
    if not context.get_starting_revision_argument():
        context.execute(f'create schema if not exists "{schema}"')
    context.run_migrations()


def _online(connection: sa.Connection) -> None:
    key = sa.text("select hashtextextended(:name, 0)").bindparams(name=f"pg-eventstore migration {schema}")
    lock = connection.execute(key).scalar_one()
    connection.execute(sa.text("select pg_advisory_lock(:key)"), {"key": lock})
    try:
        connection.execute(sa.text("set lock_timeout = '30s'"))
        if connection.execute(sa.text("select to_regnamespace(:name)"), {"name": f'"{schema}"'}).scalar() is None:
            connection.execute(sa.text(f'create schema "{schema}"'))
        connection.commit()
        _configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(sa.text("reset lock_timeout"))
        connection.execute(sa.text("select pg_advisory_unlock(:key)"), {"key": lock})
        connection.commit()


def _engine() -> sa.Engine:
    url = os.environ.get("EVENTSTORE_URL") or config.get_main_option("sqlalchemy.url")
    if not url:
        raise SystemExit("no database given: set EVENTSTORE_URL, or sqlalchemy.url in alembic.ini")
    parsed = sa.make_url(url.replace("postgres://", "postgresql://", 1)).set(drivername="postgresql+psycopg")
    return sa.create_engine(parsed, poolclass=sa.NullPool)


if context.is_offline_mode():
    _offline()
elif (given := config.attributes.get("connection")) is not None:
    _online(given)
else:
    with _engine().connect() as opened:
        _online(opened)
