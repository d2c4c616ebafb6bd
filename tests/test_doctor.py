"""The doctor: each finding is provoked on a real database, and its cure is pasted."""

import asyncio
import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from conftest import drop_database, new_database, on_database, run_sql
from replicas import standby_of
from test_cli import cli

from eventstore import Event, EventStore, WakeUps, embedded, errors, schema
from eventstore.doctor import (
    Check,
    Finding,
    Level,
    Report,
    activity,
    checkup,
    connecting,
    examination,
    examine,
    log,
    packages,
)
from eventstore.doctor import server as server_checks
from eventstore.doctor.connecting import judge_pooler

pytestmark = pytest.mark.server

UNSAFE_HERE = {"settings.fsync", "settings.full_page_writes", "settings.synchronous_commit"}
"""The tests' embedded server has them off; every other server of ours has them on."""

INSERT = (
    "insert into {s}.events (stream_id, version, type, event_id, data) values ('{id}', 1, 'T', gen_random_uuid(), '{{}}')"
)


TAGGED_BEHIND = """insert into {s}.events (stream_id, version, type, event_id, tags, data)
                   values ('a-1', 1, 'T', gen_random_uuid(), '{{t:1}}', '{{}}');
                   insert into {s}.event_tags (tag, position, type) values ('t:1', 1, 'T');
                   select setval('{s}.event_tags_seq_seq', 1, false)"""


class Noted(Event):
    n: int = 0


@pytest.fixture(scope="module")
def hostile(server, worker_id):
    """A template whose schema has a name that must be quoted, one a worker."""
    name, template = f"Ev2_{worker_id}", f"pges_ev2_{worker_id}"
    run_sql(server, f"drop database if exists {template}")
    run_sql(server, f"create database {template}")
    schema.migrate(on_database(server, template), schema=name)
    yield name, template
    run_sql(server, f"drop database {template}")
    for kind in ("read", "append", "follow"):
        run_sql(server, f'drop role "{name}_{kind}"')


@pytest.fixture
def quoted(server, hostile):
    """A fresh database with such a schema: its URL and the schema's name."""
    name = new_database(server, hostile[1])
    yield on_database(server, name), hostile[0]
    drop_database(server, name)


def run_all(dsn, *statements):
    """Run statements one after the other on one connection."""

    async def go():
        connection = await asyncpg.connect(dsn, ssl=False)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(go())


async def look(url, check="", **options):
    """What the doctor says under a check's name."""
    report = await examine(EventStore(url, **options))
    return [f for f in report.findings if f.check == check or f.check.startswith(f"{check}.") or not check]


def worse(findings, than=Level.NOTE):
    return [f for f in findings if f.level > than and f.check not in UNSAFE_HERE]


def sql_of(cure):
    """The statements of a cure, without the remark behind them."""
    text = cure.partition(" -- ")[0].partition("never held a row: ")
    text = text[2] or text[0]
    return [text] if "$function$" in text else [part.strip() for part in text.split(";") if part.strip()]


@contextlib.asynccontextmanager
async def connected(url):
    connection = await asyncpg.connect(url, ssl=False)
    try:
        yield connection
    finally:
        await connection.close()


async def test_a_healthy_database_gives_no_warning(database, quoted):
    """Fresh or in use, whatever the schema is called; at least one finding a check."""
    async with EventStore(database) as store:
        await store.append("a-1", Noted())
    for url, name in ((database, "eventstore"), quoted):
        findings = await look(url, schema=name)
        assert not worse(findings)
        assert {"server", "schema", "objects", "sequence", "role", "roles", "listen", "pooler", "followers"} <= {
            f.check for f in findings
        }
        assert all(f.found for f in findings)


