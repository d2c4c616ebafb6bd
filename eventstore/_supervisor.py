"""Runs one `postgres` and stops it when whoever started it is gone. A script, run with nothing but the standard library.

Standard input is a pipe whose other end only the starter holds. When it closes (the starter stopped, crashed or was
killed with SIGKILL) the server is asked for a fast shutdown (SIGINT), after a while for an immediate one (SIGQUIT),
and a temporary folder is removed. If this process itself is killed, Linux sends the server SIGINT (PR_SET_PDEATHSIG,
set after the change of user, which would clear it; this process has one thread, so it cannot fire early).

The lock on the data folder is an inherited descriptor, held exactly as long as this process lives.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys

FAST_SHUTDOWN_SECONDS = 20
PR_SET_PDEATHSIG = 1


def die_with_supervisor() -> None:
    """In the child, after the change of user and before exec: ask Linux for SIGINT when the supervisor dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    os.umask(0o077)


def main() -> int:
    """Run until the server ends or standard input does; return the server's exit code."""
    task = json.loads(sys.argv[1])
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # a terminal's Ctrl-C is the starter's to handle
    with open(task["log"], "ab") as log:
        server = subprocess.Popen(
            task["command"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=task["cwd"],
            env=task["env"],
            user=task["uid"],
            group=task["gid"],
            extra_groups=[] if task["uid"] is not None else None,
            preexec_fn=die_with_supervisor,  # noqa: PLW1509 - there is one thread
            start_new_session=True,
        )
    try:
        wait_for_end(server)
    finally:
        stop(server)
        for folder in task["remove"]:
            shutil.rmtree(folder, ignore_errors=True)
    return server.returncode


def wait_for_end(server: "subprocess.Popen[bytes]") -> None:
    """Return when standard input is closed or the server has ended."""
    while server.poll() is None:
        readable, _, _ = select.select([0], [], [], 0.2)
        if readable and not os.read(0, 64):
            return


def stop(server: "subprocess.Popen[bytes]") -> None:
    """Stop the server: fast, then immediate, then by force."""
    for number, seconds in ((signal.SIGINT, FAST_SHUTDOWN_SECONDS), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
        if server.poll() is not None:
            return
        server.send_signal(number)
        try:
            server.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    sys.exit(main())
