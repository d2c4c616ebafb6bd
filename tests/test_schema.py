"""The schema: migrations, versions, roles, and a life beside a user's own Alembic."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import asyncpg
import pytest
from conftest import drop_database, new_database, on_database, run_sql

from eventstore import Event, EventStore, errors, schema

pytestmark = pytest.mark.server

ROOT = Path(__file__).parent.parent


class Noted(Event):
    n: int = 0


CATALOG = {
    "columns": """select c.table_name, c.ordinal_position, c.column_name, c.data_type, c.collation_name, c.is_nullable,
                         c.column_default, c.is_identity, c.identity_generation
                  from information_schema.columns c where c.table_schema = $1 order by 1, 2""",
    "relations": """select c.relname, c.relkind, c.reloptions, obj_description(c.oid, 'pg_class'),
                           array(select a::text from unnest(c.relacl) a order by 1)
                    from pg_class c where c.relnamespace = to_regnamespace($1) and c.relkind in ('r', 'S', 'v', 'p') order by 1""",
    "indexes": "select indexname, indexdef from pg_indexes where schemaname = $1 order by 1",
    "constraints": """select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
                      where connamespace = to_regnamespace($1) order by 1, 2""",
    "functions": """select p.proname, pg_get_functiondef(p.oid), obj_description(p.oid, 'pg_proc'),
                           array(select a::text from unnest(p.proacl) a order by 1)
                    from pg_proc p where p.pronamespace = to_regnamespace($1) order by 1""",
    "triggers": """select tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) from pg_trigger
                   where not tgisinternal and tgrelid in (select oid from pg_class where relnamespace = to_regnamespace($1))
                   order by 1, 2""",
    "sequences": """select sequencename, data_type, start_value, increment_by, cycle, cache_size
                    from pg_sequences where schemaname = $1 order by 1""",
    "comments": """select c.relname, d.objsubid, d.description from pg_description d join pg_class c on c.oid = d.objoid
                   where c.relnamespace = to_regnamespace($1) order by 1, 2""",
    "acl": "select array(select a::text from unnest(nspacl) a order by 1) from pg_namespace where nspname = $1",
}


def catalog(dsn, name="eventstore"):
    """Everything that the database knows of a schema, but for the version table."""

    async def go():
        connection = await asyncpg.connect(dsn, ssl=False)
        try:
            found = {}
            for kind, sql in CATALOG.items():
                rows = [tuple(row) for row in await connection.fetch(sql, name)]
                found[kind] = [row for row in rows if "alembic_version" not in str(row)]
            return found
        finally:
            await connection.close()

    return asyncio.run(go())


def apply_schema_files(dsn, name="eventstore"):
    """Build the database from `sql/schema` of both packages, as it stands today."""
    files = [
        *sorted((ROOT / "eventstore/sql/schema").glob("*.sql")),
        *sorted((ROOT / "projections/sql/schema").glob("*.sql")),
    ]

    async def go():
        connection = await asyncpg.connect(dsn, ssl=False)
        try:
            for file in files:
                await connection.execute(file.read_text().replace('"eventstore"', f'"{name}"'))
        finally:
            await connection.close()

    asyncio.run(go())


def test_migrations_and_schema_files_build_the_same_database(server, empty_database):
    """The files in sql/schema are the database as it stands; the migrations lead there."""
    other = new_database(server)
    schema.migrate(empty_database)
    apply_schema_files(on_database(server, other))
    migrated, built = catalog(empty_database), catalog(on_database(server, other))
    drop_database(server, other)

    assert len(migrated["functions"]) >= 5
    for kind in migrated:
        assert migrated[kind] == built[kind], [
            pair for pair in zip(migrated[kind], built[kind], strict=False) if pair[0] != pair[1]
        ]
    assert migrated == built


def test_up_down_up_ends_where_up_ended(empty_database):
    """And down leaves nothing but the schema and its version table."""
    assert schema.migrate(empty_database).current == schema.VERSION
    first = catalog(empty_database)
    assert schema.migrate_down(empty_database, to=0).current == 0
    assert not any(catalog(empty_database)[kind] for kind in ("columns", "functions", "indexes", "triggers"))
    assert schema.migrate(empty_database).pending == 0
    assert catalog(empty_database) == first


def test_a_schema_of_another_name_is_the_same_but_for_its_name(empty_database):
    """Every object, every grant, every function's body; two schemas live in one database."""
    schema.migrate(empty_database)
    schema.migrate(empty_database, schema="other_1")
    ours, others = str(catalog(empty_database)), str(catalog(empty_database, "other_1"))

    assert others.replace('"other_1"', "eventstore").replace("other_1", "eventstore") == ours.replace(
        '"eventstore"', "eventstore"
    )