DAMAGES = [
    ("drop index {s}.events_position_key", "objects", Level.ERROR, "index events_position_key of events is missing"),
    (
        "drop index {s}.events_position_key; create index events_position_key on {s}.events (position)",
        "objects",
        Level.ERROR,
        "is not unique",
    ),
    (
        "update pg_index set indisvalid = false where indexrelid = '{s}.events_recorded_at_brin'::regclass",
        "objects",
        Level.ERROR,
        "events_recorded_at_brin of events is invalid",
    ),
    ("alter table {s}.events disable trigger events_append_only", "objects", Level.ERROR, "is disabled"),
    ("alter table {s}.events enable replica trigger events_append_only", "objects", Level.ERROR, "is disabled"),
    ("drop trigger time_marks_append_only on {s}.time_marks", "objects", Level.ERROR, "of time_marks is missing"),
    (
        "alter table {s}.events drop constraint events_version_positive",
        "objects",
        Level.ERROR,
        "positive of events is missing",
    ),
    (
        "alter table {s}.events drop constraint events_version_positive; "
        "alter table {s}.events add constraint events_version_positive check (version > 0) not valid",
        "objects",
        Level.WARNING,
        "is not validated",
    ),
    ("alter table {s}.events drop constraint events_pkey", "objects", Level.ERROR, "events_pkey of events is missing"),
    ("alter table {s}.events drop column tags", "objects", Level.ERROR, "column tags of events is missing"),
    ("drop table {s}.time_marks", "objects", Level.ERROR, "table time_marks is missing"),
    ("alter table {s}.events set unlogged", "objects", Level.ERROR, "UNLOGGED"),
    ("alter table {s}.events set (autovacuum_enabled = off)", "objects", Level.WARNING, "left out by autovacuum"),
    ("alter function {s}.append_v1 reset enable_seqscan", "objects", Level.WARNING, "append_v1 was changed"),
    (
        "create or replace function {s}.as_of_v1(asked timestamptz) returns bigint language sql as 'select 0::bigint'",
        "objects",
        Level.WARNING,
        "as_of_v1 was changed",
    ),
    ("drop function {s}.publish_mark_v1", "objects", Level.ERROR, "function publish_mark_v1 is missing"),
    ("drop table {s}.leases", "followers.objects", Level.ERROR, "table leases is missing"),
    ("alter table {s}.checkpoints set unlogged", "followers.objects", Level.ERROR, "UNLOGGED"),
    ("alter sequence {s}.events_position_seq cache 10", "sequence", Level.ERROR, "CACHE 10"),
    ("alter sequence {s}.events_position_seq increment 2", "sequence", Level.ERROR, "INCREMENT 2"),
    ("alter sequence {s}.events_position_seq cycle", "sequence", Level.ERROR, "CYCLE"),
    ("alter table {s}.events alter position set generated by default", "sequence", Level.WARNING, "BY DEFAULT"),
    ("alter table {s}.events alter position drop identity", "sequence", Level.ERROR, "is missing"),
    (
        "alter table {s}.events alter position drop identity; create sequence {s}.events_position_seq",
        "sequence",
        Level.ERROR,
        "not the identity",
    ),
    (
        "alter sequence {s}.events_position_seq maxvalue 100; select setval('{s}.events_position_seq', 95)",
        "sequence",
        Level.WARNING,
        "95 of 100",
    ),
    (
        f"{INSERT}; select setval('{{s}}.events_position_seq', 1, false)".replace("{id}", "a-1"),
        "sequence",
        Level.ERROR,
        "behind",
    ),
    (
        TAGGED_BEHIND,
        "sequence",
        Level.ERROR,
        "event_tags_seq_seq stands at 0, behind the 1 of a tag",
    ),
    ("alter sequence {s}.event_tags_seq_seq cache 10", "sequence", Level.ERROR, "CACHE 10: .* decisions overlook"),
    ("alter table {s}.event_tags alter seq drop identity", "sequence", Level.ERROR, "event_tags_seq_seq is missing"),
    ("drop function {s}.boundary_v1", "objects", Level.ERROR, "function boundary_v1 is missing"),
    ("revoke insert on {s}.event_tags from {r_append}", "roles", Level.WARNING, "insert on"),
    ("revoke delete on {s}.requests from {r_append}", "roles", Level.WARNING, "delete on"),
    ("revoke select on {s}.events from {r_read}", "roles", Level.WARNING, "may not: select on"),
    ("revoke update (position) on {s}.safe_mark from {r_append}", "roles", Level.WARNING, "update \\(position\\)"),
    ("revoke delete on {s}.leases from {r_follow}", "followers.roles", Level.WARNING, "may not: delete on"),
    ("grant update, truncate on {s}.events to {r_read}", "rewriting", Level.WARNING, "TRUNCATE, UPDATE on events"),
    ("grant update (type) on {s}.events to public", "rewriting", Level.WARNING, "public was granted UPDATE"),
    ("create table {s}.more () inherits ({s}.events)", "partitions", Level.ERROR, "inherits from events"),
    ("delete from {s}.safe_mark", "marks", Level.ERROR, "safe_mark has no row"),
    ("update {s}.safe_mark set position = 7", "marks", Level.ERROR, "a mark stands at 7"),
]


@pytest.mark.parametrize(("damage", "check", "level", "found"), DAMAGES, ids=[d[0][:60] for d in DAMAGES])
async def test_each_damage_is_found_and_its_cure_cures_it(quoted, damage, check, level, found):
    """The finding says what is wrong; its cure, pasted as it stands, makes it go away."""
    url, name = quoted
    roles = {f"r_{kind}": f'"{name}_{kind}"' for kind in ("read", "append", "follow")}
    async with connected(url) as connection:
        await connection.execute(damage.format(s=f'"{name}"', **roles))

        (finding,) = [f for f in worse(await look(url, check, schema=name)) if re.search(found, f.found)]
        assert finding.level is level
        assert finding.expected
        for statement in sql_of(finding.cure):
            await connection.execute(statement)
        left = [f for f in worse(await look(url, check, schema=name)) if re.search(found, f.found)]
        assert not left, left
        for _ in range(4):  # what was made anew lacks what belonged to it: one cure leads to the next
            rest = worse(await look(url, schema=name))
            if not rest:
                break
            for statement in [statement for one in rest for statement in sql_of(one.cure)]:
                await connection.execute(statement)
        else:
            pytest.fail(f"never healthy: {rest}")


async def test_a_lost_table_of_events_is_an_error_and_no_crash(quoted):
    """Whatever cannot look says so; the rest goes on."""
    url, name = quoted
    async with connected(url) as connection:
        await connection.execute(f'drop table "{name}".events cascade')
    findings = await look(url, schema=name)

    (lost,) = [f for f in findings if "table events is missing" in f.found]
    assert "backup" in lost.cure
    assert [f for f in findings if f.check == "clock" and f.level is Level.OK]
    assert [f for f in findings if f.check == "marks" and "could not look" in f.found]


async def test_a_partition_that_takes_inserts_by_itself_is_an_error(quoted):
    """Readers wait for writers of events, not of its partitions."""
    url, name = quoted
    async with connected(url) as connection:
        await connection.execute(
            f"""drop table "{name}".events cascade;
                create table "{name}".events (position bigint generated always as identity, tenant_id text)
                    partition by hash (tenant_id);
                create table "{name}"."part 0" partition of "{name}".events for values with (modulus 1, remainder 0);
                alter table "{name}"."part 0" set unlogged;
                grant insert on "{name}"."part 0" to "{name}_append", public"""
        )
        found = worse(await look(url, "partitions", schema=name))
        assert [f.level for f in found] == [Level.ERROR] * 3
        assert "UNLOGGED" in found[0].found
        assert "part 0" in found[0].found
        for finding in found:
            for statement in sql_of(finding.cure):
                await connection.execute(statement)
        assert not worse(await look(url, "partitions", schema=name))


