"""``python -m benchmarks [TOPIC ...] [options]``: measure, and show or write down what was found."""

import argparse
import asyncio
import sys
from pathlib import Path

from . import document, machine, page
from .core import Contest, Gauge, Scale, run_contests, run_gauges
from .series import Series, run_series
from .server import Server
from .topics import chosen, names

ROOT = Path(__file__).parent.parent
FULL_EVENTS = 10_000_000


def options(arguments):
    """The command line's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure side by side, interleaved.")
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"{', '.join(names(Scale()))}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument(
        "--url", default="", help="another server, of a role that may create databases; default: a private one"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; the figures mean nothing")
    parser.add_argument("--events", type=int, default=0, help="of the memory gauge; default 500,000")
    parser.add_argument(
        "--full", action="store_true", help="memory over 10 million events, growth to 20 million: up to 25 GiB of disk"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, help="a folder for benchmarks.md, .json and .png")
    where.add_argument("--write", action="store_true", help="write them into docs/, keeping there what is not measured now")
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    if given.write and given.quick:
        parser.error("--quick measures nothing that --write should write down")
    return given


async def measure(server, wanted, rounds):
    """Gauges last: one may start the server again with another setting."""
    about = await machine.describe(server)
    contests, series, gauges = ([one for one in wanted if isinstance(one, kind)] for kind in (Contest, Series, Gauge))
    found = await run_contests(server, contests, rounds) + await run_series(server, series, rounds)
    return about, found + await run_gauges(server, gauges, rounds)


def main():
    """Do what the command line says."""
    given = options(sys.argv[1:])
    scale = Scale(given.quick, given.events or (FULL_EVENTS if given.full else 0), given.full)
    try:
        wanted = chosen(given.topics, scale)
    except KeyError as error:
        sys.exit(f"error: {error.args[0]}")
    with Server(given.url) as server:
        about, found = asyncio.run(measure(server, wanted, given.rounds))
        made = document.of(found, about, document.command(sys.argv[1:]), given.rounds, server.notes)
    print(page.console(made))
    folder = ROOT / "docs" if given.write else given.out
    if folder is not None:
        page.write(folder, made)


if __name__ == "__main__":
    main()
