"""What both demos share: work and its follower side by side, a stream then and since, how to go on."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from eventstore import EventStore
from eventstore.cli.console import address, print_events, say, tell
from eventstore.history import History

from ..daemon import Daemon
from ..projection import Projection

__all__ = ["Followed", "follow", "go_on", "opened", "tell_stream"]


@asynccontextmanager
async def opened(url: str, events: Sequence[type]) -> AsyncIterator[EventStore]:
    """Open a migrated store."""
    say("starting a private PostgreSQL" if url.startswith("embedded:") else "connecting")
    async with EventStore(address(url), events=events, migrate=True, application_name="eventstore-demo") as store:
        yield store


class Followed:
    """How the work and its follower went."""

    seconds = 0.0
    lag_seconds = 0.0


async def follow(store: EventStore, projections: Sequence[Projection], work: Coroutine[Any, Any, None]) -> Followed:
    """Do the work while the projections follow it; return when they have caught up."""
    told = Followed()
    async with Daemon(store, projections, create=True) as daemon:
        begun = time.monotonic()

        async def work_then_stop() -> None:
            await work
            told.seconds = time.monotonic() - begun
            daemon.stop()

        async with asyncio.TaskGroup() as both:
            both.create_task(daemon.run())
            both.create_task(work_then_stop())
        await daemon.run_until_caught_up()
        told.lag_seconds = time.monotonic() - begun - told.seconds
    return told


async def tell_stream(store: EventStore, name: str, then: datetime, *, valid: bool = False) -> None:
    """Show a stream as it was then, by recorded or by valid time, and what came since."""
    found = await History(store).stream(name, valid_at=then) if valid else await History(store).stream(name, at=then)
    known = "what had occurred by" if valid else "what was known at"
    print_events(f"{name}: {known} {then.isoformat(' ', 'milliseconds')}", found.events, stream=False)
    print_events(f"{name}: what came since", found.since, stream=False)


def go_on(url: str, name: str, then: datetime, seconds: float, *, valid: bool = False) -> None:
    """Say which commands come next."""
    if url == "embedded:":
        tell(
            f"All of it took {seconds:.1f} s, on a temporary server that is gone now; --url embedded:./folder keeps the data."
        )
        return
    command = Path("eventstore") if shutil.which("eventstore") else Path(sys.argv[0])
    tell(f"All of it took {seconds:.1f} s. Go on with:\n")
    tell(f"  export EVENTSTORE_URL='{url if url.startswith('embedded:') else '...'}'")
    tell(f"  {command} read {name}")
    tell(f"  {command} history {name} {'--valid-at' if valid else '--at'} '{then.isoformat()}' --diff")
    tell(f"  {command.with_name('projections')} status")
    if url.startswith("embedded:"):
        tell(f"  {command} embedded start {url.removeprefix('embedded:')}    # and psql, or any client, on what it prints")