async def test_a_schema_of_another_version_is_a_finding(database, empty_database):
    """Missing, empty, outdated, newer: each with its cure, and nothing else crashes."""
    (missing,) = await look(empty_database, "schema", schema="ev2")
    assert (missing.level, missing.cure) == (Level.ERROR, "eventstore migrate up --schema ev2")
    async with connected(empty_database) as connection:
        await connection.execute("create schema ev2")
    (empty,) = await look(empty_database, "schema", schema="ev2")
    assert "no tables" in empty.found
    for version, cure in (("0999", "pip install --upgrade"), ("0000", "eventstore migrate up")):
        async with connected(database) as connection:
            await connection.execute(f"update eventstore.alembic_version set version_num = '{version}'")
        findings = await look(database)
        (other,) = worse(findings)
        assert other.check == "schema"
        assert other.level is Level.ERROR
        assert cure in other.cure
        assert [f.level for f in findings if f.check == "objects"] == [Level.NOTE]


DATABASE_SETTINGS = [
    ("synchronous_commit", "off", Level.WARNING, "may be lost"),
    ("default_transaction_read_only", "on", Level.ERROR, "every append is refused"),
    ("default_transaction_isolation", "serializable", Level.NOTE, "stale"),
    ("idle_in_transaction_session_timeout", "0", Level.NOTE, "wait for ever"),
]


@pytest.mark.parametrize(("name", "value", "level", "found"), DATABASE_SETTINGS)
async def test_a_setting_of_the_database_is_found_and_cured(database, server, name, value, level, found):
    """Its value, where it comes from, and what it means."""
    base = urlsplit(database).path[1:]
    async with connected(server) as connection:
        await connection.execute(f"alter database {base} set {name} = '{value}'")
        (finding,) = await look(database, f"settings.{name}")
        assert finding.level is level
        assert found in finding.found
        assert f"{name} is {value} (from: database" in finding.found
        await connection.execute(finding.cure)
        assert not await look(database, f"settings.{name}")


async def test_a_setting_of_the_role_is_cured_at_the_role(database, server):
    """The cure goes where the value comes from."""
    user = f"pges_doctor_{os.getpid()}"
    async with connected(server) as connection:
        await connection.execute(f"create role {user} login superuser; alter role {user} set synchronous_commit = off")
        try:
            url = as_user(database, user)
            (finding,) = await look(url, "settings.synchronous_commit")
            assert finding.cure == f"alter role \"{user}\" set synchronous_commit = 'on';"
            await connection.execute(finding.cure)
            assert not await look(url, "settings.synchronous_commit")
        finally:
            await connection.execute(f"drop role {user}")


def as_user(url, user):
    return url.replace("postgres@", f"{user}@", 1).replace("postgres:", f"{user}:", 1)


async def test_a_database_of_another_encoding_is_an_error(server):
    """Not every text could be stored."""
    name = f"pges_test_ascii_{os.getpid()}"
    async with connected(server) as connection:
        await connection.execute(
            f"create database {name} encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0"
        )
        try:
            (finding,) = await look(on_database(server, name), "settings.server_encoding")
            assert finding.level is Level.ERROR
        finally:
            await connection.execute(f"drop database {name}")


async def test_few_connections_left_is_a_warning(database, monkeypatch):
    """Before nobody gets one."""
    monkeypatch.setattr("eventstore.doctor.settings.FULL", 0.0)
    (finding,) = await look(database, "connections")
    assert finding.level is Level.WARNING
    assert "max_connections" in finding.cure


@pytest.fixture
def ordinary(database, server):
    """URLs of users without any privilege but one group role's."""
    made = {}

    def make(kind):
        made[kind] = user = f"pges_doctor_{kind or 'nobody'}_{os.getpid()}"
        run_all(database, f"create role {user} login", *([f"grant eventstore_{kind} to {user}"] if kind else []))
        return as_user(database, user)

    yield make
    for user in made.values():
        run_sql(server, f"drop role {user}")


async def test_an_ordinary_role_is_told_what_it_may_and_what_it_could_not_see(database, ordinary):
    """No warning for one that appends or reads; a note of what is hidden; an error for one that may not read."""
    kinds = ("append", "read", "follow", "")
    appends, reads, follows, nobody = [await asyncio.to_thread(ordinary, kind) for kind in kinds]
    async with connected(database):
        findings = await look(appends)
        (used,) = [int(f.found.split()[0]) for f in findings if f.check == "connections"]
        assert used >= 2  # the test's and the doctor's own: others' sessions count, though they are hidden
        assert not worse(findings)
        (hidden,) = [f for f in findings if f.check == "transactions" and "cannot be looked into" in f.found]
        assert "pg_read_all_stats" in hidden.cure
    assert [f.found.endswith("may read and append") for f in findings if f.check == "role"] == [True]
    findings = await look(reads)
    assert not worse(findings)
    assert ["may not append" in f.found for f in findings if f.check == "role"] == [True]
    assert ["may not run followers" in f.found for f in findings if f.check == "followers.role"] == [True]
    findings = await look(follows)
    assert not worse(findings)
    assert ["may run followers" in f.found for f in findings if f.check == "followers.role"] == [True]
    findings = await look(nobody)
    (refused,) = [f for f in findings if f.check == "schema"]
    assert refused.level is Level.ERROR
    async with connected(database) as connection:
        await connection.execute(refused.cure)
    assert not worse(await look(nobody))


