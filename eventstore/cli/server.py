"""``eventstore embedded start``."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from .. import embedded as servers
from .. import schema
from .console import JsonOption, no_traceback, print_json

__all__ = ["embedded"]

embedded = typer.Typer(help="A private PostgreSQL for development.", no_args_is_help=True)


@embedded.callback()
def _group() -> None:
    """A private PostgreSQL for development."""


@embedded.command()
def start(
    folder: Annotated[Path, typer.Argument(help="where its data are kept")] = Path("eventstore-data"),
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="listen on this port of 127.0.0.1, with a password (0: a free one)")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start it (or find it running), migrate it, print its address, and stop it on Ctrl-C."""
    with no_traceback():
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        with servers.start(folder, port=port) as server:
            schema.migrate(server.dsn)
            if as_json:
                print_json({"url": server.dsn, "sqlalchemy_url": server.sqlalchemy_url, "version": server.version})
            else:
                state = "running" if server.owned else "running already, by another process"
                typer.echo(f"PostgreSQL {server.version} is {state} on {server.folder}")
                typer.echo(f"  URL             {server.dsn}")
                typer.echo(f"  SQLAlchemy URL  {server.sqlalchemy_url}")
                typer.echo(f"  export EVENTSTORE_URL='{server.dsn}'")
                if server.owned:
                    typer.echo("Ctrl-C stops it.")
                elif port is not None:
                    typer.echo("It was started without --port; stop it there to change that.")
            if server.owned:
                stopped.wait()
