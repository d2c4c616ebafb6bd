"""``eventstore prune-requests``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final

import typer

from ..errors import InvalidArgument
from ..requests import prune_requests as prune
from .console import JsonOption, SchemaOption, UrlOption, open_store, print_json, run

__all__ = ["prune_requests"]

_AGE: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def prune_requests(
    older_than: Annotated[str, typer.Option(help="their age at least: a number and s, m, h, d or w, like 1d")],
    url: UrlOption = "",
    schema: SchemaOption = "eventstore",
    as_json: JsonOption = False,
) -> None:
    """Forget request ids of that age; a forgotten request appends again. Events are not touched."""

    async def work() -> None:
        found = _AGE.fullmatch(older_than)
        if found is None:
            raise InvalidArgument(f"--older-than takes a number and s, m, h, d or w, like 36h, got {older_than!r}")
        async with open_store(url, schema) as store:
            pruned = await prune(store, timedelta(**{_UNITS[found[2]]: int(found[1])}))
        if as_json:
            print_json({"pruned": pruned})
        else:
            typer.echo(f"forgot {pruned} request(s) that are older than {older_than}")

    run(work())
