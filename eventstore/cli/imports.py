"""``eventstore import``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, BinaryIO
from zoneinfo import ZoneInfo

import typer

from ..bulk import BadLine, CsvMapping, ImportLine, ImportResult, import_lines, read_csv, read_json_lines
from ..errors import InvalidArgument
from .console import Advance, JsonOption, SchemaOption, UrlOption, open_store, print_json, progress_bar, run, say

__all__ = ["import_", "lines_of"]

FileArgument = Annotated[str, typer.Argument(help="JSON lines, or CSV with --stream and --type; - reads standard input")]
StreamOption = Annotated[str, typer.Option("--stream", help="CSV: the stream id, a template like 'case-{column}'")]
TypeOption = Annotated[str, typer.Option("--type", help="CSV: the event type, a template")]
OccurredOption = Annotated[str, typer.Option("--occurred-at", help="CSV: when it was true, a template; ISO 8601")]


def import_(
    file: FileArgument,
    stream: StreamOption = "",
    type_: TypeOption = "",
    occurred_at: OccurredOption = "",
    event_id: Annotated[str, typer.Option(help="CSV: the event's UUID, a template; default: derived")] = "",
    correlation_id: Annotated[str, typer.Option(help="CSV: the correlation id, a template")] = "",
    data: Annotated[
        list[str] | None, typer.Option(help="CSV: a column that becomes data; may be given again; default: all")
    ] = None,
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
        mapping = csv_mapping(file, stream, type_, occurred_at, event_id, correlation_id, data, delimiter, timezone)
        if on_error not in ("stop", "skip"):
            raise InvalidArgument(f"--on-error takes stop or skip, got {on_error!r}")
        begun = time.monotonic()
        with ExitStack() as stack:
            total, lines = lines_of(stack, file, mapping, source)
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
) -> CsvMapping | None:
    """Return the mapping that the options say; None for JSON lines.

    Raises:
        InvalidArgument: a CSV file without the options that it needs, or an unknown time zone.
    """
    if not stream and not type_:
        if file.lower().endswith((".csv", ".tsv")):
            raise InvalidArgument(
                "a CSV file needs --stream and --type, templates like --stream 'case-{id}' --type '{activity}'"
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
    return CsvMapping(stream, type_, occurred_at, event_id, correlation_id, tuple(data or ()), delimiter, zone)


def lines_of(
    stack: ExitStack, file: str, mapping: CsvMapping | None, source: str = ""
) -> tuple[int | None, Iterator[ImportLine | BadLine]]:
    """Open a file; return its number of lines (None for standard input) and its parsed lines."""
    if file == "-":
        stream: BinaryIO = sys.stdin.buffer
        total = None
    else:
        with open(file, "rb") as counted:
            total = sum(block.count(b"\n") for block in iter(lambda: counted.read(1 << 20), b""))
        stream = stack.enter_context(open(file, "rb"))
    if file == "-" and not source:
        raise InvalidArgument("standard input needs --source NAME: lines without an event_id get one derived from it")
    name = source or Path(file).name
    return total, read_json_lines(stream, name) if mapping is None else read_csv(stream, name, mapping)


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
