"""Small things done to a cluster's folder before its server runs: a password, what a crash left, a free port."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from ._binaries import Binaries
from .errors import EmbeddedUnavailable

__all__ = ["environment", "free_port", "pid_of", "set_password", "stop_stray"]

STOP_SECONDS: Final = 60.0
"""How long a stray server may take to stop."""


def environment() -> dict[str, str]:
    """Return the server's environment: no PG* variables of the caller's, no locale of the caller's."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def set_password(binaries: Binaries, cluster: Path, password: str, as_account: dict[str, Any]) -> None:
    """Set the password in single-user mode, before anybody can connect."""
    done = subprocess.run(
        [str(binaries.bindir / "postgres"), "--single", "-D", str(cluster), "postgres"],
        input=f"alter role postgres password '{password}'\n",
        env=environment(),
        cwd=cluster,
        capture_output=True,
        text=True,
        check=False,
        **as_account,
    )
    if done.returncode:
        raise EmbeddedUnavailable(f"could not set the private server's password: {done.stderr.strip()[-500:]}")


def pid_of(cluster: Path) -> int | None:
    """Return the process id in a cluster's pid file; None where there is none."""
    try:
        return int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def stop_stray(cluster: Path) -> None:
    """Clear what a crash left. We hold the folder's lock, so no supervisor lives.

    A postmaster that still runs on this folder (its supervisor was killed a moment ago, or the system is not Linux) is
    stopped; a pid file whose process is gone, or is somebody else's, is removed, since PostgreSQL would refuse to
    start beside it.
    """
    file = cluster / "postmaster.pid"
    pid = pid_of(cluster)
    arguments = "" if pid is None else _arguments_of(pid)
    if pid is not None and str(cluster) in arguments and "postgres" in arguments:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        while file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    file.unlink(missing_ok=True)


def _arguments_of(pid: int) -> str:
    """The command line of a process; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        if Path("/proc/self").exists() or shutil.which("ps") is None:
            return ""
        return subprocess.run(["ps", "-p", str(pid), "-o", "args="], capture_output=True, text=True, check=False).stdout