async def test_a_role_that_cannot_publish_is_warned(database, ordinary):
    """It appends, but marks fall behind."""
    url = await asyncio.to_thread(ordinary, "read")
    user = urlsplit(url).username
    async with connected(database) as connection:
        await connection.execute(f"grant insert on eventstore.checkpoints to {user}")
        (finding,) = await look(url, "followers.role")
        assert finding.level is Level.WARNING
        assert "run followers in part only" in finding.found
        await connection.execute(finding.cure)
        assert [f.level for f in await look(url, "followers.role")] == [Level.OK]
        await connection.execute(f"drop owned by {user}; grant eventstore_read to {user}")
        await connection.execute(f"grant insert on eventstore.events to {user}")
        (finding,) = await look(url, "role")
        assert finding.level is Level.WARNING
        await connection.execute(finding.cure)
        assert [f.level for f in await look(url, "role")] == [Level.OK]
        await connection.execute(f"drop owned by {user}")


async def test_a_group_role_that_is_missing_is_noted_and_its_cure_makes_it(empty_database):
    """As after a migration by a user who may not create roles."""
    name = f"gone_{os.getpid()}"
    await asyncio.to_thread(schema.migrate, empty_database, schema=name)
    async with connected(empty_database) as connection:
        for kind in ("append", "follow"):
            await connection.execute(f"drop owned by {name}_{kind}; drop role {name}_{kind}")
        missing = [f for f in await look(empty_database, schema=name) if "is not there" in f.found]
        assert [(f.check, f.level) for f in missing] == [("roles", Level.NOTE), ("followers.roles", Level.NOTE)]
        for finding in missing:
            await connection.execute(finding.cure)
        assert not [f for f in await look(empty_database, schema=name) if "roles" in f.check and f.level > Level.OK]
        for kind in ("read", "append", "follow"):
            await connection.execute(f"drop owned by {name}_{kind}; drop role {name}_{kind}")


@contextlib.asynccontextmanager
async def held(url, sql, end="rollback"):
    """A transaction that has run `sql` and stays open."""
    async with connected(url) as connection:
        await connection.execute("begin; set application_name = 'forgetful'")
        await connection.execute(sql)
        try:
            yield connection
        finally:
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError):
                await connection.execute(end)


async def test_a_forgotten_transaction_is_named_with_its_cure(quoted, monkeypatch):
    """A warning while nobody waits, an error once readers do; ending it by the cure lets them go on."""
    url, name = quoted
    monkeypatch.setattr(log, "HELD_SECONDS", 0.0)
    async with held(url, INSERT.format(s=f'"{name}"', id="a-1")) as connection:
        (early,) = await look(url, "blockers", schema=name)
        assert early.level is Level.WARNING
        async with connected(url) as other:
            await other.execute(INSERT.format(s=f'"{name}"', id="b-1"))
            (finding,) = await look(url, "blockers", schema=name)
            assert finding.level is Level.ERROR
            assert "wait at position 0 for pid" in finding.found
            assert "forgetful" in finding.found
            assert str(connection.get_server_pid()) in finding.cure
            await other.execute(finding.cure)
            deadline = time.monotonic() + 5
            while (after := await look(url, "blockers", schema=name))[0].level is not Level.OK:
                assert time.monotonic() < deadline, after


async def test_a_transaction_that_is_young_is_nothing(quoted):
    """Somebody always appends."""
    url, name = quoted
    async with held(url, INSERT.format(s=f'"{name}"', id="a-1")):
        assert [f.level for f in await look(url, "blockers", schema=name)] == [Level.OK]


async def test_a_transaction_whose_start_is_hidden_is_watched(database, ordinary, monkeypatch):
    """By a role that may not look into others' sessions: one that stays is named, one that ends is not."""
    url = await asyncio.to_thread(ordinary, "append")
    monkeypatch.setattr(log, "HELD_SECONDS", 1.0)
    async with held(database, INSERT.format(s="eventstore", id="a-1")) as connection:
        (finding,) = await look(url, "blockers")
        assert finding.level > Level.NOTE
        assert "not visible" in finding.found
        monkeypatch.setattr(log, "HELD_SECONDS", 10.0)
        ending = asyncio.get_running_loop().call_later(0.5, lambda: asyncio.ensure_future(connection.execute("rollback")))
        (finding,) = await look(url, "blockers")
        ending.cancel()
        assert finding.level is Level.OK


async def test_a_prepared_transaction_is_named_with_its_cure(quoted, monkeypatch):
    """It has no process to end."""
    url, name = quoted
    monkeypatch.setattr(log, "HELD_SECONDS", 0.0)
    monkeypatch.setattr(activity, "OLD_SECONDS", 0.0)
    async with connected(url) as connection:
        if not int(await connection.fetchval("show max_prepared_transactions")):
            pytest.skip("the server has max_prepared_transactions = 0")
        await connection.execute(
            "begin; " + INSERT.format(s=f'"{name}"', id="a-1") + f"; prepare transaction 'it''s {name}'"
        )
        (finding,) = await look(url, "blockers", schema=name)
        (old,) = [f for f in await look(url, "transactions", schema=name) if "prepared" in f.found and name in f.found]
        assert old.level is Level.WARNING
        assert sql_of(old.cure)[0] == f"rollback prepared 'it''s {name}'"
        await connection.execute(sql_of(finding.cure)[0])
        assert [f.level for f in await look(url, "blockers", schema=name)] == [Level.OK]


