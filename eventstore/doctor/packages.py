"""Are `eventstore` and `projections` ours, or a folder of the user's? Looked up by spec; nothing is imported."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

from .examination import Check, Examination
from .findings import Finding, Level

__all__ = ["CHECKS", "shadowed"]

_HOME: Final = Path(__file__).resolve().parent.parent.parent
_NAMES: Final = ("eventstore", "projections")


def shadowed(path: Sequence[str] | None = None, folder: Path | None = None) -> Iterator[Finding]:
    """Say which of our packages another one stands before.

    Args:
        path: where Python looks; None: ``sys.path``.
        folder: where the user stands; None: the current folder.
    """
    here = Path.cwd() if folder is None else folder
    for name in _NAMES:
        first, near = _where(name, path), _where(name, [str(here)], even_bare=True)
        if first is not None and first != _HOME / name:
            found = f"`import {name}` finds {first}, not this library's package in {_HOME}"
            yield Finding("packages", Level.ERROR, found, str(_HOME / name), _cure(first))
        elif near is not None and near != _HOME / name:
            found = f"{near} has the name of this library's package: a script that is started here imports it instead"
            yield Finding("packages", Level.WARNING, found, f"no {name!r} in {here}", _cure(near))


def _where(name: str, path: Sequence[str] | None, *, even_bare: bool = False) -> Path | None:
    """Where Python would find it; a folder without __init__.py gives way to a package farther back, unless asked for."""
    PathFinder.invalidate_caches()
    spec = PathFinder.find_spec(name, path)
    if spec is None:
        return None
    if spec.origin is not None and spec.origin != "namespace":
        file = Path(spec.origin).resolve()
        return file.parent if file.name == "__init__.py" else file
    bare = next(iter(spec.submodule_search_locations or ()), None)
    return Path(bare).resolve() if bare is not None and even_bare else None


def _cure(place: Path) -> str:
    return shlex.join(["mv", str(place), str(place.with_name(f"my_{place.name}"))])


async def packages(_examination: Examination) -> Sequence[Finding]:
    """Are our packages the ones that Python finds?"""
    return tuple(shadowed()) or [Finding("packages", Level.OK, "eventstore and projections are this library's")]


CHECKS: Final = (Check("packages", packages),)
