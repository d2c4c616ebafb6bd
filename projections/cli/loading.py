"""From ``module:attribute`` to a daemon."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from eventstore.errors import EventStoreError, InvalidArgument
from eventstore.store import EventStore

from ..daemon import Daemon
from ..projection import Projection

__all__ = ["load"]

_WANTED: Final = (
    "a Projection (class or instance), a sequence of them, or a function that takes the store and returns a Daemon "
    "(def daemon(store): return Daemon(store, [Balances()]))"
)


def load(target: str) -> object:
    """Return what ``module:attribute`` names; modules in the current folder are found.

    Raises:
        InvalidArgument: the module or the attribute is not there, or a user's folder `projections` is shadowed by this
            package.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise InvalidArgument(f"expected module:attribute, like myapp.read_models:daemon, got {target!r}")
    _refuse_shadowed(module_name)
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise InvalidArgument(f"{module_name} could not be imported: {error}") from error
        raise InvalidArgument(f"there is no module {error.name!r} in {Path.cwd()} or in the environment") from error
    except AttributeError as error:
        raise InvalidArgument(f"{target} could not be loaded: {error}; expected {_WANTED}") from error
    except Exception as error:
        raise InvalidArgument(f"{module_name} could not be imported: {type(error).__name__}: {error}") from error


def make_daemon(found: Any, target: str, store: EventStore, *, create: bool) -> Daemon:  # whatever the module holds
    """Return a daemon for what `load` found.

    Raises:
        InvalidArgument: it is nothing that can be run.
    """
    if inspect.isclass(found) and issubclass(found, Projection):
        found = found()
    if isinstance(found, Projection):
        found = [found]
    if isinstance(found, Sequence) and all(isinstance(one, Projection) for one in found):
        return Daemon(store, found, create=create)
    if callable(found):
        try:
            made = found(store)
        except EventStoreError:
            raise
        except Exception as error:
            raise InvalidArgument(f"{target}(store) raised {type(error).__name__}: {error}; expected {_WANTED}") from error
        if isinstance(made, Daemon):
            return made
    raise InvalidArgument(f"{target} is {found!r:.80}; expected {_WANTED}")


def _refuse_shadowed(module_name: str) -> None:
    """A user's folder of our name: Python has imported ours already, and would look there."""
    ours = Path(__file__).parent.parent.resolve()
    theirs = Path.cwd() / "projections"
    if module_name.partition(".")[0] == "projections" and theirs.is_dir() and theirs.resolve() != ours:
        raise InvalidArgument(
            f"your folder {theirs} has the name of this library's package, which is imported in its place; rename it, or "
            "put it into a package of yours (myapp/projections, then myapp.projections:daemon)"
        )