async def test_a_store_works_in_a_schema_of_another_name(empty_database):
    """Append, read, follow, publish."""
    async with EventStore(empty_database, schema="Mine", migrate=True) as store:
        await store.append("a-1", Noted())
        assert len([r async for r in store.read_all()]) == 1
    assert not await asyncio.to_thread(run_sql, empty_database, "select to_regnamespace('eventstore') is not null")


@pytest.mark.parametrize("name", ["", "a" * 51, 'x"; drop table y; --', "a-b", "1a", "ü", "a\0", None])
def test_a_schema_name_that_could_be_anything_else_is_refused(name):
    """Identifiers come from configuration, are matched whole, and quoted."""
    with pytest.raises(errors.InvalidArgument):
        schema.check_schema_name(name)
    with pytest.raises(errors.InvalidArgument):
        EventStore("postgresql://h/d", schema=name)


def test_migrators_at_once_do_it_once(empty_database):
    """The second waits for the first and finds nothing to do."""
    results, threads = [], []
    for _ in range(6):
        threads.append(threading.Thread(target=lambda: results.append(schema.migrate(empty_database))))
        threads[-1].start()
    for thread in threads:
        thread.join()

    assert [r.pending for r in results] == [0] * 6


def test_a_migration_killed_midway_goes_on(empty_database):
    """Each revision is one transaction: after a kill at any moment, up completes."""
    code = f"from eventstore import schema; print('go', flush=True); schema.migrate({empty_database!r})"
    for delay in (0.0, 0.02, 0.05, 0.1):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()

    assert schema.migrate(empty_database).pending == 0


async def test_opening_says_what_is_wrong_with_the_schema_and_how_to_cure_it(empty_database):
    """Missing, outdated, too new."""
    with pytest.raises(errors.SchemaMissing, match="eventstore migrate up"):
        await EventStore(empty_database).open()
    await asyncio.to_thread(schema.migrate, empty_database)
    await asyncio.to_thread(run_sql, empty_database, "update eventstore.alembic_version set version_num = '0999'")
    with pytest.raises(errors.SchemaTooNew, match="upgrade pg-eventstore"):
        await EventStore(empty_database).open()
    await asyncio.to_thread(run_sql, empty_database, "delete from eventstore.alembic_version")
    with pytest.raises(errors.SchemaMissing, match="migrate"):
        await EventStore(empty_database).open()


def test_an_outdated_schema_is_told_from_a_missing_one():
    """By the operation itself, since there is one version so far."""
    from eventstore._operations.opening import check_versions

    operation = check_versions(2, 15, "eventstore")
    next(operation)
    operation.send([(180000,)])
    with pytest.raises(errors.SchemaOutdated, match="at version 1.*needs 2"):
        operation.send([("0001", 180000)])
    operation = check_versions(1, 15, "eventstore")
    next(operation)
    with pytest.raises(errors.ServerTooOld, match="15 or newer"):
        operation.send([(140005,)])


def test_plain_alembic_works_at_the_root(empty_database):
    """Alembic upgrade head, current, downgrade, and --sql."""

    def alembic(*args):
        command = [sys.executable, "-m", "alembic", *args]
        environment = os.environ | {"EVENTSTORE_URL": empty_database}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    alembic("upgrade", "head")
    assert f"{schema.VERSION:04} (head)" in alembic("current")
    assert schema.status(empty_database).pending == 0
    alembic("downgrade", "base")
    assert schema.status(empty_database).current == 0
    assert 'create table "eventstore".events' in alembic("upgrade", "head", "--sql")


