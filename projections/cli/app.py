"""The commands of ``projections``."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from typing import Annotated

import typer

from eventstore import EventStore
from eventstore.cli.console import (
    JsonOption,
    SchemaOption,
    UrlOption,
    address,
    no_traceback,
    print_json,
    print_table,
    run,
    say,
    tell,
)
from eventstore.telemetry import FeedBlocked

from ..daemon import Daemon
from ..status import FollowerStatus, blocked, followers
from .loading import load, make_daemon

__all__ = ["app", "run_app"]

app = typer.Typer(
    name="projections",
    help="Run followers of an event store, and see how far they are.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command("run")
def run_(
    target: Annotated[
        str, typer.Argument(help="module:attribute: a Projection, a list of them, or a function of the store")
    ],
    create: Annotated[bool, typer.Option("--create", help="make tables that are missing")] = False,
    until_caught_up: Annotated[bool, typer.Option("--until-caught-up", help="stop at the log's end")] = False,
    url: UrlOption = "",
    schema: SchemaOption = "eventstore",
) -> None:
    """Run projections until Ctrl-C or SIGTERM; the batches under way are finished first."""

    async def work() -> None:
        found = load(target)
        async with (
            EventStore(address(url), schema=schema, application_name="projections") as store,
            make_daemon(found, target, store, create=create) as daemon,
        ):
            _stop_on_signals(daemon)
            say(f"running {target}; Ctrl-C stops it" if not until_caught_up else f"catching up {target}")
            await (daemon.run_until_caught_up() if until_caught_up else daemon.run())
            say(f"{daemon.applied} events took effect")

    run(work())


def _stop_on_signals(daemon: Daemon) -> None:
    """The first signal lets the batches under way finish, a second one rolls them back."""
    loop, working = asyncio.get_running_loop(), asyncio.current_task()
    asked = False

    def stop() -> None:
        nonlocal asked
        if asked and working is not None:
            working.cancel()
        asked = True
        daemon.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


@app.command("status")
def status(url: UrlOption = "", schema: SchemaOption = "eventstore", as_json: JsonOption = False) -> None:
    """Show every follower that has ever run: how far it is, who runs it, and for whom all of them wait."""

    async def work() -> tuple[list[FollowerStatus], FeedBlocked | None]:
        async with EventStore(address(url), schema=schema, events=[], application_name="projections-cli") as store:
            return await followers(store), await blocked(store)

    found, wait = run(work())
    if as_json:
        for one in found:
            print_json({name: getattr(one, name) for name in one.__slots__} | {"state": _state(one)})
        if wait is not None:
            print_json({"follower": None, "state": "blocked"} | dataclasses.asdict(wait))
        return
    rows: list[tuple[object, ...]] = [
        (f.follower, f.shard, f.position, f.behind, _state(f), f.daemon, f.updated_at.isoformat(" ", "seconds"))
        for f in found
    ]
    if wait is not None:
        since = wait.blockers[0].since
        rows.append(("(the log)", None, wait.position, None, "blocked", None, since and since.isoformat(" ", "seconds")))
    print_table("", ("follower", "shard", "position", "behind", "state", "daemon", "last moved"), rows)
    if wait is not None:
        for blocker in wait.blockers:
            tell(f"the log is blocked behind position {wait.position} by {blocker}")


def _state(follower: FollowerStatus) -> str:
    if follower.owner is None:
        return "stopped"
    return "running" if follower.alive else "lost"


def run_app() -> None:
    """Run the command line."""
    with no_traceback():
        app()
