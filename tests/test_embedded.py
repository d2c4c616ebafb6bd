"""The private server: found, started, supervised, stopped."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from eventstore import _binaries, embedded
from eventstore.errors import EmbeddedUnavailable


def ask(dsn, sql="select 1"):
    async def go():
        connection = await asyncpg.connect(dsn, ssl=False)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(go())


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return b"\nState:\tZ" not in Path(f"/proc/{pid}/status").read_bytes() if Path("/proc/self").exists() else True


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def pid_of(server):
    return int((server.folder / "cluster" / "postmaster.pid").read_text().splitlines()[0])


def start_in_child(folder):
    """Start a server in another process; return the process and what it said of the server."""
    code = (
        "import sys, json; from eventstore import embedded; "
        "s = embedded.start(sys.argv[1] or None, durable=False); "
        "print(json.dumps([s.dsn, s.owned, str(s.folder)]), flush=True); sys.stdin.read(); s.stop()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(folder or "")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return child, json.loads(child.stdout.readline())


def end(child):
    child.stdin.close()
    child.stdout.close()
    child.wait(30)


def test_a_temporary_server_is_gone_after_stop():
    """embedded: leaves neither process nor folder."""
    with embedded.start(durable=False) as server:
        pid = pid_of(server)
        assert ask(server.dsn) == 1
        assert server.sqlalchemy_url.startswith("postgresql+psycopg://")

    assert not alive(pid)
    assert not server.folder.exists()


def test_a_folder_keeps_its_data_and_no_socket_folder_stays(tmp_path):
    """embedded:./path finds its data again."""
    with embedded.start(tmp_path, durable=False) as server:
        ask(server.dsn, "create table kept as select 7 as n")
        sockets = Path(ask(server.dsn, "show unix_socket_directories"))
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert not sockets.exists()

    with embedded.start(tmp_path, durable=False) as server:
        assert ask(server.dsn, "select n from kept") == 7


def test_its_settings_can_be_changed(tmp_path):
    """Those that it has by itself, and others; again at the next start."""
    for memory in ("16MB", "24MB"):
        with embedded.start(tmp_path, settings={"shared_buffers": memory, "work_mem": "5MB"}) as server:
            assert ask(server.dsn, "show shared_buffers") == memory
            assert ask(server.dsn, "show work_mem") == "5MB"


def test_on_a_port_the_password_is_asked_for(tmp_path):
    """TCP listens on loopback only, with scram."""
    with embedded.start(tmp_path, port=0, durable=False) as server:
        assert ask(server.dsn, "show listen_addresses") == "127.0.0.1"
        assert ask(server.dsn, "select left(rolpassword, 5) from pg_authid where rolname = 'postgres'") == "SCRAM"
        wrong = server.dsn.replace("postgres:", "postgres:wrong", 1)
        with pytest.raises(asyncpg.InvalidPasswordError):
            ask(wrong)


def test_no_orphan_after_sigkill_of_the_starter(tmp_path):
    """The supervisor sees its pipe close and stops the server; a temporary folder goes too."""
    child, (_, _, folder) = start_in_child(None)
    pid = int((Path(folder) / "cluster" / "postmaster.pid").read_text().splitlines()[0])

    child.kill()
    child.wait()

    wait_until(lambda: not alive(pid))
    wait_until(lambda: not Path(folder).exists())
    end(child)


def test_a_second_process_gets_the_running_address(tmp_path):
    """It neither starts another server nor stops the first one's."""
    child, (dsn, owned, _) = start_in_child(tmp_path)
    assert owned

    with embedded.start(tmp_path) as second:
        assert (second.dsn, second.owned) == (dsn, False)
        assert ask(second.dsn) == 1
    assert ask(dsn) == 1
    end(child)


def test_two_users_in_one_process_share_the_server(tmp_path):
    """The last of them stops it."""
    first = embedded.start(tmp_path, durable=False)
    second = embedded.start(tmp_path)
    assert second.dsn == first.dsn

    first.stop()
    assert ask(second.dsn) == 1
    second.stop()
    with pytest.raises((OSError, asyncpg.PostgresError)):
        ask(second.dsn)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_sigkill_of_supervisor_and_server_leaves_a_folder_that_starts_again(tmp_path):
    """A stale pid file and a stale address are recovered from."""
    server = embedded.start(tmp_path)
    ask(server.dsn, "create table kept as select 7 as n")
    pid = pid_of(server)
    os.kill(pid, signal.SIGKILL)
    server._supervisor.kill()
    wait_until(lambda: not alive(pid))
    stale = (tmp_path / "cluster" / "postmaster.pid").read_text()
    assert stale
    server.stop()

    with embedded.start(tmp_path) as again:
        assert ask(again.dsn, "select n from kept") == 7