async def test_the_printed_sql_builds_the_schema(server, empty_database):
    """For whoever may not connect: eventstore migrate sql | psql."""
    connection = await asyncpg.connect(empty_database, ssl=False)
    await connection.execute(schema.to_sql())
    await connection.close()

    assert (await asyncio.to_thread(schema.status, empty_database)).pending == 0
    async with EventStore(empty_database) as store:
        await store.append("a-1", Noted())


def test_it_lives_beside_a_users_own_alembic(empty_database, tmp_path):
    """Run from a user's revision, kept out of the user's autogenerate, with a version table of its own."""
    (tmp_path / "alembic.ini").write_text(
        f"[alembic]\nscript_location = {tmp_path}/theirs\npath_separator = os\nsqlalchemy.url = unused\n"
    )
    versions = tmp_path / "theirs" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "theirs" / "script.py.mako").write_text("${upgrades if upgrades else 'pass'}\n")
    url = empty_database.replace("postgresql:", "postgresql+psycopg:")
    (tmp_path / "theirs" / "env.py").write_text(
        textwrap.dedent(f"""
        import sqlalchemy as sa
        from alembic import context
        from eventstore import schema
        metadata = sa.MetaData()
        sa.Table("mine", metadata, sa.Column("id", sa.Integer, primary_key=True))
        engine = sa.create_engine({url!r}, poolclass=sa.NullPool)
        with engine.connect() as connection:
            context.configure(connection=connection, target_metadata=metadata, include_schemas=True,
                              include_object=schema.include_object())
            with context.begin_transaction():
                context.run_migrations()
        """)
    )
    (versions / "one.py").write_text(
        textwrap.dedent("""
        import sqlalchemy as sa
        from alembic import op
        from eventstore import schema
        revision, down_revision = "one", None
        def upgrade():
            op.create_table("mine", sa.Column("id", sa.Integer, primary_key=True))
            schema.upgrade(op, to=3)
        def downgrade():
            schema.downgrade(op, to=0)
            op.drop_table("mine")
        """)
    )

    def alembic(*args):
        command = [sys.executable, "-m", "alembic", "-c", str(tmp_path / "alembic.ini"), *args]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done := alembic("upgrade", "head")).returncode == 0, done.stderr
    assert schema.status(empty_database).pending == 0
    assert (done := alembic("check")).returncode == 0, done.stdout + done.stderr
    migrated = catalog(empty_database)
    assert (done := alembic("downgrade", "base")).returncode == 0, done.stderr
    assert schema.status(empty_database).current == 0
    schema.migrate(empty_database)
    assert catalog(empty_database) == migrated


FORBIDDEN = {
    "eventstore_read": [
        "insert into {e} (stream_id, version, type, event_id, data) values ('a', 1, 'T', gen_random_uuid(), '{{}}')"
    ],
    "eventstore_append": [
        "insert into {c} (follower) values ('f')",
        "update eventstore.safe_mark set log_epoch = gen_random_uuid()",
    ],
    "eventstore_follow": [
        "insert into {e} (stream_id, version, type, event_id, data) values ('a', 1, 'T', gen_random_uuid(), '{{}}')"
    ],
}
FOR_ALL = ["update {e} set type = 'x'", "delete from {e}", "truncate {e}", "drop table {e}", "alter table {e} add x int",
           "delete from eventstore.time_marks", "alter table {e} disable trigger all"]  # fmt: skip