async def test_marks_that_nobody_publishes_are_a_warning_and_one_command_cures_it(quoted):
    """As where all writers are plain SQL."""
    url, name = quoted
    async with connected(url) as connection:
        await connection.execute(
            f"""insert into "{name}".events (stream_id, version, type, event_id, data, recorded_at)
                select 'a-' || n, 1, 'T', gen_random_uuid(), '{{}}', now() - interval '2 minutes' from generate_series(1, 3) n"""
        )
    (finding,) = await look(url, "marks", schema=name)
    assert finding.level is Level.WARNING
    assert "3 positions behind" in finding.found
    options = re.search(r"--schema (\w+)", finding.cure)
    assert options[1] == name
    now = datetime.now(UTC).isoformat()
    await asyncio.to_thread(cli, "history", "any-1", "--at", now, "--schema", name, url=url)
    assert [f.level for f in await look(url, "marks", schema=name)] == [Level.OK]


async def test_a_time_mark_in_the_future_is_a_warning(quoted):
    """The database's clock went back."""
    url, name = quoted
    async with connected(url) as connection:
        await connection.execute(f"insert into \"{name}\".time_marks values (now() + interval '1 hour', 0)")
    (finding,) = await look(url, "marks", schema=name)
    assert finding.level is Level.WARNING
    assert "in the future" in finding.found


async def test_a_long_transaction_of_any_database_is_named(database, server, monkeypatch):
    """It keeps vacuum from its work everywhere: idle is a warning, at work a note, at work for very long a warning."""
    monkeypatch.setattr(activity, "OLD_SECONDS", 0.0)
    async with held(server, "select 1") as connection:
        pid = str(connection.get_server_pid())
        (idle,) = [f for f in await look(database, "transactions") if pid in f.cure]
        assert idle.level is Level.WARNING
        assert "forgetful" in idle.found
    async with connected(server) as working:
        pid = str(working.get_server_pid())
        task = asyncio.ensure_future(working.execute("select pg_sleep(30)"))
        for limit, level in ((3600.0, Level.NOTE), (0.0, Level.WARNING)):
            monkeypatch.setattr(activity, "VERY_OLD_SECONDS", limit)
            await asyncio.sleep(0.05)
            (found,) = [f for f in await look(database, "transactions") if pid in f.cure]
            assert found.level is level
        await asyncio.to_thread(run_sql, database, found.cure.rstrip(";"))
        with pytest.raises((asyncpg.PostgresError, ConnectionError)):
            await task


async def test_an_idle_replication_slot_is_noted_and_a_hungry_one_is_a_warning(database, own_server, monkeypatch):
    """It keeps write-ahead log until the disk is full."""
    async with connected(own_server.dsn) as connection:
        await connection.execute("select pg_create_physical_replication_slot('lazy', true)")
        (finding,) = [f for f in await look(own_server.dsn, "slots") if "lazy" in f.found]
        assert finding.level is Level.NOTE
        monkeypatch.setattr(activity, "RETAINED_BYTES", -1)
        (finding,) = [f for f in await look(own_server.dsn, "slots") if "lazy" in f.found]
        assert finding.level is Level.WARNING
        await connection.execute(finding.cure)
        assert not [f for f in await look(own_server.dsn, "slots") if "lazy" in f.found]


async def test_a_skewed_clock_is_a_note(database, monkeypatch):
    """Nothing rests on it."""
    monkeypatch.setattr(server_checks, "now", lambda: datetime.now(UTC) - timedelta(hours=1))
    (finding,) = await look(database, "clock")
    assert finding.level is Level.NOTE
    assert re.search(r"3(600|599) s off", finding.found)


def test_a_folder_of_our_name_is_found(tmp_path, monkeypatch):
    """Before ours on the path: an error. In the current folder: a warning. A bare folder gives way to a package."""
    ours = str(Path(packages.__file__).resolve().parent.parent.parent)
    assert list(packages.shadowed([ours], tmp_path)) == []
    (tmp_path / "projections").mkdir()
    (found,) = packages.shadowed([str(tmp_path), ours], tmp_path)
    assert (found.level, found.cure) == (Level.WARNING, f"mv {tmp_path}/projections {tmp_path}/my_projections")
    (tmp_path / "projections" / "__init__.py").touch()
    (found,) = packages.shadowed([str(tmp_path), ours], tmp_path / "elsewhere")
    assert found.level is Level.ERROR
    assert "`import projections` finds" in found.found
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "eventstore.py").touch()
    found = list(packages.shadowed([ours], tmp_path / "elsewhere"))
    assert [(f.level, "eventstore.py" in f.found) for f in found] == [(Level.WARNING, True)]
    assert list(packages.shadowed([ours], Path(ours))) == []
    (tmp_path / "a b" / "projections").mkdir(parents=True)
    (found,) = packages.shadowed([ours], tmp_path / "a b")
    subprocess.run(found.cure, shell=True, check=True)
    assert list(packages.shadowed([ours], tmp_path / "a b")) == []


# -- followers


