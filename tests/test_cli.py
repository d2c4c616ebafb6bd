"""The command line, run as a user runs it: in a process of its own."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import run_sql

from eventstore import Event, EventStore, embedded
from eventstore.schema import VERSION

pytestmark = pytest.mark.server

RUN = {"eventstore": "from eventstore.cli import main; main()", "projections": "from projections.cli import main; main()"}


class Noted(Event):
    n: int


def start(*args, url=None, cwd=None, command="eventstore", **options):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EVENTSTORE_") or k == "EVENTSTORE_CACHE_DIR"} | (
        {"EVENTSTORE_URL": url} if url else {}
    )
    return subprocess.Popen(
        [sys.executable, "-c", RUN[command], *args],
        env=environment,
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def cli(*args, code=0, stdin="", **options):
    """Run a command to its end; check its exit code; return what it printed."""
    with start(*args, **options) as process:
        out, err = process.communicate(stdin, timeout=60)
    assert process.returncode == code, f"{args}: exit {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err, err
    if code not in (0, 2):
        assert err.startswith("error: ")
    return out + err


def test_append_read_and_history_go_together(database):
    """As tables and as JSON."""
    cli("append", "account-1", "Opened", '{"owner": "Ada"}', "--expect", "no-stream", url=database)
    said = json.loads(
        cli("append", "account-1", "Moved", '{"to": 1.50}', "--metadata", '{"actor": "bob"}', "--json", url=database)
    )
    assert (said["version"], said["position"]) == (2, 2)
    assert "is at version 2" in cli("append", "account-1", "Opened", "{}", "--expect", "0", url=database, code=3)

    events = [json.loads(line) for line in cli("read", "account-1", "--json", url=database).splitlines()]
    assert [e["data"] for e in events] == [{"owner": "Ada"}, {"to": 1.5}]
    assert events[1]["metadata"] == {"actor": "bob"}
    table = cli("read", url=database)
    assert "Opened" in table
    assert "owner=Ada" in table
    assert "no events" in cli("read", "--type", "Nothing", url=database)
    assert "must be a mapping" in cli("append", "a-1", "T", "--metadata", "[1]", url=database, code=2)
    assert len(cli("read", "--category", "account", "--limit", "1", "--json", url=database).splitlines()) == 1
    assert [
        json.loads(x)["version"] for x in cli("read", "account-1", "--backwards", "--json", url=database).splitlines()
    ] == [2, 1]

    told = json.loads(cli("history", "account-1", "--version", "1", "--diff", "--json", url=database))
    assert [e["type"] for e in told["events"]] == ["Opened"]
    assert [e["type"] for e in told["since"]] == ["Moved"]
    assert told["changes"] == {"to": [None, 1.5]}
    at = events[0]["recorded_at"]
    assert len(json.loads(cli("history", "account-1", "--at", at, "--json", url=database))["events"]) == 1
    assert "1 events up to then" in cli("history", "account-1", "--valid-at", at, "--diff", url=database)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["read"], "no database given"),
        (["read", "--url", "mysql://x/y"], "postgresql://"),
        (["read", "--url", "postgresql://nobody:secret@127.0.0.1:1/x"], "cannot connect"),
        (["append", "a-1", "T", "{nope", "--url", "postgresql://x/y"], "JSON"),
        (["history", "a-1", "--url", "postgresql://x/y"], ""),
        (["history", "a-1", "--at", "yesterday", "--url", "postgresql://x/y"], ""),
        (["import", "/no/such/file", "--url", "postgresql://x/y"], "No such file"),
        (["import", "x.csv", "--url", "postgresql://x/y"], "--stream and --type"),
        (["migrate", "up", "--url", "nonsense"], "postgresql://"),
        (["read", "a-1", "--type", "T"], "leave the stream out"),
        (["read", "--url", "postgresql://[::1/x"], "host or port"),
        (["read", "--url", "ada:secret@host/x"], "postgresql://"),
        (["read", "--after", "99999999999999999999", "--url", "postgresql://x/y"], "--after"),
        (["migrate", "sql", "--since", "9"], f"below {VERSION}"),
        (["migrate", "sql", "--to", "9"], f"versions 0 to {VERSION}"),
        (["import", "-", "--url", "postgresql://x/y"], "--source"),
        (["import", "x.csv", "--stream", "a-{id", "--type", "T", "--url", "postgresql://x/y"], "brace"),
        (["embedded", "start", "/tmp/never", "--port", "99999"], "--port"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(args, why):
    """No traceback, and no password repeated."""
    said = cli(*args, code=2)

    assert why in said
    assert "secret" not in said


def test_a_database_without_the_schema_says_what_to_run(empty_database):
    """And running it cures it."""
    assert "eventstore migrate up" in cli("read", url=empty_database, code=2)
    assert f"{VERSION} behind: run eventstore migrate up" in cli("migrate", "status", url=empty_database)
    assert "up to date" in cli("migrate", "up", url=empty_database)
    assert json.loads(cli("migrate", "status", "--json", url=empty_database))["pending"] == 0
    assert "no events" in cli("read", url=empty_database)
    assert "nothing was done" in cli("migrate", "down", url=empty_database, stdin="n\n", code=2)
    assert json.loads(cli("migrate", "down", "--yes", "--json", url=empty_database))["current"] == 0
    assert "create table" in cli("migrate", "sql")


def test_import_stops_or_skips_and_can_be_repeated(database, tmp_path):
    """Rejects go to a file; standard input works; JSON counts."""
    good = [json.dumps({"stream_id": "a-1", "type": "T", "data": {"n": n}}) for n in range(5)]
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join([*good[:3], "{nope", *good[3:]]) + "\n")

    assert "line 4" in cli("import", str(file), url=database, code=2)
    assert len(cli("read", "--json", url=database).splitlines()) == 3
    said = cli("import", str(file), "--on-error", "skip", url=database)
    assert "2 events added, 3 were there already" in said
    assert (tmp_path / "events.jsonl.rejects").read_text() == "{nope\n"
    counts = json.loads(cli("import", "-", "--source", "stdin", "--json", url=database, stdin="\n".join(good)))
    assert (counts["added"], counts["present"], counts["rejected"]) == (5, 0, 0)


def test_an_import_that_is_killed_is_finished_by_running_it_again(database, tmp_path):
    """Kill it wherever it is; every line is there once."""
    file = tmp_path / "events.jsonl"
    file.write_text(
        "".join(json.dumps({"stream_id": f"a-{n % 9}", "type": "T", "data": {"n": n}}) + "\n" for n in range(20_000))
    )
    for seconds in (0.9, 1.3, 1.7):
        with start("import", str(file), url=database) as process:
            time.sleep(seconds)
            process.kill()
            process.communicate()
    cli("import", str(file), url=database)

    events = [json.loads(line)["data"]["n"] for line in cli("read", "--json", url=database).splitlines()]
    assert sorted(events) == list(range(20_000))


def test_progress_is_shown_to_a_terminal_and_to_nobody_else(database, tmp_path):
    """On standard error, so that output can be piped."""
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps({"stream_id": "a-1", "type": "T", "data": {"n": n}}) + "\n" for n in range(3000)))
    assert "importing" not in cli("import", str(file), url=database)

    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", RUN["eventstore"], "import", str(file), "--source", "again", "--url", database]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += (block := os.read(ours, 4096))
        except OSError:
            break
        if not block:
            break
    os.close(ours)
    assert "3000 events added" in process.communicate(timeout=30)[0]
    assert b"importing" in shown
    assert b"%" in shown


def test_a_reader_that_has_seen_enough_is_no_error(database, tmp_path):
    """Eventstore read | head."""
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps({"stream_id": "a-1", "type": "T", "data": {"n": n}}) + "\n" for n in range(5000)))
    cli("import", str(file), url=database)
    with start("read", "--json", url=database) as process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        process.wait(30)
    assert (process.returncode, said) == (0, "")


MODULE = """
import sqlalchemy as sa
from eventstore import Event
from projections import Daemon, Projection, on

