"""``eventstore import``."""

from __future__ import annotations

import codecs
import io
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, Final
from zoneinfo import ZoneInfo

import typer

from ..bulk import (
    EXPORTED,
    FORMATS,
    BadLine,
    CsvMapping,
    ImportLine,
    ImportResult,
    import_lines,
    read_cloudevents,
    read_csv,
    read_json_lines,
)
from ..errors import InvalidArgument
from .console import Advance, JsonOption, SchemaOption, UrlOption, open_store, print_json, progress_bar, run, say

__all__ = ["csv_mapping", "import_", "lines_of"]

PEEK_BYTES: Final = 8192
"""Of a file's beginning, to tell what it holds."""

FileArgument = Annotated[
    str, typer.Argument(help="JSON lines, CloudEvents, or CSV with --stream and --type; - reads standard input")
]
StreamOption = Annotated[
    str,
    typer.Option(
        "--stream", help="CSV: the stream id, a template like 'case-{column}'; CloudEvents: of attributes, default {subject}"
    ),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="jsonl, cloudevents or csv; default: csv with --type, else by the first line. csv without --stream and --type "
        "reads what an export wrote",
    ),
]
TypeOption = Annotated[str, typer.Option("--type", help="CSV: the event type, a template")]
OccurredOption = Annotated[str, typer.Option("--occurred-at", help="CSV: when it was true, a template; ISO 8601")]


def import_(
    file: FileArgument,
    format_: FormatOption = "",
    stream: StreamOption = "",
    type_: TypeOption = "",
    occurred_at: OccurredOption = "",
    event_id: Annotated[str, typer.Option(help="CSV: the event's UUID, a template; default: derived")] = "",
    correlation_id: Annotated[str, typer.Option(help="CSV: the correlation id, a template")] = "",
    data: Annotated[
        list[str] | None, typer.Option(help="CSV: a column that becomes data; may be given again; default: all")
    ] = None,
    data_json: Annotated[str, typer.Option(help="CSV: the column that holds the data as JSON, in place of --data")] = "",
    tag: Annotated[
        list[str] | None,
        typer.Option(
            help="CSV: a tag, a template like 'course:{column}'; may be given again; none where the column is empty"
        ),
    ] = None,
    tags_json: Annotated[str, typer.Option(help="CSV: the column that holds tags as a JSON array of texts")] = "",
    delimiter: Annotated[str, typer.Option(help="CSV: what separates columns")] = ",",
    timezone: Annotated[str, typer.Option(help="CSV: the zone of times without an offset, like Europe/Amsterdam")] = "",
    source: Annotated[
        str, typer.Option(help="a name for where the lines come from, for derived ids; default: the file's name")
    ] = "",
    on_error: Annotated[str, typer.Option(help="stop at the first bad line, or skip it into the rejects file")] = "stop",
    rejects: Annotated[Path | None, typer.Option(help="where bad lines go; default: FILE.rejects")] = None,
    url: UrlOption = "",
    schema: SchemaOption = "eventstore",
    as_json: JsonOption = False,
) -> None:
    """Import events. Repeating an import, or resuming one that was cut off, adds nothing twice."""

    async def work() -> None:
        if format_ not in ("", *FORMATS):
            raise InvalidArgument(f"--format takes {', '.join(FORMATS)}, got {format_!r}")
        mapping: CsvMapping | None = None
        if format_ == "csv" and not stream and not type_:
            mapping = EXPORTED
        elif format_ == "csv" or (not format_ and (type_ or not stream)):
            mapping = csv_mapping(
                file,
                stream,
                type_,
                occurred_at,
                event_id,
                correlation_id,
                data,
                delimiter,
                timezone,
                data_json,
                tag,
                tags_json,
            )
        if (tag or tags_json) and (mapping is None or mapping is EXPORTED):
            raise InvalidArgument(
                "--tag and --tags-json are for CSV with --stream and --type; JSON lines, CloudEvents and exports say their tags "
                "themselves"
            )
        if on_error not in ("stop", "skip"):
            raise InvalidArgument(f"--on-error takes stop or skip, got {on_error!r}")
        begun = time.monotonic()
        with ExitStack() as stack:
            total, lines = lines_of(stack, file, mapping, source, format_, stream)
            bad = _Bad(stack, on_error == "skip", rejects or Path(f"{'stdin' if file == '-' else file}.rejects"))
            advance = stack.enter_context(progress_bar("importing", total))
            async with open_store(url, schema) as store:
                result = await import_lines(store, lines, on_bad=bad, on_progress=_progress(advance))
        _report(result, time.monotonic() - begun, bad, as_json)

    run(work())