FOLLOWERS = [
    ("insert into {s}.checkpoints (follower, position) values ('f''s', 9)", Level.ERROR, "restored from an older backup"),
    (
        f"{INSERT}; insert into {{s}}.checkpoints (follower) values ('f'); "
        "insert into {s}.leases (follower, owner, pid, backend_start) select 'f', gen_random_uuid(), 1, now()",
        Level.WARNING,
        "has not been heard of",
    ),
    (
        "insert into {s}.checkpoints (follower) values ('f'); "
        "insert into {s}.daemons values ('00000000-0000-0000-0000-000000000001', 'host 1', now(), now() - interval '1 s'); "
        "insert into {s}.leases (follower, owner, pid, backend_start) "
        "values ('f', '00000000-0000-0000-0000-000000000001', 1, now())",
        Level.NOTE,
        "the daemon host 1",
    ),
    (
        f"{INSERT}; insert into {{s}}.checkpoints (follower, updated_at) values ('f', now() - interval '1 hour'); "
        "insert into {s}.daemons values ('00000000-0000-0000-0000-000000000001', 'host 1', now(), now() + interval '1 hour'); "
        "insert into {s}.leases (follower, owner, pid, backend_start) "
        "values ('f', '00000000-0000-0000-0000-000000000001', 1, now())",
        Level.WARNING,
        "has not moved for 3600 s",
    ),
]


@pytest.mark.parametrize(("rows", "level", "found"), FOLLOWERS)
async def test_followers_that_are_lost_stuck_or_beyond_the_log_are_found(quoted, rows, level, found):
    """By the checks of `projections`, found by their entry point."""
    url, name = quoted
    async with connected(url) as connection:
        await connection.execute(rows.format(s=f'"{name}"', id="a-1"))
        (finding,) = [f for f in await look(url, "followers", schema=name) if f.check == "followers"]
        assert finding.level is level
        assert found in finding.found
        if level is Level.ERROR:
            await connection.execute(finding.cure)
            assert not worse(await look(url, "followers", schema=name))


# -- a server of its own: settings of the whole server, logical replication, a standby


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    """A durable server with wal_level = logical."""
    folder = tmp_path_factory.mktemp("own")
    with embedded.start(folder) as server:
        run_sql(server.dsn, "alter system set wal_level = 'logical'")
    with embedded.start(folder) as server:
        yield server


SERVER_SETTINGS = [
    ("fsync", "off", Level.ERROR),
    ("full_page_writes", "off", Level.ERROR),
    ("autovacuum", "off", Level.WARNING),
    ("track_counts", "off", Level.WARNING),
]


@pytest.mark.parametrize(("name", "value", "level"), SERVER_SETTINGS)
async def test_a_setting_of_the_server_is_found_and_cured(own_server, name, value, level):
    """Each with the file that it comes from, where the role may see it."""
    assert not await look(own_server.dsn, f"settings.{name}")
    async with connected(own_server.dsn) as connection:
        await connection.execute(f"alter system set {name} = {value}")
        await connection.execute("select pg_reload_conf()")
        await settled(connection, name, value)
        (finding,) = await look(own_server.dsn, f"settings.{name}")
        assert finding.level is level
        assert "configuration file" in finding.found
        assert "postgresql.auto.conf" in finding.found
        for statement in sql_of(finding.cure):
            await connection.execute(statement)
        await settled(connection, name, "on")
        assert not await look(own_server.dsn, f"settings.{name}")


async def settled(connection, name, value):
    deadline = time.monotonic() + 5
    while await connection.fetchval(f"show {name}") != value:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_durable_server_is_healthy(own_server):
    """Nothing worse than a note, without any exception for these tests."""
    async with connected(own_server.dsn) as connection:
        await connection.execute("create database healthy")
    url = on_database(own_server.dsn, "healthy")
    await asyncio.to_thread(schema.migrate, url)
    report = await examine(EventStore(url))
    assert report.level is Level.NOTE, worse(report.findings)
    said = await asyncio.to_thread(cli, "doctor", "--json", url=url)
    for line in said.splitlines():
        assert set(json.loads(line)) == {"check", "level", "found", "expected", "cure"}


async def test_a_log_that_logical_replication_fills_is_refused(own_server):
    """At opening and by the doctor, also for an ordinary role; dropping the subscription cures it."""
    for name in ("publisher", "subscriber"):
        async with connected(own_server.dsn) as connection:
            await connection.execute(f"create database {name}")
        await asyncio.to_thread(schema.migrate, on_database(own_server.dsn, name), schema="ev2")
    here, there = (on_database(own_server.dsn, name) for name in ("subscriber", "publisher"))
    host = parse_qs(urlsplit(there).query)["host"][0]
    async with connected(there) as connection, connected(here) as subscriber:
        await connection.execute("create publication p for table ev2.events")
        await connection.execute("select pg_create_logical_replication_slot('s', 'pgoutput')")
        await subscriber.execute(
            f"create subscription s connection 'host={host} dbname=publisher user=postgres' publication p "
            "with (create_slot = false, slot_name = 's')"
        )
        await subscriber.execute("create role reader login; grant ev2_read to reader")
        for url in (here, as_user(here, "reader")):
            with pytest.raises(errors.LogicalSubscriber, match="subscription 's'"):
                await EventStore(url, schema="ev2").open()
            (finding,) = await look(url, "subscription", schema="ev2")
            assert finding.level is Level.ERROR
        async with EventStore(there, schema="ev2"):
            pass
        await subscriber.execute(sql_of(finding.cure)[0])
        assert not worse(await look(here, "subscription", schema="ev2"))
        async with EventStore(here, schema="ev2"):
            pass


@pytest.fixture
def standby(own_server):
    """A hot standby of that server."""
    run_sql(own_server.dsn, "create database replicated")
    schema.migrate(on_database(own_server.dsn, "replicated"))
    with standby_of(own_server, "replicated") as url:
        yield url