class Noted(Event):
    n: int

class Sums(Projection):
    table = sa.Table("sums", sa.MetaData(), sa.Column("stream", sa.Text, primary_key=True), sa.Column("n", sa.BigInteger))

    @on(Noted)
    def noted(self, event, recorded, rows):
        rows.add(stream=recorded.stream_id, n=event.n)

class Broken(Sums):
    @on("Other")
    def other(self, event, recorded, rows):
        raise ValueError("oh no")

followers = [Sums()]
number = 7

def wrong():
    pass

def daemon(store):
    return Daemon(store, [Sums()], create=True, name="mine")
"""


def test_projections_run_until_a_signal_and_show_their_status(database, tmp_path):
    """SIGTERM lets the batch end and gives the lease back; the status tells who ran where."""
    (tmp_path / "read_models.py").write_text(MODULE)

    async def append():
        async with EventStore(database, events=[Noted]) as store:
            await store.append("a-1", [Noted(n=n) for n in range(10)])

    asyncio.run(append())
    with start("run", "read_models:daemon", url=database, cwd=tmp_path, command="projections") as process:
        deadline = time.monotonic() + 20
        while (found := cli("status", "--json", url=database, command="projections")) == "" or json.loads(found)[
            "position"
        ] < 10:
            assert time.monotonic() < deadline
        assert (json.loads(found)["state"], json.loads(found)["daemon"], json.loads(found)["behind"]) == (
            "running",
            "mine",
            0,
        )
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "10 events took effect" in out + err
    assert "stopped" in cli("status", url=database, command="projections")


def test_projections_run_explains_what_it_cannot_run(database, tmp_path):
    """Missing modules and attributes, a folder that is shadowed, a table that is missing, a handler that fails."""
    (tmp_path / "read_models.py").write_text(MODULE)

    def run(target, *args, code=2):
        return cli("run", target, *args, url=database, cwd=tmp_path, command="projections", code=code)

    assert "module:attribute" in run("read_models")
    assert "no module 'nowhere'" in run("nowhere:daemon")
    assert "nothing" in run("read_models:nothing")
    assert "expected a Projection" in run("read_models:number")
    assert "raised TypeError" in run("read_models:wrong")
    (tmp_path / "broken_module.py").write_text("def")
    assert "SyntaxError" in run("broken_module:daemon")
    assert "CREATE TABLE sums" in run("read_models:followers")
    run("read_models:Sums", "--create", "--until-caught-up", code=0)
    cli("append", "a-1", "Other", "{}", url=database)
    assert "oh no" in run("read_models:Broken", "--until-caught-up")
    (tmp_path / "projections").mkdir()
    assert "rename it" in run("projections.mine:daemon")


def test_embedded_start_prints_an_address_and_stops_on_a_signal(tmp_path):
    """Which others can use meanwhile."""
    with start("embedded", "start", str(tmp_path / "data"), "--port", "0", "--json") as process:
        said = json.loads(process.stdout.readline())
        assert "up to date" in cli("migrate", "status", url=said["url"])
        assert said["sqlalchemy_url"].startswith("postgresql+psycopg://")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_an_embedded_folder_is_an_address_like_any_other(tmp_path):
    """It is started, migrated and stopped by each command."""
    url = f"embedded:{tmp_path}/data"
    cli("append", "a-1", "T", url=url)
    assert len(cli("read", "--json", url=url).splitlines()) == 1
    with embedded.start(tmp_path / "data") as server:
        assert len(cli("read", "--json", url=server.dsn).splitlines()) == 1


def test_the_demo_plays_and_tells(tmp_path):
    """Sales now and then, one order then and since, and how to go on; again on the same data."""
    url = f"embedded:{tmp_path}/demo"
    for run_number in (1, 2):
        said = cli("demo", "--orders", "300", "--url", url)
        assert "turnover then" in said
        assert f"order-{run_number}-" in said
        assert "what came since" in said
        assert "history order-" in said
    line = next(line for line in said.splitlines() if " history " in line)
    stream, _, at = line.split(" history ")[1].split(" ")[:3]
    told = json.loads(cli("history", stream, "--at", at.strip("'"), "--diff", "--json", url=url))
    assert told["events"]
    assert told["since"]


def test_the_demo_takes_a_log_of_ones_own(tmp_path):
    """CSV by mapping."""
    file = Path(tmp_path / "log.csv")
    file.write_text("case,what,at\n" + "".join(f"{n % 4},Step {n % 3},2020-01-01T00:00:{n:02}+00:00\n" for n in range(40)))
    said = cli(
        "demo",
        "--file",
        str(file),
        "--stream",
        "case-{case}",
        "--type",
        "{what}",
        "--occurred-at",
        "{at}",
        "--url",
        "embedded:",
    )

    assert "40 events added" in said
    assert "Step 0" in said


def test_what_is_corrupt_and_what_is_transient_have_exit_codes_of_their_own(database):
    """4: page someone; 5: try again."""
    cli("append", "a-1", "T", url=database)
    assert "lost its tail" in cli("read", "--after", "999", url=database, code=4)
    run_sql(database, "select setval('eventstore.events_position_seq', 1, false)")
    assert "setval" in cli("append", "a-2", "T", url=database, code=4)

    async def locked():
        async with EventStore(database, events=[Noted]) as store, store.transaction() as tx:
            await tx.connection.execute("lock table eventstore.events in exclusive mode")
            return await asyncio.to_thread(cli, "append", "a-3", "T", url=database, code=5)

    assert "try again" in asyncio.run(locked())


def test_a_request_id_appends_once_until_it_is_pruned(database):
    """As for `store.append`."""
    first = json.loads(cli("append", "a-1", "T", "--request-id", "r-1", "--json", url=database))
    again = json.loads(cli("append", "a-1", "T", "--request-id", "r-1", "--json", url=database))
    assert again == {**first, "deduplicated": True}
    assert "was there already: a-1" in cli("append", "a-1", "T", "--request-id", "r-1", url=database)
    assert "stands for other content" in cli("append", "a-1", "Other", "--request-id", "r-1", url=database, code=2)
    assert json.loads(cli("prune-requests", "--older-than", "1h", "--json", url=database)) == {"pruned": 0}
    assert "like 36h" in cli("prune-requests", "--older-than", "soon", url=database, code=2)
    assert "forgot 1 request" in cli("prune-requests", "--older-than", "0s", url=database)
    assert json.loads(cli("append", "a-1", "T", "--request-id", "r-1", "--json", url=database))["version"] == 2


def test_ctrl_c_ends_the_demo_in_one_line(tmp_path):
    """Exit code 130, no traceback, no server left."""
    with start("demo", "--url", f"embedded:{tmp_path}/demo") as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "demo" / "server.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in err


def test_a_second_signal_ends_a_handler_that_hangs(database, tmp_path):
    """The first one waits for the batch."""
    (tmp_path / "read_models.py").write_text(MODULE + HANGS)
    cli("append", "a-1", "Other", url=database)
    with start("run", "read_models:Hangs", url=database, cwd=tmp_path, command="projections") as process:
        deadline = time.monotonic() + 20
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=15)
    assert process.returncode == 130, err
    assert "Traceback" not in err


HANGS = """
import asyncio, pathlib

class Hangs(Projection):
    @on("Other")
    async def other(self, event, recorded, tx):
        pathlib.Path("begun").touch()
        await asyncio.sleep(3600)
"""


def test_version_and_help_work_without_a_database():
    """And name the commands."""
    assert cli("--version").strip() == "0.1.0"
    said = cli("--help")
    for name in ("append", "read", "import", "history", "migrate", "embedded", "demo"):
        assert name in said
