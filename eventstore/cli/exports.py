"""``eventstore export``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from ..bulk import FORMATS, ExportFormat, ExportResult, ResumePoint, export_events, resume_point
from ..errors import InvalidArgument
from ..serialization.cloudevents import SOURCE
from .console import JsonOption, SchemaOption, UrlOption, open_store, print_json, progress_bar, run, say

__all__ = ["export"]


def export(
    file: Annotated[str, typer.Argument(help="where to; - writes standard output")] = "-",
    format_: Annotated[
        str, typer.Option("--format", help="jsonl (import takes it again), cloudevents (1.0, one a line), or csv")
    ] = "jsonl",
    after: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="only positions above this one")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="go on where the file ends, or begin it")] = False,
    type_: Annotated[list[str] | None, typer.Option("--type", help="only this type; may be given again")] = None,
    category: Annotated[list[str] | None, typer.Option(help="only streams of this category; may be given again")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="only events with this tag; given again: with all of them")] = None,
    stream: Annotated[str | None, typer.Option(help="only this stream")] = None,
    source: Annotated[str, typer.Option(help="cloudevents: the source, a URI reference that names this log")] = SOURCE,
    url: UrlOption = "",
    schema: SchemaOption = "eventstore",
    as_json: JsonOption = False,
) -> None:
    """Write the log to a file, in order, up to its settled end. An export that was cut off goes on with --resume."""

    async def work() -> None:
        if format_ not in FORMATS:
            raise InvalidArgument(f"--format takes {', '.join(FORMATS)}, got {format_!r}")
        if resume and file == "-":
            raise InvalidArgument("--resume needs a file: what went to standard output cannot be looked at")
        begun = time.monotonic()
        async with open_store(url, schema) as store:
            head = await store.head()
            with _opened(file, format_, resume, after) as (out, begin), progress_bar("exporting", head) as advance:
                result = await export_events(
                    store,
                    out,
                    format_,
                    after=begin,
                    types=type_ or None,
                    categories=category or None,
                    tags=tag or None,
                    stream=stream,
                    source=source,
                    on_progress=lambda done: advance(done.position),
                )
        _report(result, time.monotonic() - begun, file, as_json)

    run(work())


@contextlib.contextmanager
def _opened(path: str, format_: ExportFormat, resume: bool, after: int) -> Iterator[tuple[BinaryIO, int | ResumePoint]]:
    """The file to write, and after what; on the disk when this is left, whatever happened."""
    if path == "-":
        yield sys.stdout.buffer, after
        sys.stdout.buffer.flush()
        return
    begin: int | ResumePoint = after
    if resume and Path(path).exists():
        point = resume_point(Path(path), format_)
        begin = point if point.position >= after else point._replace(position=after, event_id=None)
    try:
        file = open(path, "r+b" if isinstance(begin, ResumePoint) else "xb")
    except FileExistsError as error:
        raise InvalidArgument(f"{path} exists; --resume goes on where it ends, or give another name") from error
    with file:
        if isinstance(begin, ResumePoint):
            file.truncate(begin.size)
            file.seek(begin.size)
        try:
            yield file, begin
        finally:
            file.flush()
            os.fsync(file.fileno())


def _report(result: ExportResult, seconds: float, path: str, as_json: bool) -> None:
    document = {"events": result.events, "position": result.position, "settled": result.settled}
    if as_json and path == "-":
        say(json.dumps(document))
    elif as_json:
        print_json({**document, "seconds": round(seconds, 3)})
    elif path != "-":
        typer.echo(f"{result.events} events exported, up to position {result.position} ({seconds:.1f} s)")
    else:
        say(f"{result.events} events exported, up to position {result.position}")
    if result.settled is False and not as_json:
        say("note: the log goes on behind a transaction that is still open; --resume takes the rest later")