async def test_a_standby_is_told_from_a_primary_and_is_no_crash(standby):
    """It takes no appends and sees no writers; everything else is looked at."""
    findings = await look(standby)

    assert not worse(findings)
    notes = {f.check: f.found for f in findings if f.level is Level.NOTE}
    assert "a standby" in notes["server"]
    assert "a standby" in notes["blockers"]
    assert "poll" in notes["listen"]
    assert not [f for f in findings if "could not look" in f.found]


# -- the way to the server


def test_a_pooler_is_known_by_the_process_that_it_made_up():
    """Without a pooler at hand: what was told, who answered, what was refused."""
    assert judge_pooler(7, [7, 7, 7], "", from_pool=False).level is Level.OK
    assert judge_pooler(7, [8, 8, 8], "", from_pool=False).level is Level.WARNING
    assert "another session" in judge_pooler(7, [8, 9, 8], "", from_pool=False).found
    assert judge_pooler(7, [8, 8], "", from_pool=True).level is Level.NOTE
    refused = judge_pooler(0, [], "unsupported startup parameter: jit", from_pool=False)
    assert refused.level is Level.ERROR
    assert "statement_cache_size=0" in refused.cure
    assert "pooler" not in judge_pooler(7, [7], "the role may not", from_pool=False).found


async def test_notifications_that_do_not_arrive_are_a_warning(database, server, monkeypatch):
    """As through a pooler: here the listener is led to another database."""
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 0.2)
    report = await examine(EventStore(database), listen_url=server)
    (finding,) = [f for f in report.findings if f.check == "listen"]
    assert finding.level is Level.WARNING
    assert "--listen-url" in finding.cure
    report = await examine(EventStore(database, wake_ups=WakeUps(listen_url=server)), listen_url=database)
    assert [f.level for f in report.findings if f.check == "listen"] == [Level.OK]


async def test_a_store_on_an_asyncpg_pool_is_examined_on_its_connections(quoted):
    """And they are given back as they were."""
    url, name = quoted
    base = urlsplit(url).path[1:]
    async with connected(url) as connection:
        await connection.execute(f"alter database {base} set default_transaction_isolation = 'serializable'")
    async with asyncpg.create_pool(url, ssl=False, min_size=0, max_size=5) as pool:
        findings = await look(pool, schema=name)
        assert [f.check for f in worse(findings)] == ["settings.default_transaction_isolation"]
        assert [f.level for f in findings if f.check in ("pooler", "listen")] == [Level.OK] * 2
        async with pool.acquire() as connection:
            assert not connection.is_in_transaction()
            assert await connection.fetchval("select count(*) from pg_listening_channels()") == 0


async def test_pgbouncer_is_detected_and_its_refusal_is_the_finding(database, pgbouncer, monkeypatch):
    """Refused startup parameters are no crash: everything else is looked at through it."""
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 0.5)
    url = await asyncio.to_thread(pgbouncer)
    findings = await look(url)
    (pooler,) = [f for f in findings if f.check == "pooler"]
    assert pooler.level is Level.ERROR
    assert "startup parameter" in pooler.found
    assert [f.level for f in findings if f.check in ("schema", "objects", "sequence", "blockers")] == [Level.OK] * 4
    (listen,) = [f for f in findings if f.check == "listen"]
    assert listen.level is Level.WARNING
    report = await examine(EventStore(url), listen_url=database)
    assert [f.level for f in report.findings if f.check == "listen"] == [Level.OK]


async def test_what_works_through_pgbouncer_is_told_from_what_does_not(pgbouncer, monkeypatch):
    """Told to ignore our settings: a warning by address; by an asyncpg pool as the cure says, a note."""
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 0.5)
    url = await asyncio.to_thread(
        pgbouncer,
        "ignore_startup_parameters = default_transaction_isolation, idle_in_transaction_session_timeout, "
        "tcp_keepalives_idle, tcp_keepalives_interval, tcp_keepalives_count, enable_seqscan, enable_sort, jit, lock_timeout",
    )
    (finding,) = await look(url, "pooler")
    assert finding.level > Level.NOTE
    assert "pooler" in finding.found
    async with asyncpg.create_pool(url, ssl=False, statement_cache_size=0, min_size=0, max_size=5) as pool:
        findings = await look(pool)
        assert [f.level for f in findings if f.check == "pooler"] == [Level.NOTE]
        assert [f.check for f in worse(findings)] == ["listen"]


# -- the command


async def test_the_command_prints_and_exits_by_the_worst_level(quoted):
    """0 nothing worse than a note, 6 warnings, 7 errors, 2 no server; one JSON document a finding."""
    url, name = quoted
    safe = await asyncio.to_thread(run_sql, url, "show fsync") == "on"
    said = await asyncio.to_thread(cli_doctor, url, "--schema", name, "--json")
    assert said[0] == (0 if safe else 7)
    documents = [json.loads(line) for line in said[1].splitlines()]
    assert all(set(d) == {"check", "level", "found", "expected", "cure"} for d in documents)
    assert {"ok", "note"} <= {d["level"] for d in documents} <= {"ok", "note", "warning", "error"}
    async with connected(url) as connection:
        await connection.execute(f'alter sequence "{name}".events_position_seq cache 5')
    code, said = await asyncio.to_thread(cli_doctor, url, "--schema", name)
    assert code == 7
    assert "error    sequence: " in said
    assert f'cure: alter sequence "{name}".events_position_seq cache 1;' in said
    assert "\x1b[" not in said
    await asyncio.to_thread(cli, "doctor", "--url", "postgresql://nobody@127.0.0.1:1/x", code=2)
    await asyncio.to_thread(cli, "doctor", code=2)


