"""``eventstore append | read | history``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import typer

from ..errors import InvalidArgument
from ..events import NewEvent, Recorded, UnknownEvent
from ..history import History
from ..serialization.json import parse_exact_json
from ..streams import ANY, EXISTS, NO_STREAM, Expectation
from .console import (
    JsonOption,
    SchemaOption,
    UrlOption,
    event_document,
    open_store,
    parse_time,
    print_events,
    print_json,
    print_table,
    run,
    say,
)

__all__ = ["append", "history", "read"]

_EXPECTATIONS: Final[dict[str, int | Expectation]] = {"any": ANY, "exists": EXISTS, "no-stream": NO_STREAM}


def _expectation(text: str) -> int | Expectation:
    if text.lower() in _EXPECTATIONS:
        return _EXPECTATIONS[text.lower()]
    if text.isdecimal():
        return int(text)
    raise InvalidArgument(f"--expect takes a version, any, exists or no-stream, got {text!r}")


def _document(text: str, what: str) -> Any:  # parsed JSON
    try:
        return parse_exact_json(text)
    except ValueError as error:
        raise InvalidArgument(f"{what} must be JSON: {error}") from error


def append(
    stream: Annotated[str, typer.Argument(help="the stream id, for example account-42")],
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="the event's type name")],
    data: Annotated[str, typer.Argument(help="the event's data, as JSON")] = "{}",
    expect: Annotated[str, typer.Option(help="a version, any, exists or no-stream")] = "any",
    metadata: Annotated[str, typer.Option(help="what goes beside it, as a JSON object")] = "{}",
    occurred_at: Annotated[str, typer.Option(help="when it was true, ISO 8601")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="a tag, like course:1; may be given again")] = None,
    request_id: Annotated[str, typer.Option(help="a name for this append: the same again gives the first result")] = "",
    url: UrlOption = "",
    schema: SchemaOption = "eventstore",
    as_json: JsonOption = False,
) -> None:
    """Append one event to a stream."""

    async def work() -> None:
        event = NewEvent(
            UnknownEvent(type_, _document(data, "the data")),
            metadata=_document(metadata, "the metadata"),
            occurred_at=parse_time(occurred_at) if occurred_at else None,
            tags=tag or (),
        )
        async with open_store(url, schema) as store:
            done = await store.append(stream, event, expect=_expectation(expect), request_id=request_id or None)
        if as_json:
            print_json(
                {
                    "stream_id": stream,
                    "version": done.version,
                    "position": done.position,
                    "event_id": done.event_ids[0],
                    "deduplicated": done.deduplicated,
                }
            )
        else:
            how = "was there already:" if done.deduplicated else "appended to"
            typer.echo(f"{how} {stream}: version {done.version}, position {done.position}")

    run(work())


def read(
    stream: Annotated[str | None, typer.Argument(help="a stream id; without one, the whole log")] = None,
    after: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="only versions (of the log: positions) above this one")
    ] = 0,
    before: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="only versions below this one; of a stream")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="at most so many events")] = None,
    backwards: Annotated[bool, typer.Option("--backwards", help="newest first; of a stream")] = False,
    type_: Annotated[list[str] | None, typer.Option("--type", help="only this type; may be given again; of the log")] = None,
    category: Annotated[list[str] | None, typer.Option(help="only streams of this category; may be given again")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="only events with this tag; given again: with all of them")] = None,
    url: UrlOption = "",
    schema: SchemaOption = "eventstore",
    as_json: JsonOption = False,
) -> None:
    """Print events of a stream, or of the whole log up to its settled end."""
    if stream is not None and (type_ or category or tag):
        raise InvalidArgument("--type, --category and --tag are for the whole log; leave the stream out")
    if stream is None and (before is not None or backwards):
        raise InvalidArgument("--before and --backwards are for a stream; name one")

    async def work() -> None:
        async with open_store(url, schema) as store:
            if stream is not None:
                await _show(store.read_stream(stream, after=after, before=before, limit=limit, backwards=backwards), as_json)
                return
            reader = store.read_all(
                after=after, limit=limit, types=type_ or None, categories=category or None, tags=tag or None
            )
            await _show(aiter(reader), as_json)
            if reader.settled is False:
                say("note: the log goes on behind a transaction that is still open; what follows it is not shown yet")

    run(work())


async def _show(events: AsyncIterator[Recorded[Any]], as_json: bool) -> None:
    """Print events as they come: JSON lines, or tables of some at a time."""
    page: list[Recorded[Any]] = []
    shown = 0
    async for recorded in events:
        shown += 1
        if as_json:
            print_json(event_document(recorded))
            continue
        page.append(recorded)
        if len(page) == 1000:
            print_events("", page)
            page.clear()
    if page:
        print_events("", page)
    if not shown:
        say("no events")


def history(
    stream: Annotated[str, typer.Argument(help="the stream id")],
    version: Annotated[int | None, typer.Option(min=0, help="up to this version")] = None,
    at: Annotated[str, typer.Option(help="as the database knew it at this time, ISO 8601")] = "",
    valid_at: Annotated[str, typer.Option(help="what had occurred by this time, as is known now")] = "",
    diff: Annotated[bool, typer.Option("--diff", help="show also what changed since")] = False,
    url: UrlOption = "",
    schema: SchemaOption = "eventstore",
    as_json: JsonOption = False,
) -> None:
    """Print a stream as it was at a version, at a time, or by valid time."""

    async def work() -> None:
        async with open_store(url, schema) as store:
            found = await History(store).stream(
                stream,
                version=version,
                at=parse_time(at) if at else None,
                valid_at=parse_time(valid_at) if valid_at else None,
            )
        if as_json:
            document: dict[str, object] = {"stream_id": stream, "events": [event_document(r) for r in found.events]}
            if diff:
                document["since"] = [event_document(r) for r in found.since]
                document["changes"] = _changes(found.events, found.since)
            print_json(document)
            return
        print_events(f"{stream}: {len(found.events)} events up to then", found.events, stream=False)
        if diff:
            print_events(f"{stream}: {len(found.since)} events since", found.since, stream=False)
            rows = [(name, _short(old), _short(new)) for name, (old, new) in _changes(found.events, found.since).items()]
            print_table("last known value of each field", ("field", "then", "now"), rows)

    run(work())


def _last_values(events: tuple[Recorded[Any], ...]) -> dict[str, Any]:  # values of a JSON document
    values: dict[str, Any] = {}
    for recorded in events:
        if isinstance(recorded.data.data, dict):
            values |= recorded.data.data
    return values


def _changes(events: tuple[Recorded[Any], ...], since: tuple[Recorded[Any], ...]) -> dict[str, tuple[Any, Any]]:
    """The last value that the stream's events gave each field: then and now, where they differ."""
    then, now = _last_values(events), _last_values(events + since)
    return {name: (then.get(name), value) for name, value in now.items() if name not in then or then[name] != value}


def _short(value: object) -> str:
    text = "" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
