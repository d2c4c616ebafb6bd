"""A private PostgreSQL for development, tests and demos: found, started, supervised, stopped.

``embedded:`` is a temporary server, gone with the process that started it. ``embedded:./path`` keeps its data in
`path`: the cluster in `path/cluster`, the log in `path/server.log`, the running server's address in
`path/server.json`. It is real PostgreSQL with `fsync` on, but it is nobody's production server: no backups, no
upgrades between major versions, one machine.

Who owns what: the starter holds one end of a pipe, a small supervisor process (`_supervisor.py`) the other, and the
supervisor holds the server and a lock on the folder. So no server outlives its starter, however that ends, and the
lock is free exactly when no server runs. A second process (or a second store in this one) that asks for the same
folder is given the running server's address and does not stop it. A child made by `os.fork` that outlives the starter
keeps the pipe, and with it the server, open.

The server listens on a unix socket in a folder that only its user may enter, without a password; with `port=` on
127.0.0.1 with a random password (scram-sha-256). As root the server runs as the user postgres, nobody or daemon; a
data folder which that user cannot reach is kept below /var/lib/pg-eventstore, with a link in its place.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final
from urllib.parse import quote

from . import _cluster, _supervisor
from ._binaries import CACHE, Account, Binaries, find_binaries, reachable, unprivileged_account
from .errors import EmbeddedUnavailable

__all__ = ["EmbeddedServer", "parse_embedded_url", "start"]

START_SECONDS: Final = 60.0
"""How long a server may take to come up; crash recovery of a kept folder is part of it."""

LONGEST_SOCKET_FOLDER: Final = 80
"""A unix socket's path may have 103 bytes on macOS, 107 on Linux, `/.s.PGSQL.5432` included."""

_SETTINGS: Final = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "max_prepared_transactions": "8",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_min_messages": "warning",
}
_FAST_BUT_UNSAFE: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

_running: dict[Path, EmbeddedServer] = {}
_running_guard = threading.Lock()


@dataclass(slots=True)
class EmbeddedServer:
    """A running private server. Use as a context manager, or call `stop`.

    Attributes:
        dsn: libpq URL of the database `postgres` on it, for asyncpg, psycopg and psql.
        version: of the server.
        source: which finder found its binaries.
        folder: where its data lie.
        owned: whether `stop` stops it; False where another process (or another part of this one) started it.
    """

    dsn: str
    version: str
    source: str
    folder: Path
    owned: bool = True
    _supervisor: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _sockets: Path | None = field(default=None, repr=False)
    _users: int = field(default=1, repr=False)

    @property
    def sqlalchemy_url(self) -> str:
        """The same address for SQLAlchemy with psycopg."""
        return self.dsn.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def alive(self) -> bool:
        """Whether the server still runs, as far as this process knows; it knows nothing of one that another owns."""
        return self._supervisor is None or self._supervisor.poll() is None

    def stop(self) -> None:
        """Stop the server and wait until it is gone; the last of several users in this process does."""
        with _running_guard:
            self._users -= 1
            if self._users or self._supervisor is None:
                return
            if _running.get(self.folder) is self:
                del _running[self.folder]
            supervisor, self._supervisor = self._supervisor, None
        assert supervisor.stdin is not None
        supervisor.stdin.close()
        supervisor.wait(_supervisor.FAST_SHUTDOWN_SECONDS + 15)
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)  # in case that the supervisor was killed

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def parse_embedded_url(url: str) -> Path | None:
    """Return the folder that an ``embedded:`` URL names, None for a temporary one."""
    path = url.removeprefix("embedded:").removeprefix("//")
    return Path(path).expanduser() if path else None