def test_it_is_coloured_on_a_terminal(quoted):
    """And only there."""
    url, name = quoted
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from eventstore.cli import main; main()", "doctor", "--url", url, "--schema", name]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm-256color"}
    ) as done:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # how a terminal ends on Linux
            while part := os.read(ours, 65536):
                said += part
        os.close(ours)
    assert done.returncode in (0, 7)
    assert b"\x1b[32mok" in said
    assert b"\x1b[36mnote" in said


def cli_doctor(url, *args):
    command = [sys.executable, "-c", "from eventstore.cli import main; main()", "doctor", "--url", url, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


async def test_warnings_have_a_code_of_their_own(own_server):
    """On a server where nothing else is wrong."""
    async with connected(own_server.dsn) as connection:
        await connection.execute("create database warned; ")
    url = on_database(own_server.dsn, "warned")
    await asyncio.to_thread(schema.migrate, url)
    async with connected(url) as connection:
        await connection.execute("grant delete on eventstore.events to public")
    assert (await asyncio.to_thread(cli_doctor, url))[0] == 6


async def test_it_writes_nothing(database):
    """Every check runs READ ONLY: no transaction id is drawn, and one that tries is refused."""

    async def write(seen):
        await seen.rows('delete from "eventstore".checkpoints')

    seen = examination.Check("naughty", write)
    looking = checkup._examination(EventStore(database), database, "")
    await looking.begin()
    try:
        (finding,) = await seen.run(looking)
        assert "could not look" in finding.found
        assert "read-only" in finding.found
    finally:
        await looking.end()


async def test_a_check_that_hangs_or_fails_is_said_and_the_others_go_on(database, monkeypatch):
    """Time-outs, lost connections and bugs of other packages."""

    async def slow(seen):
        await seen.rows("select pg_sleep(60)")

    async def asleep(_seen):
        await asyncio.sleep(60)

    async def broken(_seen):
        raise ZeroDivisionError("theirs")

    async def killed(seen):
        await seen.rows("select pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(examination, "CHECK_SECONDS", 0.5)
    monkeypatch.setattr(examination, "STATEMENT_SECONDS", 0.2)
    bad = [Check(f.__name__, f) for f in (slow, asleep, broken, killed)]
    monkeypatch.setattr(checkup, "_of_others", lambda: [*bad, Check("last", server_checks.clock)])
    begun = time.monotonic()
    findings = await look(database)

    assert time.monotonic() - begun < 10
    said = {f.check: f.found for f in findings if f.level is Level.WARNING}
    assert set(said) >= {"slow", "asleep", "broken", "killed"}
    assert all(text.startswith("could not look: ") for name, text in said.items() if not name.startswith("settings"))
    assert "ZeroDivisionError: theirs" in said["broken"]
    assert findings[-1].level is Level.OK


async def test_a_server_that_goes_away_is_said_by_every_check_that_is_left(database, monkeypatch):
    """Without waiting for it each time."""
    tries = []

    async def gone():
        tries.append(1)
        await asyncio.sleep(60)

    async def cut(seen):
        seen.connection.abort()
        seen.connect = gone
        await seen.rows("select 1")

    monkeypatch.setattr(examination, "CHECK_SECONDS", 0.5)
    cutting = [Check("cut", cut), *(Check(f"left{n}", server_checks.clock) for n in range(5))]
    monkeypatch.setattr(checkup, "_of_others", lambda: cutting)
    findings = (await examine(EventStore(database))).findings[-6:]

    assert [f.level for f in findings] == [Level.WARNING] * 6
    assert all(f.found.startswith("could not look: ") for f in findings)
    assert tries == [1]


async def test_a_pool_without_a_free_connection_ends_the_examination(database, monkeypatch):
    """Rather than wait for ever."""
    monkeypatch.setattr(examination, "CHECK_SECONDS", 0.3)
    async with (
        asyncpg.create_pool(database, ssl=False, min_size=0, max_size=5) as pool,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(5):
            await stack.enter_async_context(pool.acquire())
        with pytest.raises(errors.ConnectionLost, match="no connection that answers"):
            await examine(EventStore(pool))


async def test_a_server_that_is_too_old_is_an_error():
    """By the check itself, since no such server is at hand."""

    async def none():
        raise AssertionError

    old = examination.Examination("eventstore", none, none, none, version=140005, version_text="14.5")
    (finding,) = await server_checks.server(old)
    assert (finding.level, finding.found) == (Level.ERROR, "PostgreSQL 14.5")


async def test_checks_of_a_package_that_cannot_be_loaded_are_said(database, monkeypatch):
    """Somebody else's package does not silence ours."""
    broken = EntryPoint("theirs", "nowhere.at.all:CHECKS", checkup.GROUP)
    monkeypatch.setattr(checkup, "entry_points", lambda group: [broken])
    (finding,) = await look(database, "theirs")
    assert finding.level is Level.WARNING
    assert "nowhere.at.all:CHECKS could not be loaded: ModuleNotFoundError" in finding.found


async def test_a_setting_of_the_command_line_or_the_url_is_cured_there(database):
    """ALTER SYSTEM would change nothing."""
    (finding,) = await look(
        f"{database}{'&' if '?' in database else '?'}synchronous_commit=off", "settings.synchronous_commit"
    )
    assert finding.cure == "take synchronous_commit out of the URL or of PGOPTIONS"
    for finding in await look(database, "settings.fsync"):
        if "command line" in finding.found:
            assert finding.cure == "restart the server without -c fsync=..."


def test_a_report_is_as_bad_as_its_worst_finding():
    """And an empty one is well."""
    assert Report(()).level is Level.OK
    assert Report((Finding("a", Level.NOTE, "x"), Finding("b", Level.ERROR, "y"))).level is Level.ERROR
