"""What every command shares: the store's address, output as table or JSON, progress, errors without tracebacks.

Exit codes, stable: 0 done; 1 something unforeseen; 2 wrong use, input or configuration; 3 a conflict, nothing was written;
4 the stored data contradict themselves; 5 try again; 6 `doctor` found warnings; 7 `doctor` found errors; 130 interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import IO, Annotated, Any, Final, NoReturn, Protocol, TypeVar
from uuid import UUID

import typer
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..errors import Conflict, Corrupt, EventStoreError, Invalid, InvalidArgument, Transient
from ..events import Recorded, UnknownEvent
from ..schema import DEFAULT_SCHEMA
from ..store import EventStore

__all__ = [
    "Advance",
    "JsonOption",
    "SchemaOption",
    "UrlOption",
    "address",
    "event_document",
    "fail",
    "open_store",
    "output",
    "parse_time",
    "print_events",
    "print_json",
    "print_table",
    "progress_bar",
    "run",
    "say",
    "tell",
]

T = TypeVar("T")

UrlOption = Annotated[
    str,
    typer.Option("--url", envvar="EVENTSTORE_URL", help="postgresql://user:password@host/database, or embedded:./folder"),
]
SchemaOption = Annotated[str, typer.Option("--schema", envvar="EVENTSTORE_SCHEMA", help="the schema that holds the tables")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON, one document a line")]

EXIT_CODES: Final[tuple[tuple[type[EventStoreError], int], ...]] = (
    (Conflict, 3),
    (Corrupt, 4),
    (Transient, 5),
    (Invalid, 2),
)

SHORT: Final = 72
"""Characters of an event's data that a table shows."""

_NUMBER: Final = re.compile(r"[-+]?[\d,]*(\.\d+)?")

WIDTH_OF_A_FILE: Final = 160
"""Columns where nobody watches: tables in a pipe are not folded at 80."""


def _console(stream: IO[str]) -> Console:
    return Console(file=stream, highlight=False, width=None if stream.isatty() else WIDTH_OF_A_FILE)


output: Final = _console(sys.stdout)
messages: Final = _console(sys.stderr)


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, *, total: int | None = None, text: str | None = None) -> None:
        """Say how far it is."""


def address(url: str) -> str:
    """Return the address, or say how to give one.

    Raises:
        InvalidArgument: none was given.
    """
    if not url:
        raise InvalidArgument("no database given: use --url or EVENTSTORE_URL (for a try: --url embedded:./data)")
    return url


def open_store(url: str, schema: str = DEFAULT_SCHEMA, **options: Any) -> EventStore:  # options of EventStore
    """Return a store for a command; it takes every event type as it is stored, unless told otherwise."""
    return EventStore(address(url), **{"schema": schema, "events": [], "application_name": "eventstore-cli", **options})


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; turn a user's mistakes into one line and an exit code."""
    with no_traceback(), contextlib.closing(work):  # interrupted before it has begun, it is nobody's mistake
        return asyncio.run(work)


@contextlib.contextmanager
def no_traceback() -> Iterator[None]:
    """Turn what a user can get wrong into one line and an exit code."""
    try:
        yield
    except BaseExceptionGroup as group:
        found = [e for e in leaves(group) if isinstance(e, EventStoreError)]
        if not found:
            raise
        fail(str(found[0]), next(code for kind, code in EXIT_CODES if isinstance(found[0], kind)))
    except EventStoreError as error:
        fail(str(error), next(code for kind, code in EXIT_CODES if isinstance(error, kind)))
    except BrokenPipeError:  # `eventstore read | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (OSError, UnicodeError) as error:
        fail(str(error), 2)
    except (KeyboardInterrupt, asyncio.CancelledError):
        fail("interrupted", 130)


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Return the errors in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def fail(message: str, code: int) -> NoReturn:
    """End the command with a message."""
    messages.print(f"error: {message}", style="red", markup=False, soft_wrap=True)
    sys.exit(code)