def test_a_server_that_died_is_started_anew_for_the_next_user(tmp_path):
    """This process's own record of it does not hand out a dead address."""
    first = embedded.start(tmp_path, durable=False)
    os.kill(pid_of(first), signal.SIGKILL)
    first._supervisor.wait(30)

    with embedded.start(tmp_path, durable=False) as second:
        assert ask(second.dsn) == 1
        first.stop()
        assert ask(second.dsn) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_supervisor_takes_its_server_along(tmp_path):
    """The kernel tells the server."""
    server = embedded.start(tmp_path, durable=False)
    pid = pid_of(server)

    server._supervisor.kill()

    wait_until(lambda: not alive(pid))
    server.stop()


def test_a_stale_pid_file_of_somebody_elses_process_is_removed(tmp_path):
    """Process ids come back; PostgreSQL would refuse to start beside one that lives."""
    embedded.start(tmp_path, durable=False).stop()
    (tmp_path / "cluster" / "postmaster.pid").write_text(f"{os.getpid()}\n/elsewhere\n")

    with embedded.start(tmp_path, durable=False) as server:
        assert ask(server.dsn) == 1


def test_missing_binaries_say_what_was_tried_and_what_to_install(monkeypatch, tmp_path):
    """Each finder is named, and the cure."""
    monkeypatch.setenv("EVENTSTORE_PG_BINDIR", str(tmp_path))
    monkeypatch.setattr(_binaries, "_WHEEL", "no_such_wheel")
    monkeypatch.setattr(_binaries, "_FOLDERS", (str(tmp_path / "*" / "bin"),))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(EmbeddedUnavailable) as caught:
        embedded.start()

    for word in ("EVENTSTORE_PG_BINDIR", "no_such_wheel", str(tmp_path), "pip install", "EVENTSTORE_URL"):
        assert word in str(caught.value)


def test_the_finders_are_asked_in_their_order(monkeypatch, tmp_path):
    """A named folder, the wheel, pg_config, the usual folders: the first that has binaries."""
    real = _binaries.find_binaries()
    elsewhere = tmp_path / "usual" / "18" / "bin"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.symlink_to(real.bindir)
    asked = tmp_path / "pg_config"
    asked.write_text(f"#!/bin/sh\necho {real.bindir}\n")
    asked.chmod(0o755)
    monkeypatch.setattr(_binaries, "_FOLDERS", (str(tmp_path / "usual" / "*" / "bin"),))

    monkeypatch.setenv("EVENTSTORE_PG_BINDIR", str(elsewhere))
    assert _binaries.find_binaries().source.startswith("EVENTSTORE_PG_BINDIR")
    monkeypatch.delenv("EVENTSTORE_PG_BINDIR")
    assert _binaries.find_binaries().source.startswith("wheel")
    monkeypatch.setattr(_binaries, "_WHEEL", "no_such_wheel")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert "pg_config" in _binaries.find_binaries().source
    asked.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _binaries.find_binaries() == _binaries.Binaries(elsewhere, real.version, str(elsewhere))
    with pytest.raises(EmbeddedUnavailable, match="version 99"):
        _binaries.find_binaries(99)


def test_a_folder_of_another_major_version_is_refused(tmp_path):
    """Its files cannot be read by this server."""
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "PG_VERSION").write_text("14\n")

    with pytest.raises(EmbeddedUnavailable, match="14"):
        embedded.start(tmp_path)


def test_a_server_that_does_not_start_shows_its_log(tmp_path, monkeypatch):
    """The reason is in the message, and the folder's lock is free again."""
    embedded.start(tmp_path, durable=False).stop()
    with monkeypatch.context() as patch:
        patch.setitem(embedded._SETTINGS, "no_such_setting", "1")
        with pytest.raises(EmbeddedUnavailable, match="no_such_setting"):
            embedded.start(tmp_path)

    with embedded.start(tmp_path, durable=False) as server:
        assert ask(server.dsn) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_root_below_a_closed_folder_keeps_data_and_binaries_where_the_server_can_reach_them(tmp_path, monkeypatch):
    """A checkout below /root works: the cluster is linked, the binaries are copied."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    account = _binaries.unprivileged_account()
    real = _binaries.find_binaries()
    (closed / "pg").mkdir()
    prefix = real.bindir.parent
    os.symlink(prefix.parent.with_name(f"{prefix.parent.name}.libs"), closed / f"{prefix.parent.name}.libs")
    subprocess.run(["cp", "-r", str(prefix.parent), str(closed / prefix.parent.name)], check=True)
    monkeypatch.setenv("EVENTSTORE_PG_BINDIR", str(closed / prefix.parent.name / prefix.name / "bin"))
    assert not _binaries.reachable(closed / "x", account)

    with embedded.start(closed / "data", durable=False) as server:
        assert ask(server.dsn) == 1
        assert "copied to" in server.source
        assert (closed / "data" / "cluster").is_symlink()
