"""The commands of ``eventstore``. Other packages add theirs by the entry point group ``eventstore.commands``."""

from __future__ import annotations

from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from .console import no_traceback
from .doctor import doctor
from .exports import export
from .imports import import_
from .requests import prune_requests
from .schema import migrate
from .server import embedded
from .streams import append, history, read
from .tags import tags
from .tail import tail

__all__ = ["app", "run"]

app = typer.Typer(
    name="eventstore",
    help="An event store on PostgreSQL. The address comes from --url or EVENTSTORE_URL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(migrate, name="migrate")
app.add_typer(embedded, name="embedded")
app.add_typer(tags, name="tags")
app.command("doctor")(doctor)
app.command("append")(append)
app.command("read")(read)
app.command("history")(history)
app.command("tail")(tail)
app.command("import")(import_)
app.command("export")(export)
app.command("prune-requests")(prune_requests)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("pg-eventstore"))
        raise typer.Exit


@app.callback()
def options(
    show: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """An event store on PostgreSQL. The address comes from --url or EVENTSTORE_URL."""


def run() -> None:
    """Run the command line."""
    for entry in sorted(entry_points(group="eventstore.commands"), key=lambda found: found.name):
        app.command(entry.name)(entry.load())
    with no_traceback():
        app()
