"""A hot standby of a server, as a base backup: started by hand, since an embedded server is never one."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
from conftest import run_sql

from eventstore import _binaries


@contextlib.contextmanager
def standby_of(server, database):
    """Run one; give the URL of `database` on it. `run_sql(url, "select pg_promote()")` makes it a primary."""
    account = _binaries.unprivileged_account()
    binaries = _binaries.find_binaries(None, account)
    host = parse_qs(urlsplit(server.dsn).query)["host"][0]
    folder = Path(host) / "standby"
    as_account = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    copy = [
        binaries.bindir / "pg_basebackup",
        "-h",
        host,
        "-U",
        "postgres",
        "-D",
        folder,
        "-R",
        "-X",
        "stream",
        "-c",
        "fast",
    ]
    subprocess.run(copy, check=True, cwd="/", env=environment, **as_account)
    settings = [
        f"unix_socket_directories={folder}",
        "listen_addresses=",
        "max_connections=200",
        "max_prepared_transactions=8",
    ]
    command = [binaries.bindir / "postgres", "-D", folder, *(part for one in settings for part in ("-c", one))]
    with subprocess.Popen(command, cwd="/", env=environment, stderr=subprocess.DEVNULL, **as_account) as process:
        try:
            url = f"postgresql://postgres@/{database}?host={folder}"
            deadline = time.monotonic() + 30
            while True:
                try:
                    run_sql(url, "select 1")
                    break
                except (OSError, asyncpg.PostgresError):
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield url
        finally:
            process.send_signal(2)
            process.wait(20)
            shutil.rmtree(folder)
