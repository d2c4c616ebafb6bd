"""The command line: ``eventstore ...``. Needs the extra `cli` (typer and rich)."""

from __future__ import annotations

import sys

__all__ = ["main"]

_CURE = "the command line needs typer and rich; install it with: pip install 'pg-eventstore[cli]'"


def main() -> None:
    """Run the command line; the entry point of ``eventstore``."""
    try:
        import rich  # noqa: F401, PLC0415 - an extra
        import typer  # noqa: F401, PLC0415 - an extra
    except ImportError:
        sys.exit(f"error: {_CURE}")
    import importlib  # noqa: PLC0415 - after the check, since the module below imports the extras

    importlib.import_module("eventstore.cli.app").run()
