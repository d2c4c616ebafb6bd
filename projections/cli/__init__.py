"""The command line: ``projections ...``. Needs the extra `cli` (typer and rich)."""

from __future__ import annotations

import importlib
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the entry point of ``projections``."""
    try:
        import rich  # noqa: F401, PLC0415 - an extra
        import typer  # noqa: F401, PLC0415 - an extra
    except ImportError:
        sys.exit("error: the command line needs typer and rich; install it with: pip install 'pg-eventstore[cli]'")
    importlib.import_module("projections.cli.app").run_app()