def csv_mapping(
    file: str,
    stream: str,
    type_: str,
    occurred_at: str,
    event_id: str = "",
    correlation_id: str = "",
    data: list[str] | None = None,
    delimiter: str = ",",
    timezone: str = "",
    data_json: str = "",
    tag: list[str] | None = None,
    tags_json: str = "",
) -> CsvMapping | None:
    """Return the mapping that the options say; None for JSON lines.

    Raises:
        InvalidArgument: a CSV file without the options that it needs, or an unknown time zone.
    """
    if not stream and not type_:
        if file.lower().endswith((".csv", ".tsv")):
            raise InvalidArgument(
                "a CSV file needs --stream and --type, templates like --stream 'case-{id}' --type '{activity}' "
                "(or --format csv alone, if eventstore export wrote it)"
            )
        return None
    if not (stream and type_):
        raise InvalidArgument("give both --stream and --type")
    try:
        zone = ZoneInfo(timezone) if timezone else None
    except (KeyError, ValueError, OSError) as error:
        raise InvalidArgument(f"unknown time zone {timezone!r}") from error
    if len(delimiter) != 1:
        raise InvalidArgument(f"--delimiter takes one character, got {delimiter!r}")
    columns = tuple(data or ())
    return CsvMapping(
        stream,
        type_,
        occurred_at,
        event_id,
        correlation_id,
        columns,
        delimiter,
        zone,
        data_json,
        tags=tuple(tag or ()),
        tags_json=tags_json,
    )


def lines_of(
    stack: ExitStack,
    file: str,
    mapping: CsvMapping | None,
    source: str = "",
    format_: str = "",
    stream: str = "",
) -> tuple[int | None, Iterator[ImportLine | BadLine]]:
    """Open a file; return its number of lines (None for standard input) and its parsed lines.

    Args:
        stack: closes the file.
        file: its path; - for standard input.
        mapping: of a CSV file; None: it is none.
        source: names it in derived ids; default: the file's name.
        format_: jsonl or cloudevents; default: what its first line says.
        stream: the stream of CloudEvents, a template.
    """
    if file == "-":
        # A reader of our own: one that still waits for a terminal must not hold sys.stdin's lock when the process ends.
        opened: io.BufferedReader = open(0, "rb", closefd=False)
        total = None
    else:
        with open(file, "rb") as counted:
            total = sum(block.count(b"\n") for block in iter(lambda: counted.read(1 << 20), b""))
        opened = stack.enter_context(open(file, "rb"))
    if mapping is None and (format_ == "cloudevents" or (not format_ and _looks_like_cloudevents(opened))):
        return total, read_cloudevents(opened, stream)
    if mapping is None and stream:
        raise InvalidArgument(
            "--stream is for CSV (with --type) and for CloudEvents; JSON lines say their stream themselves"
        )
    if file == "-" and not source:
        raise InvalidArgument("standard input needs --source NAME: lines without an event_id get one derived from it")
    name = source or Path(file).name
    return total, read_json_lines(opened, name) if mapping is None else read_csv(opened, name, mapping)


def _looks_like_cloudevents(file: io.BufferedReader) -> bool:
    """Whether the file begins with an array, or its first line has a specversion."""
    begin = file.peek(PEEK_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    first = begin.split(b"\n", 1)[0]
    return begin.startswith(b"[") or (b'"specversion"' in first and b'"stream_id"' not in first)


class _Bad:
    """What happens to bad lines: stop, or into the rejects file with the reason beside them."""

    def __init__(self, stack: ExitStack, skip: bool, path: Path) -> None:
        self._stack, self._skip, self.path = stack, skip, path
        self._file: IO[str] | None = None

    def __call__(self, bad: BadLine) -> None:
        if not self._skip:
            raise InvalidArgument(
                f"line {bad.number}: {bad.reason}; everything before it was imported. Correct the line and run again, or "
                "use --on-error skip"
            )
        if self._file is None:
            self._file = self._stack.enter_context(open(self.path, "w", encoding="utf-8", errors="surrogateescape"))
        self._file.write(bad.raw + "\n")
        say(f"line {bad.number} skipped: {bad.reason}")


def _progress(advance: Advance) -> Callable[[ImportResult], None]:
    return lambda result: advance(result.read)


def _report(result: ImportResult, seconds: float, bad: _Bad, as_json: bool) -> None:
    rate = round(result.added / seconds) if seconds else 0
    if as_json:
        counts = {"read": result.read, "added": result.added, "present": result.present, "rejected": result.rejected}
        print_json({**counts, "seconds": round(seconds, 3)})
        return
    typer.echo(f"{result.added} events added, {result.present} were there already ({seconds:.1f} s, {rate} events/s)")
    if result.rejected:
        typer.echo(f"{result.rejected} bad lines were left out and lie in {bad.path}")