def start(
    folder: Path | str | None = None,
    *,
    port: int | None = None,
    major: int | None = None,
    durable: bool = True,
    settings: Mapping[str, str] | None = None,
) -> EmbeddedServer:
    """Start a private server, or find the one that already runs on `folder`. Blocks until it accepts connections.

    Args:
        folder: where the data are kept; None: a temporary folder, removed afterwards.
        port: listen on this port of 127.0.0.1 with a password (0: a free one); None: on a unix socket.
        major: which major version; default: the newest found.
        durable: False switches fsync off, for tests whose data nobody wants.
        settings: of the server, over those that it has by itself; without effect on one that runs already.

    Raises:
        EmbeddedUnavailable: no binaries, a folder of another major version, or the server does not come up; the
            message holds the end of the server's log.
    """
    account = unprivileged_account()
    temporary = folder is None
    home = _temporary_home(account) if folder is None else Path(folder).absolute()
    with _running_guard:
        known = _running.get(home)
        if known is not None and known.alive:
            known._users += 1
            return known
        if not temporary:
            home.mkdir(parents=True, exist_ok=True)
        lock = open(home / "lock", "a+b")
        try:
            server = _start_or_join(home, lock, account, temporary, port, major, durable, settings or {})
        except BaseException:
            if temporary:
                shutil.rmtree(home, ignore_errors=True)
            raise
        finally:
            lock.close()
        if server.owned:
            _running[home] = server
        return server


def _start_or_join(
    home: Path,
    lock: IO[bytes],
    account: Account | None,
    temporary: bool,
    port: int | None,
    major: int | None,
    durable: bool,
    settings: Mapping[str, str],
) -> EmbeddedServer:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if (found := _running_elsewhere(home)) is not None:
                return found
        if time.monotonic() > deadline:
            raise EmbeddedUnavailable(
                f"another process holds {home / 'lock'} but has not said where its server listens for "
                f"{START_SECONDS:.0f} s; stop that process, or use another folder"
            )
        time.sleep(0.02)
    return _Launch(home, lock, account, temporary, durable, settings).run(port, major)


def _running_elsewhere(home: Path) -> EmbeddedServer | None:
    try:
        said = json.loads((home / "server.json").read_text())
        if said["pid"] != _cluster.pid_of(home / "cluster"):
            return None  # of an earlier server
        return EmbeddedServer(said["dsn"], said["version"], said["source"], home, owned=False)
    except (OSError, ValueError, KeyError):
        return None  # still starting


def _temporary_home(account: Account | None) -> Path:
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if reachable(Path(parent) / "x", account):
            return _own(Path(tempfile.mkdtemp(prefix="pges-", dir=parent)), account)
    raise EmbeddedUnavailable(f"no temporary folder that the user {account.name if account else ''} can reach")


def _own(path: Path, account: Account | None) -> Path:
    if account is not None:
        os.chown(path, account.uid, account.gid)
    return path


