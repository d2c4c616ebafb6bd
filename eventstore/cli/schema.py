"""``eventstore migrate up | down | status | sql``."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import embedded, schema
from ..errors import InvalidArgument
from .console import JsonOption, SchemaOption, UrlOption, address, no_traceback, print_json, say

__all__ = ["migrate"]

migrate = typer.Typer(help="Bring the database's schema up or down; see where it is.", no_args_is_help=True)

ToOption = Annotated[int, typer.Option("--to", help="the version to reach")]


def _report(found: schema.SchemaStatus, as_json: bool) -> None:
    if as_json:
        print_json({"schema": found.schema, "current": found.current, "latest": found.latest, "pending": found.pending})
    elif found.pending > 0:
        typer.echo(
            f"schema {found.schema!r} is at version {found.current}, {found.pending} behind: run eventstore migrate up"
        )
    elif found.pending < 0:
        typer.echo(f"schema {found.schema!r} is at version {found.current}, newer than this library ({found.latest})")
    else:
        typer.echo(f"schema {found.schema!r} is at version {found.current}, up to date")


@migrate.command()
def up(
    url: UrlOption = "", schema_: SchemaOption = "eventstore", to: ToOption = schema.VERSION, as_json: JsonOption = False
) -> None:
    """Apply the revisions that are missing. Safe to repeat, and when two run at once."""
    with no_traceback(), _server(url) as dsn:
        _report(schema.migrate(dsn, schema=schema_, to=to), as_json)


@migrate.command()
def down(
    url: UrlOption = "",
    schema_: SchemaOption = "eventstore",
    to: ToOption = 0,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: JsonOption = False,
) -> None:
    """Undo revisions. Version 0 drops every table, and every event in it."""
    with no_traceback():
        address(url)
        if not yes:
            if not typer.confirm(f"Drop tables of schema {schema_!r}, down to version {to}? What they hold is lost"):
                raise InvalidArgument("nothing was done")
        with _server(url) as dsn:
            _report(schema.migrate_down(dsn, schema=schema_, to=to), as_json)


@migrate.command()
def status(url: UrlOption = "", schema_: SchemaOption = "eventstore", as_json: JsonOption = False) -> None:
    """Show the schema's version."""
    with no_traceback(), _server(url) as dsn:
        _report(schema.status(dsn, schema=schema_), as_json)


@migrate.command()
def sql(
    schema_: SchemaOption = "eventstore",
    since: Annotated[int, typer.Option("--since", help="the version that the database is at")] = 0,
    to: ToOption = schema.VERSION,
) -> None:
    """Print the SQL, for whoever may not connect."""
    with no_traceback():
        typer.echo(schema.to_sql(schema=schema_, since=since, to=to))


class _server:  # noqa: N801 - a context manager used as a function
    """The address to migrate; an embedded server is started for it."""

    def __init__(self, url: str) -> None:
        self._url = address(url)
        self._server: embedded.EmbeddedServer | None = None

    def __enter__(self) -> str:
        if not self._url.startswith("embedded:"):
            return self._url
        folder = embedded.parse_embedded_url(self._url)
        if folder is None:
            say("note: embedded: is a temporary server, gone after this command; use embedded:./folder to keep it")
        self._server = embedded.start(folder)
        return self._server.dsn

    def __exit__(self, *error: object) -> None:
        if self._server is not None:
            self._server.stop()