@pytest.mark.parametrize("role", FORBIDDEN)
def test_each_role_may_do_its_work_and_nothing_else(database, role):
    """Every forbidden verb is tried; what the role is for works."""

    async def go():
        connection = await asyncpg.connect(database, ssl=False)
        try:
            await connection.execute(f"set role {role}")
            for sql in [*FORBIDDEN[role], *FOR_ALL]:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(sql.format(e="eventstore.events", c="eventstore.checkpoints"))
            await connection.fetch("select * from eventstore.events")
            await connection.fetch("select last_value from eventstore.events_position_seq")
            if role != "eventstore_read":
                await connection.fetch("select eventstore.publish_mark_v1(0, now(), true)")
            if role == "eventstore_follow":
                await connection.execute("insert into eventstore.checkpoints (follower) values ('f')")
                await connection.fetch("select * from eventstore.checkpoints for update")
        finally:
            await connection.close()

    asyncio.run(go())


async def test_least_privileged_users_do_their_work_through_the_library(database, server):
    """One that may append, one that may read, one that may follow."""
    async with EventStore(database) as owner, owner.transaction() as tx:
        for kind in ("read", "append", "follow"):
            await tx.connection.execute(
                f"do $$ begin create role pges_{kind} login; exception when duplicate_object or unique_violation then null; end $$"
            )
            await tx.connection.execute(f"grant eventstore_{kind} to pges_{kind}")
    as_user = {kind: database.replace("postgres@", f"pges_{kind}@", 1).replace("postgres:", f"pges_{kind}:", 1) for kind in
               ("read", "append", "follow")}  # fmt: skip
    async with EventStore(as_user["append"]) as store:
        await store.append("a-1", Noted())
        await asyncio.sleep(0.1)
    async with EventStore(as_user["read"]) as store:
        assert len([r async for r in store.read_all()]) == 1
        with pytest.raises(errors.PermissionDenied, match="roles"):
            await store.append("a-1", Noted())
    async with EventStore(as_user["follow"]) as store:
        with pytest.raises(errors.PermissionDenied):
            await store.append("a-1", Noted())


def test_a_user_that_may_not_migrate_gets_one_line(database, server):
    """Not a traceback of SQLAlchemy's."""
    run_sql(
        database,
        "do $$ begin create role pges_nobody login; exception when duplicate_object or unique_violation then null; end $$",
    )
    url = database.replace("postgres@", "pges_nobody@", 1).replace("postgres:", "pges_nobody:", 1)
    with pytest.raises(errors.PermissionDenied, match="may not migrate"):
        schema.migrate(url, schema="elsewhere")


def test_the_version_constant_is_the_newest_revision():
    """A revision without its number in the library would never be asked for."""
    numbers = sorted(int(file.name[:4]) for file in (ROOT / "migrations/versions").glob("[0-9]*.py"))
    assert numbers == list(range(1, schema.VERSION + 1))
    for number in numbers:
        for direction in ("up", "down"):
            assert len(list((ROOT / "migrations/sql").glob(f"{number:04d}_*.{direction}.sql"))) == 1


def test_statements_are_split_where_they_end():
    """Quotes, dollar quotes and comments hold semicolons of their own."""
    frozen = schema._frozen()
    sql = "select ';' -- a; b\n; /* ; */ create function f() as $x$ a; 'b $y$ $x$; select \"a;b\", 'it''s;';"
    assert [s.split()[0] for s in frozen.statements(sql)] == ["select", "create", "select"]


@pytest.mark.parametrize("schema_files", ["eventstore/sql/schema", "projections/sql/schema"])
def test_sql_files_are_valid_in_psql_as_they_stand(schema_files):
    """One quoted identifier is swapped, nothing else: no templates."""
    for file in (ROOT / schema_files).glob("*.sql"):
        text = file.read_text()
        assert text.startswith("-- "), f"{file.name} has no header"
        assert "{" not in text.replace("'{}'", ""), file.name


def test_primary_keys_begin_with_the_tenant_where_there_is_one(database):
    """So that the tables can be distributed by it one day."""
    keys = run_sql(
        database,
        """select string_agg(c.relname, ',') from pg_index i join pg_class c on c.oid = i.indrelid
           where i.indisprimary and c.relnamespace = 'eventstore'::regnamespace
             and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id')
             and (select a.attname from pg_attribute a where a.attrelid = c.oid and a.attnum = i.indkey[0]) <> 'tenant_id'""",
    )
    assert keys is None