@dataclass(slots=True)
class _Launch:
    """One start: make the cluster if there is none, clear what a crash left, start the supervisor, wait."""

    home: Path
    lock: IO[bytes]
    account: Account | None
    temporary: bool
    durable: bool
    settings: Mapping[str, str]

    def run(self, port: int | None, major: int | None) -> EmbeddedServer:
        """Do it; return the running server."""
        (self.home / "server.json").unlink(missing_ok=True)
        cluster = self._cluster()
        kept = cluster / "PG_VERSION"
        if kept.exists():
            major = major or int(kept.read_text())
        binaries = find_binaries(major, self.account)
        if kept.exists() and int(kept.read_text()) != binaries.major:
            raise EmbeddedUnavailable(
                f"{self.home} holds data of PostgreSQL {kept.read_text().strip()}, asked for {binaries.version}; use "
                "another folder, or dump with the old version and restore with the new one"
            )
        if not kept.exists():
            self._initdb(binaries, cluster)
        _cluster.stop_stray(cluster)
        sockets = self.home if self.temporary and len(str(self.home)) < LONGEST_SOCKET_FOLDER else self._sockets()
        settings, dsn = self._address(binaries, cluster, sockets, port)
        log_from = self._log_size()
        supervisor = self._supervise(binaries, cluster, sockets, settings)
        self._wait(supervisor, cluster, log_from)
        server = EmbeddedServer(dsn, binaries.version, binaries.source, self.home, True, supervisor, sockets)
        self._announce(server, cluster)
        return server

    def _sockets(self) -> Path:
        return _own(Path(tempfile.mkdtemp(prefix="pges-", dir="/tmp")), self.account)

    def _cluster(self) -> Path:
        """Where the cluster lies: in the folder, or for root where the server's user can reach it."""
        cluster = self.home / "cluster"
        if cluster.exists() or reachable(cluster, self.account):
            return cluster.resolve()
        if cluster.is_symlink():
            cluster.unlink()
        elsewhere = CACHE / f"data-{hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]}"
        CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        cluster.symlink_to(elsewhere)
        return elsewhere

    def _initdb(self, binaries: Binaries, cluster: Path) -> None:
        staged = cluster.with_name(f"{cluster.name}.making")  # a half-made cluster is never taken for a whole one
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(mode=0o700)
        _own(staged, self.account)
        command = [str(binaries.bindir / "initdb"), "-D", str(staged), "-U", "postgres", "-E", "UTF8", "--locale=C"]
        command += ["--auth-local=trust", "--auth-host=scram-sha-256", "--no-instructions"]
        command += [] if self.durable and not self.temporary else ["--no-sync"]
        made = subprocess.run(
            command,
            env=_cluster.environment(),
            cwd=staged,
            capture_output=True,
            text=True,
            check=False,
            **self._as_account(),
        )
        if made.returncode:
            raise EmbeddedUnavailable(f"initdb failed in {staged}: {(made.stderr or made.stdout).strip()[-2000:]}")
        staged.rename(cluster)

    def _as_account(self) -> dict[str, Any]:  # keyword arguments of subprocess
        if self.account is None:
            return {}
        return {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}

    def _address(self, binaries: Binaries, cluster: Path, sockets: Path, port: int | None) -> tuple[dict[str, str], str]:
        settings = {**_SETTINGS, "unix_socket_directories": str(sockets), "listen_addresses": ""}
        settings |= {} if self.durable else _FAST_BUT_UNSAFE
        settings |= self.settings
        if port is None:
            return settings, f"postgresql://postgres@/postgres?host={quote(str(sockets), safe='/')}"
        password = secrets.token_urlsafe(24)
        _cluster.set_password(binaries, cluster, password, self._as_account())
        port = port or _cluster.free_port()
        settings |= {"listen_addresses": "127.0.0.1", "port": str(port)}
        return settings, f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"

    def _supervise(
        self, binaries: Binaries, cluster: Path, sockets: Path, settings: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        command = [str(binaries.bindir / "postgres"), "-D", str(cluster)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        task = {
            "command": command,
            "cwd": str(cluster),
            "env": _cluster.environment(),
            "log": str(self.home / "server.log"),
            "uid": self.account.uid if self.account else None,
            "gid": self.account.gid if self.account else None,
            "remove": [str(sockets), str(self.home)] if self.temporary else [str(sockets)],
        }
        os.set_inheritable(self.lock.fileno(), True)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _supervisor.__file__, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[self.lock.fileno()],
            start_new_session=True,
        )

    def _wait(self, supervisor: subprocess.Popen[bytes], cluster: Path, log_from: int) -> None:
        """Wait until the eighth line of postmaster.pid says that the server is ready."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                lines = (cluster / "postmaster.pid").read_text().splitlines()
            except OSError:
                lines = []
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return
            if supervisor.poll() is not None or time.monotonic() > deadline:
                tail = self._log_tail(log_from)
                if supervisor.stdin is not None:
                    supervisor.stdin.close()
                supervisor.wait(_supervisor.FAST_SHUTDOWN_SECONDS + 15)
                raise EmbeddedUnavailable(f"the private PostgreSQL in {self.home} did not start; its log ends: {tail}")
            time.sleep(0.01)

    def _log_size(self) -> int:
        try:
            return (self.home / "server.log").stat().st_size
        except OSError:
            return 0

    def _log_tail(self, log_from: int) -> str:
        """What the server has logged since this start, in one line."""
        try:
            text = (self.home / "server.log").read_bytes()[log_from:].decode(errors="replace")
        except OSError:
            return "(no log)"
        return "; ".join(line.strip() for line in text.splitlines() if line.strip())[-1500:] or "(empty)"

    def _announce(self, server: EmbeddedServer, cluster: Path) -> None:
        staged = self.home / "server.json.new"
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            said = {"dsn": server.dsn, "version": server.version, "source": server.source, "pid": _cluster.pid_of(cluster)}
            json.dump(said, file)
        staged.rename(self.home / "server.json")
