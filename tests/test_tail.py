"""eventstore tail, run as a user runs it: live, filtered, in colours for people and plain for pipes."""

import asyncio
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time

import pytest
from test_cli import RUN, cli, start

from eventstore import EventStore, UnknownEvent

pytestmark = pytest.mark.server


async def append(url, *found):
    async with EventStore(url, events=[]) as store:
        for stream, type_, n in found:
            await store.append(stream, UnknownEvent(type_, {"n": n}))


def fill(url, count=30):
    asyncio.run(append(url, *((f"{'ab'[n % 2]}-{n % 4}", f"T{n % 3}", n) for n in range(count))))


def numbers(text):
    return [json.loads(line)["data"]["n"] for line in text.splitlines()]


def shown(url, *args):
    return numbers(cli("tail", "--no-follow", "--json", *args, url=url))


def test_the_last_events_are_shown_and_filters_choose(database):
    """Ten unless told; by type, category, stream and pattern; together they narrow."""
    fill(database)

    assert shown(database) == list(range(20, 30))
    assert shown(database, "--last", "3") == [27, 28, 29]
    assert shown(database, "--last", "0") == []
    assert shown(database, "--after", "28") == [28, 29]
    assert shown(database, "--type", "T1", "--last", "3") == [22, 25, 28]
    assert shown(database, "--category", "b", "--last", "2") == [27, 29]
    assert shown(database, "--stream", "a-0", "--stream", "b-3", "--last", "4") == [23, 24, 27, 28]
    assert shown(database, "--stream", "?-[13]", "--type", "T0", "--last", "2") == [21, 27]
    assert shown(database, "--stream", "b-*", "--after", "25") == [25, 27, 29]
    assert "give one" in cli("tail", "--last", "1", "--after", "1", url=database, code=2)


def test_plain_lines_are_whole_and_hold_no_escape(database):
    """In a pipe nothing is shortened or coloured; what could move a cursor is written as JSON writes it."""
    asyncio.run(append(database, ("a-1", "T", "x" * 500 + "\x1b[31m\x9b1m\x7f\n")))
    said = cli("tail", "--no-follow", url=database)

    assert "x" * 500 + r"\u001b[31m\u009b1m\u007f\n" in said
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", said)
    assert re.fullmatch(r" +1  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  a-1@1  T  \{.*\}\n", said)


def test_new_events_come_at_once_and_in_order(database):
    """Each line is flushed; Ctrl-C ends it in one line."""
    fill(database, 3)
    with start("tail", "--json", "--category", "a", url=database) as process:
        reader = iter(process.stdout.readline, "")
        assert [json.loads(next(reader))["data"]["n"] for _ in range(2)] == [0, 2]
        fill(database, 9)
        assert [json.loads(next(reader))["data"]["n"] for _ in range(5)] == [0, 2, 4, 6, 8]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "error: interrupted\n")


@pytest.mark.parametrize("begin", [["--last", "0"], ["--last", "5"], ["--after", "3"]])
def test_an_event_that_commits_late_is_not_passed(database, begin):
    """Its position was drawn before those that are already there."""

    async def play():
        async with EventStore(database, events=[]) as store:
            for n in range(3):
                await store.append("a-1", UnknownEvent("T", {"n": n}))
            async with store.transaction() as tx:
                await tx.append("late-1", UnknownEvent("T", {"n": 3}))
                await store.append("a-1", UnknownEvent("T", {"n": 4}))
                process = start("tail", "--json", *begin, url=database)
                watchdog = threading.Timer(30, process.kill)
                watchdog.start()
                deadline = time.monotonic() + 20
                watching = "select count(*) from pg_stat_activity where application_name = 'eventstore-cli marks'"
                watching += " and datname = current_database()"
                while not await tx.connection.fetchval(watching) and time.monotonic() < deadline:
                    await asyncio.sleep(0.05)
                    await tx.connection.execute("select pg_stat_clear_snapshot()")  # kept for the transaction otherwise
                await asyncio.sleep(1.5)  # longer than the end of the log is waited for
            told = []
            while not told or told[-1] != 4:
                told.append(json.loads(await asyncio.to_thread(process.stdout.readline))["data"]["n"])
            process.kill()
            process.communicate()
            watchdog.cancel()
            return told

    assert asyncio.run(play())[-2:] == [3, 4]


def test_a_terminal_gets_colours_and_one_line_an_event(database):
    """Cut at its width, each type and category in a colour that stays."""
    asyncio.run(append(database, ("a-1", "One", "x" * 500), ("b-1", "Two", "y"), ("a-2", "One", "z")))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", RUN["eventstore"], "tail", "--url", database]
    environment = {**os.environ, "COLUMNS": "90", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment)
    os.close(theirs)
    said = b""
    while said.count(b"\n") < 3 and select.select([ours], [], [], 20)[0]:
        said += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    os.close(ours)

    lines = said.decode().splitlines()
    plain = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in lines]
    assert all(len(line) <= 90 for line in plain)
    assert plain[0].rstrip().endswith("…")
    colours = [re.findall("\x1b\\[([0-9;]+)m", line) for line in lines]
    assert colours[0] == colours[2] != colours[1]
