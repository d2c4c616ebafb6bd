"""``eventstore tail``: the log, live, one line an event."""

from __future__ import annotations

import re
import sys
import zlib
from collections import deque
from collections.abc import Sequence
from datetime import UTC
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, TypedDict

import typer
from rich.text import Text

from ..errors import InvalidArgument
from ..events import Recorded
from ..spi import settled
from ..store import EventStore
from ..streams import category_of
from .console import JsonOption, SchemaOption, UrlOption, event_document, open_store, output, print_json, run, say

__all__ = ["tail"]

LAST: Final = 10
"""Events shown before following; as tail(1) shows lines."""

FARTHEST: Final = 100_000
"""Positions that are looked through for the last events that a filter lets through."""

SETTLE_SECONDS: Final = 1.0
"""As long as `store.read_all` waits for open transactions."""

COLOURS: Final = (
    "cyan",
    "green",
    "yellow",
    "magenta",
    "blue",
    "bright_cyan",
    "bright_green",
    "bright_magenta",
    "bright_blue",
)

_GLOB: Final = re.compile(r"[*?\[]")
_CONTROL: Final = {n: f"\\u{n:04x}" for n in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}
"""What could move a terminal's cursor, as JSON writes it."""


def tail(
    type_: Annotated[list[str] | None, typer.Option("--type", help="only this type; may be given again")] = None,
    category: Annotated[list[str] | None, typer.Option(help="only streams of this category; may be given again")] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            help="only this stream, or those that match, like 'order-7*'; may be given again. Filtered here, not "
            "in the database"
        ),
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="only events with this tag; given again: with all of them")] = None,
    last: Annotated[
        int | None,
        typer.Option(min=0, help=f"begin with so many events, found in the last {FARTHEST:,} positions; default: {LAST}"),
    ] = None,
    after: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="begin behind this position")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="go on until Ctrl-C, or end at the log's end")] = True,
    url: UrlOption = "",
    schema: SchemaOption = "eventstore",
    as_json: JsonOption = False,
) -> None:
    """Follow the log: one line an event, as they are committed, without a gap."""

    async def work() -> None:
        if last is not None and after is not None:
            raise InvalidArgument("--last and --after both say where to begin: give one")
        wanted = _Wanted(type_, category, stream, tag)
        show = _show_json if as_json else _show_coloured if output.is_terminal else _show_plain
        async with open_store(url, schema) as store:
            begin = after
            if begin is None:
                begin, found = await _last(store, wanted, LAST if last is None else last)
                for recorded in found:
                    show(recorded)
            if follow:
                async with store.subscribe(after=begin, **wanted.of_the_log) as live:
                    async for recorded in live:
                        if wanted.matches(recorded):
                            show(recorded)
            elif after is not None:
                reader = store.read_all(after=begin, **wanted.of_the_log)
                async for recorded in reader:
                    if wanted.matches(recorded):
                        show(recorded)
                if reader.settled is False:
                    say("note: the log goes on behind a transaction that is still open; what follows it is not shown yet")

    run(work())


class _OfTheLog(TypedDict):
    """What the database is asked for."""

    types: Sequence[str] | None
    categories: Sequence[str] | None
    tags: Sequence[str] | None


class _Wanted:
    """Which events are shown: types, categories and tags by the database, streams here.

    Where every stream that is named has its category spelled out, the database leaves other categories out.
    """

    def __init__(
        self,
        types: Sequence[str] | None,
        categories: Sequence[str] | None,
        streams: Sequence[str] | None,
        tags: Sequence[str] | None,
    ) -> None:
        self._streams = streams or ()
        heads = {category_of(pattern) for pattern in self._streams}
        if heads and not categories and not any(_GLOB.search(head) for head in heads):
            categories = sorted(heads)
        self.of_the_log = _OfTheLog(types=types or None, categories=categories or None, tags=tags or None)

    def matches(self, recorded: Recorded[Any]) -> bool:
        """Whether an event that the database let through is shown."""
        name = recorded.stream_id
        return not self._streams or any(name == pattern or fnmatchcase(name, pattern) for pattern in self._streams)


async def _last(store: EventStore, wanted: _Wanted, count: int) -> tuple[int, Sequence[Recorded[Any]]]:
    """Return the last events up to the settled end, and the position to go on behind."""
    end = (await settled(store, SETTLE_SECONDS)).mark.position  # what is behind it may still come, and will be followed
    if not count:
        return end, ()
    reach = count
    while True:
        begin = max(0, end - reach)
        found: deque[Recorded[Any]] = deque(maxlen=count)
        async for recorded in store.read_all(after=begin, **wanted.of_the_log):
            if wanted.matches(recorded):
                found.append(recorded)
        if len(found) == count or begin == 0 or reach >= FARTHEST:
            return (found[-1].position if found else begin), found
        reach = min(reach * 8, FARTHEST)


def _show_json(recorded: Recorded[Any]) -> None:
    print_json(event_document(recorded))
    sys.stdout.flush()


def _show_plain(recorded: Recorded[Any]) -> None:
    """For pipes: whole, without colours."""
    sys.stdout.write("  ".join(_words(recorded)) + "\n")
    sys.stdout.flush()


def _show_coloured(recorded: Recorded[Any]) -> None:
    """For people: as wide as the terminal; each category and each type in a colour of its own, the same every day."""
    position, when, stream, type_, *tags, data = _words(recorded)
    text = Text.assemble(
        (position, "dim"),
        "  ",
        (when, "dim"),
        "  ",
        (stream, _colour(category_of(recorded.stream_id))),
        "  ",
        (type_, f"bold {_colour(recorded.type)}"),
        "  ",
        *[part for tag in tags for part in ((tag, "dim"), "  ")],
        data,
    )
    output.print(text, no_wrap=True, overflow="ellipsis", crop=True)


def _words(recorded: Recorded[Any]) -> Sequence[str]:
    """Position, time, stream, type, the tags in brackets where there are any, and the data."""
    when = recorded.occurred_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    stream = f"{recorded.stream_id}@{recorded.version}"
    tags = (f"[{', '.join(recorded.tags)}]",) if recorded.tags else ()
    return f"{recorded.position:>8}", when, stream, recorded.type, *tags, recorded.data.document.translate(_CONTROL)


def _colour(name: str) -> str:
    return COLOURS[zlib.crc32(name.encode()) % len(COLOURS)]
