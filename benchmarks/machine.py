"""What it was measured on: the machine, the server and its settings, the versions. No names of hosts, users or folders."""

import asyncio
import importlib.metadata
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from . import pgbench
from .server import connect

SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size", "autovacuum")
PACKAGES = ("asyncpg", "pydantic", "sqlalchemy", "psycopg", "eventsourcing")
FLUSHES = 100


async def describe(server):
    """Names to values, in order."""
    connection = await connect(server.dsn)
    try:
        version = await connection.fetchval("show server_version")
        settings = [f"{name} = {await connection.fetchval(f'show {name}')}" for name in SETTINGS]
    finally:
        await connection.close()
    place = "started for this run" if server.owned else "given"
    about = await asyncio.to_thread(_machine)
    about["disk flush"] = await asyncio.to_thread(_flush, server.folder) if server.folder else "not known"
    return (
        about | {"PostgreSQL": f"{version} ({place})", "settings": ", ".join(settings)} | await asyncio.to_thread(_software)
    )


def _machine():
    return {
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def _software():
    packages = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    return {
        "Python": platform.python_version(),
        "packages": ", ".join(packages),
        "pgbench": pgbench.version() or "none",
        "commit": _commit(),
    }


def _cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _flush(folder):
    """How long the disk takes to flush one page: what a commit waits for."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        times = []
        for _ in range(FLUSHES):
            file.seek(0)
            file.write(b"x" * 8192)
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno()) if hasattr(os, "fdatasync") else os.fsync(file.fileno())
            times.append(time.perf_counter() - begun)
    return f"{statistics.median(times) * 1000:.2f} ms (median of {FLUSHES} fdatasync of 8 KiB)"


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _commit():
    """The commit, and whether the tree was changed since."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "not known"
    return done.stdout.strip()
