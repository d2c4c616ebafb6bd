"""pgbench, PostgreSQL's own load generator in C: from the wheel of the embedded server, else from the system."""

import asyncio
import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from eventstore import _binaries
from eventstore.errors import EmbeddedUnavailable

from .meter import Sample, percentiles

SAMPLING = 0.1
"""Share of its transactions that pgbench writes down, for the percentiles; writing all of them would slow it."""

THREADS = 2
FEW = 100

_ENVIRONMENT = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}


def missing():
    """Why it cannot run; empty: it can."""
    return "" if _program() else "no pgbench is found beside the server's binaries or on PATH"


def version():
    """What `pgbench --version` says; empty where there is none."""
    program = _program()
    if not program:
        return ""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return said.strip().removeprefix("pgbench (PostgreSQL) ")


async def run(arena, script, variables, clients, seconds):
    """Run a script from so many clients at once, for whole seconds; for less than one, a few times each.

    The rate is what pgbench says, without connecting; CPU and percentiles are those of the whole run.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = _command(Path(folder), script, variables, clients, seconds)
        meter = arena.meter()
        said = await asyncio.to_thread(_output, command, arena.dsn)
        whole = meter.stop(int(_number(r"transactions actually processed: (\d+)", said)))
        latencies = percentiles(_logged(Path(folder)))
    rate = _number(r"tps = ([\d.]+) \(without initial", said)
    return Sample(whole.count, whole.count / rate, whole.client_seconds, whole.server_seconds, latencies)


def _command(folder, script, variables, clients, seconds):
    file = folder / "script.sql"
    file.write_text(script)
    command = [_program(), "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, THREADS))]
    command += ["-T", str(round(seconds))] if seconds >= 1 else ["-t", str(FEW)]
    command += ["-f", str(file)]
    command += ["-l", "--log-prefix", str(folder / "log"), "--sampling-rate", str(SAMPLING)]
    for name, value in variables.items():
        command += ["-D", f"{name}={value}"]
    return command


def _output(command, dsn):
    """Run it; the address goes by the environment, so that a password is in nobody's list of processes."""
    address = conninfo_to_dict(dsn)
    environment = os.environ | {name: str(address[key]) for key, name in _ENVIRONMENT.items() if key in address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or "number of failed transactions: 0 " not in done.stdout:
        raise RuntimeError(f"pgbench failed: {done.stderr.strip()[-1000:] or done.stdout[-1000:]}")
    return done.stdout


def _number(pattern, text):
    return float(re.search(pattern, text)[1])


def _logged(folder):
    """Latencies in milliseconds: the third column of its logs is in microseconds."""
    return [int(line.split()[2]) / 1000 for log in folder.glob("log.*") for line in log.read_text().splitlines()]


@functools.cache
def _program():
    try:
        beside = _binaries.find_binaries().bindir / "pgbench"
    except EmbeddedUnavailable:
        return shutil.which("pgbench")
    return str(beside) if beside.exists() else shutil.which("pgbench")
