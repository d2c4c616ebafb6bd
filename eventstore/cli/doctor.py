"""``eventstore doctor``."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from ..doctor import Finding, Level, Report, examine
from .console import JsonOption, SchemaOption, UrlOption, open_store, print_json, run, tell

__all__ = ["doctor"]

EXIT_CODES: Final = {Level.OK: 0, Level.NOTE: 0, Level.WARNING: 6, Level.ERROR: 7}
STYLES: Final = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.ERROR: "bold red"}

INDENT: Final = " " * 9


def doctor(
    url: UrlOption = "",
    schema: SchemaOption = "eventstore",
    listen_url: Annotated[str, typer.Option("--listen-url", help="listen there, where --url leads through a pooler")] = "",
    as_json: JsonOption = False,
) -> None:
    """Look at server, schema, grants, connections and log; say what is wrong, and its cure. Changes nothing."""

    async def work() -> Report:
        return await examine(open_store(url, schema), listen_url=listen_url)

    report = run(work())
    for finding in report.findings:
        if as_json:
            print_json(finding.document())
        else:
            _print(finding)
    sys.exit(EXIT_CODES[report.level])


def _print(finding: Finding) -> None:
    level = finding.level.name.lower()
    tell(f"{level:<8} {finding.check}: {finding.found}", style=STYLES[finding.level])
    if finding.expected:
        tell(f"{INDENT}expected: {finding.expected}")
    if finding.cure:
        tell(f"{INDENT}cure: {finding.cure}")
