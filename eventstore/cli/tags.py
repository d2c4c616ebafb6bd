"""``eventstore tags backfill``."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InvalidArgument
from ..events import Recorded
from ..tagging import BackfillResult, TagsOf, backfill_tags
from ..tags import Tag
from .console import JsonOption, SchemaOption, UrlOption, open_store, print_json, progress_bar, run, say

__all__ = ["tags"]

tags = typer.Typer(help="Tags of events that are there already.", no_args_is_help=True, rich_markup_mode=None)


@tags.callback()
def _group() -> None:
    """Tags of events that are there already."""


@tags.command("backfill")
def backfill(
    module: Annotated[
        list[str] | None,
        typer.Option(
            help="import this module, like app.events, and take the tags that its classes declare; may be given again"
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            help="take this field of the stored data in place of that: course=course_id makes course:42 (dots lead into "
            "objects; null or missing: no tag; of an array each element); may be given again"
        ),
    ] = None,
    type_: Annotated[list[str] | None, typer.Option("--type", help="only this type; may be given again")] = None,
    category: Annotated[list[str] | None, typer.Option(help="only streams of this category; may be given again")] = None,
    after: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="only positions above this one: go on there")] = 0,
    upto: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="only positions up to this one; default: to the settled end")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="events a second, at most; default: as fast as it goes")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write nothing, only count: tags cannot be taken back")] = False,
    url: UrlOption = "",
    schema: SchemaOption = "eventstore",
    as_json: JsonOption = False,
) -> None:
    """Give old events tags, beside readers and writers. Repeating it adds nothing twice; --after goes on where it was stopped."""
    if bool(module) == bool(tag):
        raise InvalidArgument(
            "give either --module, whose event classes declare tags, or --tag, like --tag course=course_id"
        )

    async def work() -> None:
        tags_of = _of_fields([_field(text) for text in tag]) if tag else None
        for name in module or ():
            _import(name)
        last, begun = BackfillResult(position=after), time.monotonic()

        def note(result: BackfillResult) -> None:
            nonlocal last
            last = result
            advance(result.position)

        async with open_store(url, schema, events=[] if tag else None) as store:
            with progress_bar("tagging", await store.head() if upto is None else upto) as advance:
                try:
                    last = await backfill_tags(
                        store,
                        tags_of,
                        types=type_ or None,
                        categories=category or None,
                        after=after,
                        upto=upto,
                        rate=rate,
                        dry_run=dry_run,
                        on_progress=note,
                    )
                except BaseException:
                    if last.events:
                        say(f"stopped at position {last.position}: go on with --after {last.position}")
                    raise
        _report(last, time.monotonic() - begun, dry_run, as_json)

    run(work())


def _field(text: str) -> tuple[Tag, Sequence[str]]:
    name, equals, path = text.partition("=")
    if not equals or not name or ":" in name or not all(path.split(".")):
        raise InvalidArgument(f"--tag takes a name and the field whose value it is, like course=course_id, got {text!r}")
    return Tag(name), path.split(".")


def _of_fields(fields: Sequence[tuple[Tag, Sequence[str]]]) -> TagsOf:
    def tags_of(recorded: Recorded[Any]) -> Iterator[str]:
        for tag, path in fields:
            found: Any = recorded.data.data  # a JSON document
            for part in path:
                found = found.get(part) if isinstance(found, dict) else None
            for value in found if isinstance(found, list) else [found]:
                if value is not None:
                    yield tag.of(value)

    return tags_of


def _import(name: str) -> None:
    """Import a user's module; those in the current folder are found.

    Raises:
        InvalidArgument: it cannot be.
    """
    sys.path.insert(0, str(Path.cwd()))
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise InvalidArgument(f"{name} could not be imported: {error}") from error
        raise InvalidArgument(f"there is no module {error.name!r} in {Path.cwd()} or in the environment") from error
    except Exception as error:
        raise InvalidArgument(f"{name} could not be imported: {type(error).__name__}: {error}") from error


def _report(result: BackfillResult, seconds: float, dry_run: bool, as_json: bool) -> None:
    if as_json:
        names = ("events", "added", "present", "position", "settled")
        document = {name: getattr(result, name) for name in names}
        print_json({**document, "dry_run": dry_run, "seconds": round(seconds, 3)})
        return
    what = "would be added" if dry_run else "added"
    typer.echo(
        f"{result.added} tags {what}, {result.present} were there already: {result.events} events, up to position "
        f"{result.position} ({seconds:.1f} s)"
    )
    if result.settled is False:
        say(
            f"note: the log goes on behind a transaction that is still open; take the rest later with --after {result.position}"
        )
