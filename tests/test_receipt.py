"""The main job on a real log: the receipt phase of permit applications at a municipality (8,577 events, 1,434 cases).

The file lies beside the checkout on development machines and in CI (../shared/data); it is not part of the project.
"""

import csv
import datetime as dt
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa

from eventstore import EventStore
from eventstore.bulk import CsvMapping, import_lines, read_csv
from eventstore.history import History
from projections import Daemon, Projection, on

FILE = Path(__file__).parent.parent.parent / "shared" / "data" / "receipt.csv"

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not FILE.exists(), reason="the receipt log does not lie beside this checkout"),
]

FIRST = "Confirmation of receipt"
LAST = "T10 Determine necessity to stop indication"
MAPPING = ("permit-{case:concept:name}", "{concept:name}", "{time:timestamp}")


def log():
    with FILE.open(newline="") as file:
        return list(csv.DictReader(file))


def when(row):
    return dt.datetime.fromisoformat(row["time:timestamp"])


metadata = sa.MetaData()
per_activity = sa.Table(
    "cases_per_activity",
    metadata,
    sa.Column("activity", sa.Text, primary_key=True),
    sa.Column("events", sa.BigInteger, nullable=False, server_default="0"),
)
cases = sa.Table(
    "cases",
    metadata,
    sa.Column("case_id", sa.Text, primary_key=True),
    sa.Column("events", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("closed", sa.Boolean, nullable=False, server_default="false"),
)


def projections_of(rows):
    """Cases per activity, and which cases are open: closed by their last activity."""
    types = sorted({row["concept:name"] for row in rows})

    class PerActivity(Projection):
        table = per_activity

        @on(*types)
        def count(self, event, recorded, rows):
            rows.add(activity=recorded.type, events=1)

    class Cases(Projection):
        table = cases

        @on(*types)
        def count(self, event, recorded, rows):
            rows.add(case_id=recorded.stream_id, events=1)
            rows.set(case_id=recorded.stream_id, closed=recorded.type == LAST)

    return [PerActivity(), Cases()]


@pytest.fixture
async def imported(database):
    async with EventStore(database, events=[]) as store:
        with FILE.open("rb") as file:
            lines = read_csv(file, "receipt.csv", CsvMapping(*MAPPING))
            result = await import_lines(store, lines, on_bad=lambda bad: pytest.fail(f"line {bad.number}: {bad.reason}"))
        assert (result.read, result.added) == (8577, 8577)
        yield store


async def test_every_row_is_an_event_in_its_place(imported):
    """8,577 events, in the order of the file, with every column and the right time."""
    rows = log()
    events = [r async for r in imported.read_all()]

    assert [(e.stream_id, e.type, e.data.data, e.occurred_at) for e in events] == [
        (f"permit-{row['case:concept:name']}", row["concept:name"], row, when(row)) for row in rows
    ]


async def test_the_read_models_are_what_plain_python_counts(imported, database):
    """Cases per activity and open cases."""
    rows = log()
    async with Daemon(imported, projections_of(rows), create=True) as daemon:
        await daemon.run_until_caught_up()
    connection = await asyncpg.connect(database, ssl=False)
    activities = dict(await connection.fetch("select activity, events from cases_per_activity"))
    stored = {row[0]: (row[1], row[2]) for row in await connection.fetch("select case_id, events, closed from cases")}
    await connection.close()

    last = {f"permit-{row['case:concept:name']}": row["concept:name"] for row in rows}
    counts = Counter(f"permit-{row['case:concept:name']}" for row in rows)
    assert activities == Counter(row["concept:name"] for row in rows)
    assert stored == {case: (counts[case], last[case] == LAST) for case in counts}
    assert sum(not closed for _, closed in stored.values()) == sum(type_ != LAST for type_ in last.values())


async def test_one_case_as_it_was_true_at_a_moment(imported):
    """First historical answer: what had happened in the busiest case by the middle of its life."""
    rows = log()
    (case, _), *_ = Counter(row["case:concept:name"] for row in rows).most_common(1)
    own = [row for row in rows if row["case:concept:name"] == case]
    middle = sorted(when(row) for row in own)[len(own) // 2]

    found = await History(imported).stream(f"permit-{case}", valid_at=middle)

    assert [e.type for e in found.events] == [row["concept:name"] for row in own if when(row) <= middle]
    assert [e.type for e in found.since] == [row["concept:name"] for row in own if when(row) > middle]
    assert found.events
    assert found.since


async def test_how_many_cases_were_open_on_a_day(imported):
    """Second historical answer: over the whole log by valid time."""
    rows = log()
    day = dt.datetime(2011, 6, 1, tzinfo=dt.UTC)

    begun, ended = set(), set()
    async for recorded in imported.read_all(types=[FIRST, LAST]):
        if recorded.occurred_at <= day:
            (begun if recorded.type == FIRST else ended).add(recorded.stream_id)

    assert len(begun - ended) == len(
        {row["case:concept:name"] for row in rows if row["concept:name"] == FIRST and when(row) <= day}
        - {row["case:concept:name"] for row in rows if row["concept:name"] == LAST and when(row) <= day}
    )
    assert begun - ended


def test_the_command_line_imports_it_twice_without_a_double(database):
    """As in the documentation."""
    code = "from eventstore.cli import main; main()"
    options = ["--stream", MAPPING[0], "--type", MAPPING[1], "--occurred-at", MAPPING[2], "--url", database, "--json"]
    for added in (8577, 0):
        done = subprocess.run(
            [sys.executable, "-c", code, "import", str(FILE), *options], capture_output=True, text=True, check=True
        )
        counts = json.loads(done.stdout)
        assert (counts["added"], counts["present"]) == (added, 8577 - added)
