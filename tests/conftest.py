"""The server that the tests run on, and a fresh database for each test.

The server is EVENTSTORE_TEST_URL's where that is set, else an embedded one, started once by the process that hands out
the tests. Each worker migrates one template database and copies it for every test (40 ms). Dropping it without FORCE
afterwards fails the test that left a connection open.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg
import pytest

from eventstore import EventStore, WakeUps, _binaries, embedded, events, schema

SERVER = pytest.StashKey[str]()
EMBEDDED = pytest.StashKey[object]()


CACHE = pytest.StashKey[str]()


def pytest_configure(config):
    pytest.register_assert_rewrite("eventstore.testing.contract")
    if "EVENTSTORE_CACHE_DIR" not in os.environ:  # as root, what the server's user cannot reach below pytest's folders
        config.stash[CACHE] = os.environ["EVENTSTORE_CACHE_DIR"] = tempfile.mkdtemp(prefix="pges-cache-")
        os.chmod(config.stash[CACHE], 0o755)
        _binaries.CACHE = embedded.CACHE = Path(config.stash[CACHE])
    if hasattr(config, "workerinput"):
        config.stash[SERVER] = config.workerinput["server"]
    elif url := os.environ.get("EVENTSTORE_TEST_URL"):
        config.stash[SERVER] = url
    else:
        server = embedded.start(durable=False)
        config.stash[EMBEDDED] = server
        config.stash[SERVER] = server.dsn


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["server"] = node.config.stash[SERVER]


EXPECTED_SKIPS = (
    "the server has max_prepared_transactions = 0",
    "only root runs the server as somebody else",
    "pgbouncer is not installed",
)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """In CI a test that is skipped for a reason nobody expected fails the run."""
    if not os.environ.get("EVENTSTORE_CI") or hasattr(session.config, "workerinput"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(expected in reason for expected in EXPECTED_SKIPS):
            reporter.write_line(f"unexpected skip: {report.nodeid}: {reason}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config):
    if (server := config.stash.get(EMBEDDED, None)) is not None:
        server.stop()
    if (cache := config.stash.get(CACHE, None)) is not None:
        shutil.rmtree(cache, ignore_errors=True)
        del os.environ["EVENTSTORE_CACHE_DIR"]


def pytest_report_header(config):
    dsn = config.stash[SERVER]
    source = "EVENTSTORE_TEST_URL"
    if (server := config.stash.get(EMBEDDED, None)) is not None:
        source = f"embedded, {server.source}"
    return f"PostgreSQL: {run_sql(dsn, 'show server_version')} ({source})"


def run_sql(dsn, sql, *args):
    """Run one statement on a connection of its own; return its first value."""

    async def go():
        connection = await asyncpg.connect(dsn, ssl=False)
        try:
            return await connection.fetchval(sql, *args)
        finally:
            await connection.close()

    return asyncio.run(go())


def on_database(dsn, name):
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


@pytest.fixture(autouse=True)
def only_this_modules_events(request, monkeypatch):
    """Test modules define events of the same names; a store sees those of its own module, as in one application."""
    mine = {request.module.__name__}
    if hasattr(request.module, "projection_child"):
        mine.add("projection_child")
    monkeypatch.setattr(events, "_seen", {key: cls for key, cls in events._seen.items() if key[0] in mine})


@pytest.fixture(scope="session")
def server(request):
    """The server's URL."""
    return request.config.stash[SERVER]


@pytest.fixture(scope="session")
def template(server, worker_id):
    """A migrated database to copy, one a worker."""
    name = f"pges_template_{worker_id}_{uuid.uuid4().hex[:8]}"
    run_sql(server, f"create database {name}")
    schema.migrate(on_database(server, name))
    yield name
    run_sql(server, f"drop database {name}")


def new_database(server, template=None):
    name = f"pges_test_{uuid.uuid4().hex[:16]}"
    run_sql(server, f"create database {name}" + (f" template {template}" if template else ""))
    return name


def drop_database(server, name):
    """Drop it; connections that are just closing have two seconds, then they count as leaked."""
    deadline = time.monotonic() + 2
    while True:
        try:
            run_sql(server, f"drop database {name}")
            return
        except asyncpg.ObjectInUseError as error:
            if time.monotonic() > deadline:
                who = run_sql(
                    server,
                    "select string_agg(application_name || ': ' || query, '; ') from pg_stat_activity where datname = $1",
                    name,
                )
                run_sql(server, f"drop database {name} with (force)")
                pytest.fail(f"connections were left open: {error.detail} {who}")
            time.sleep(0.02)


@pytest.fixture
def database(server, template):
    """The URL of a fresh, migrated database."""
    name = new_database(server, template)
    yield on_database(server, name)
    drop_database(server, name)


@pytest.fixture
def empty_database(server):
    """The URL of a fresh database with nothing in it."""
    name = new_database(server)
    yield on_database(server, name)
    drop_database(server, name)


@pytest.fixture
async def store(database):
    """An open store on a fresh database."""
    async with EventStore(database, wake_ups=WakeUps(poll_seconds=0.05, listen=False)) as opened:
        yield opened


@pytest.fixture
async def sessions(database):
    """Open connections with given settings to a database whose statistics only the test makes."""
    opened = []

    async def go(settings):
        settings = {"jit": "on", **settings}
        opened.append(await asyncpg.connect(database, ssl=False, statement_cache_size=0, server_settings=settings))
        return opened[-1]

    quiet = await go({})
    for table in ("events", "event_tags", "time_marks", "checkpoints", "leases", "daemons"):
        await quiet.execute(f"alter table eventstore.{table} set (autovacuum_enabled = off)")
    yield go
    for connection in opened:
        await connection.close()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def pgbouncer(database, tmp_path):
    """Starts PgBouncer in transaction mode before the database (or `behind`, another address of it), with more lines for its
    settings or for the database's; gives its URL. `stop` kills it: it may be started again then.
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    port = free_port()
    file = tmp_path / "pgbouncer.ini"

    def start(extra="", *, of_database="", behind=database):
        parts = urlsplit(behind)
        host = parse_qs(parts.query).get("host", [parts.hostname])[0]
        target = f"host={host} port={parts.port or 5432} dbname={parts.path[1:]} user={parts.username} {of_database}"
        target += f" password={parts.password}" if parts.password else ""
        file.write_text(
            f"[databases]\nd = {target}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = 5\n{extra}\n"
        )
        account = _binaries.unprivileged_account()
        as_account = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
        with file.open() as config:  # read before it gives up root: it may not enter the folder
            process = subprocess.Popen(
                [program, "/dev/stdin"],
                stdin=config,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                **as_account,
            )
        processes.append(process)
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return f"postgresql://postgres@127.0.0.1:{port}/d"

    def stop():
        for process in processes:
            process.kill()
            process.wait(10)
        processes.clear()

    processes = []
    start.stop = stop
    yield start
    stop()
