"""The distribution: built, installed in a clean environment, and used from there."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.install

ROOT = Path(__file__).parent.parent


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_migrates_an_empty_database(empty_database, tmp_path):
    """The migrations lie in it; nothing of the checkout is needed."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "_migrations/env.py",
        "_migrations/sql/0001_log.up.sql",
        "sql/queries/append.sql",
        "sql/schema/02_events.sql",
    ):
        assert f"eventstore/{name}" in names
    assert "projections/sql/queries/lock_checkpoint.sql" in names
    assert not [name for name in names if name.startswith(("tests", "migrations", "benchmarks", "examples"))]

    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", ROOT / "requirements" / "run.txt")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"EVENTSTORE_URL": empty_database}

    def installed(*args):
        return run(tmp_path / "clean" / "bin" / args[0], *args[1:], cwd=elsewhere, env=environment)

    assert "up to date" in installed("eventstore", "migrate", "up")
    installed("eventstore", "append", "a-1", "T", "{}")
    assert '"stream_id": "a-1"' in installed("eventstore", "read", "--json")
    assert "follower" in installed("projections", "status")
    assert '"current": 0' in installed("eventstore", "migrate", "down", "--yes", "--json")
    location = run(python, "-c", "import eventstore; print(eventstore.__file__)", cwd=elsewhere)
    assert str(tmp_path) in location