def say(message: str) -> None:
    """Print a message beside the output."""
    messages.print(message, markup=False, soft_wrap=True)


def tell(message: str, *, style: str = "") -> None:
    """Print a line of the output; coloured where somebody watches."""
    output.print(message, markup=False, soft_wrap=True, style=style or None)


def parse_time(text: str) -> datetime:
    """Return the ISO 8601 time that `text` says, with an offset; a date alone is its midnight in UTC.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        time = datetime.fromisoformat(text if "T" in text or " " in text else f"{text}T00:00:00+00:00")
    except ValueError as error:
        raise InvalidArgument(f"expected a time like 2026-03-01T12:00:00+01:00, got {text!r}") from error
    if time.utcoffset() is None:
        raise InvalidArgument(f"expected a time with an offset from UTC, got {text!r}; write {text}+00:00 for UTC")
    return time


def _plain(value: object) -> object:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, UnknownEvent):
        return value.data
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", round_trip=True)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def print_json(document: object) -> None:
    """Print one JSON document on a line of its own."""
    sys.stdout.write(json.dumps(document, default=_plain, ensure_ascii=False) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table for people."""
    shown = [tuple("" if cell is None else str(cell) for cell in row) for row in rows]
    table = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for n, column in enumerate(columns):
        numbers = all(_NUMBER.fullmatch(row[n]) for row in shown)
        last = n == len(columns) - 1
        table.add_column(column, overflow="fold", no_wrap=not last, justify="right" if numbers and shown else "left")
    for row in shown:
        table.add_row(*(escape(cell) for cell in row))
    output.print(table)


def event_document(recorded: Recorded[Any]) -> dict[str, object]:
    """Return an event as the JSON document that the commands print."""
    return {
        "position": recorded.position,
        "stream_id": recorded.stream_id,
        "version": recorded.version,
        "type": recorded.type,
        "schema_version": recorded.schema_version,
        "event_id": recorded.event_id,
        "correlation_id": recorded.correlation_id,
        "causation_id": recorded.causation_id,
        "occurred_at": recorded.occurred_at,
        "recorded_at": recorded.recorded_at,
        "data": recorded.data,
        "metadata": recorded.metadata,
        "tags": recorded.tags,
    }


def print_events(title: str, events: Iterable[Recorded[Any]], *, stream: bool = True) -> None:
    """Print events as a table; without the stream's column where the title names it, with one for tags where there are any."""
    columns = ["position", "stream", "version", "type", "occurred at (UTC)", "tags", "data"]
    rows = list(_event_rows(events))
    shown = [
        n for n, name in enumerate(columns) if (stream or name != "stream") and (name != "tags" or any(r[n] for r in rows))
    ]
    print_table(title, [columns[n] for n in shown], ([row[n] for n in shown] for row in rows))


def _event_rows(events: Iterable[Recorded[Any]]) -> Iterator[tuple[object, ...]]:
    for recorded in events:
        when = recorded.occurred_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        tags = ", ".join(recorded.tags)
        yield recorded.position, recorded.stream_id, recorded.version, recorded.type, when, tags, _short(recorded.data)


def _short(data: object) -> str:
    """An event's data in a few words, for a table; --json prints all of them."""
    document = _plain(data)
    if isinstance(document, dict):
        text = "  ".join(
            f"{name}={value if isinstance(value, str) else json.dumps(value, default=_plain)}"
            for name, value in document.items()
        )
    else:
        text = json.dumps(document, ensure_ascii=False, default=_plain)
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


@contextlib.contextmanager
def progress_bar(text: str, total: int | None) -> Iterator[Advance]:
    """Show progress while inside; nothing where nobody watches (standard error is no terminal)."""
    if not messages.is_terminal:
        yield lambda done, *, total=None, text=None: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages, transient=True) as bar:
        task = bar.add_task(text, total=total)

        def advance(done: int, *, total: int | None = None, text: str | None = None) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield advance
