"""Export: the whole log, in order, once; what is written can be imported again and is equal."""

import csv
import datetime as dt
import io
import json
from pathlib import Path

import pytest
from conftest import drop_database, new_database, on_database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import cli, start

from eventstore import EventStore, NewEvent, UnknownEvent, errors
from eventstore.bulk import (
    EXPORTED,
    FORMATS,
    CsvMapping,
    export_events,
    import_lines,
    read_cloudevents,
    read_csv,
    read_json_lines,
    resume_point,
)

pytestmark = pytest.mark.server

READ = {
    "jsonl": lambda file: read_json_lines(file, "x"),
    "cloudevents": read_cloudevents,
    "csv": lambda file: read_csv(file, "x", EXPORTED),
}


def stop(bad):
    pytest.fail(f"line {bad.number}: {bad.reason}")


async def exported(store, format, **how):
    out = io.BytesIO()
    result = await export_events(store, out, format, **how)
    return result, out.getvalue()


def without_place(recorded):
    """All that an import keeps; the text of the data included."""
    names = ("stream_id", "version", "type", "schema_version", "event_id", "correlation_id", "causation_id", "occurred_at")
    fields = {name: getattr(recorded, name) for name in (*names, "metadata", "tags", "data")}
    return fields | {"document": recorded.data.document}


async def told(store):
    """Every event, and what readers and decisions find by which tag."""
    found = {r.position: r async for r in store.read_all()}
    async with store.transaction() as tx:
        rows = await tx.connection.fetch("select tag, position, type from eventstore.event_tags order by seq")
    return [without_place(r) for r in found.values()], [
        (t, (r := found[p]).stream_id, r.version, type) for t, p, type in rows
    ]


@pytest.fixture
def other_database(server, template):
    """The URL of another fresh, migrated database."""
    name = new_database(server, template)
    yield on_database(server, name)
    drop_database(server, name)


@pytest.fixture
async def other(other_database):
    """An open store on it."""
    async with EventStore(other_database, events=[]) as opened:
        yield opened


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(["\\", '"', ",", "\\N", "'", ";", "\n", "\r\n", "\t", "\x7f", "\x85", "\u2028"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: "\\u0000" not in json.dumps(value))
texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)
events = st.builds(
    NewEvent,
    st.builds(UnknownEvent, texts, values, st.integers(1, 32767)),
    metadata=st.dictionaries(st.text(max_size=4), values, max_size=3).filter(lambda m: "\\u0000" not in json.dumps(m)),
    occurred_at=st.none()
    | st.datetimes(
        dt.datetime(1, 1, 2),
        dt.datetime(9999, 12, 30),
        timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=-11, minutes=-7))]),
    ),
    correlation_id=st.none() | texts,
    causation_id=st.none() | st.uuids(),
    tags=st.just(()) | st.lists(texts, max_size=3),
)


@pytest.mark.parametrize("format", FORMATS)
async def test_what_is_exported_is_imported_equal(store, other, format):
    """Ids, order, times, correlation, causation, metadata, tags, schema version, and the data to the digit."""
    store._registry = other._registry  # documents as they are stored

    drawn = []

    @settings(max_examples=40, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(texts, events), max_size=5))
    def draw(found):
        drawn.extend(found)

    draw()
    for stream, event in drawn:
        await store.append(stream, event)
    await store.append("a-1", UnknownEvent("T", None, 1, '{"x": 1.50, "y": [-0.10, 12345678901234567890123]}'))
    result, text = await exported(store, format)
    done = await import_lines(other, READ[format](io.BytesIO(text)), on_bad=stop)

    assert result.events == done.added == len(drawn) + 1
    assert result.settled is True
    assert await told(other) == await told(store)
    assert (await exported(store, format))[1] == text


async def filled(store, count=50):
    for n in range(count):
        await store.append(f"{'ab'[n % 2]}-{n % 4}", UnknownEvent(f"T{n % 3}", {"n": n}))


@pytest.mark.parametrize("format", FORMATS)
async def test_an_export_that_was_cut_anywhere_goes_on_to_the_same_file(store, tmp_path, format):
    """Whatever its last line looks like."""
    await filled(store, 12)
    _, whole = await exported(store, format)
    for cut in [*range(0, 30), *range(30, len(whole), 23), len(whole)]:
        file = tmp_path / "f"
        file.write_bytes(whole[:cut])
        point = resume_point(file, format)
        assert whole[: point.size] == whole[:cut][: point.size]
        _, rest = await exported(store, format, after=point)
        assert whole[: point.size] + rest == whole, cut


async def test_a_file_of_another_log_or_format_is_not_gone_on_with(store, other, tmp_path):
    """The id at its last position must be the log's."""
    await filled(store, 5)
    await filled(other, 9)
    file = tmp_path / "f"
    file.write_bytes((await exported(store, "jsonl"))[1])

    with pytest.raises(errors.InvalidArgument, match="another log"):
        await exported(other, "jsonl", after=resume_point(file, "jsonl"))
    for format in ("cloudevents", "csv"):
        with pytest.raises(errors.InvalidArgument, match=f"no {format}"):
            resume_point(file, format)


async def test_filters_choose_and_a_held_transaction_ends_it_before_the_hole(store):
    """By type, category, stream and position; what may still appear is not passed."""
    await filled(store)

    async def numbers(**how):
        result, text = await exported(store, "jsonl", **how)
        return [json.loads(line)["data"]["n"] for line in text.splitlines()], result

    assert (await numbers(types=["T1"]))[0] == list(range(1, 50, 3))
    assert (await numbers(categories=["b"], after=10))[0] == list(range(11, 50, 2))
    assert (await numbers(stream="a-2", after=20))[0] == list(range(22, 50, 4))
    with pytest.raises(errors.InvalidArgument, match="not both"):
        await numbers(stream="a-2", types=["T1"])
    async with store.transaction() as tx:
        await tx.append("c-1", UnknownEvent("Held", {"n": -1}))
        await store.append("a-1", UnknownEvent("T1", {"n": 50}))
        found, result = await numbers()
        assert (found, result.settled, result.position) == (list(range(50)), False, 50)


def test_the_command_writes_resumes_and_refuses(database, tmp_path):
    """A file that exists is not overwritten; standard output is for pipes; the imported copy is the same again."""
    lines = "".join(json.dumps({"stream_id": f"a-{n % 5}", "type": "T", "data": {"n": n}}) + "\n" for n in range(3000))
    cli("import", "-", "--source", "x", url=database, stdin=lines)
    for format, option in (("jsonl", []), ("cloudevents", []), ("csv", ["--format", "csv"])):
        file = tmp_path / f"log.{format}"
        said = json.loads(cli("export", str(file), "--format", format, "--json", url=database))
        assert (said["events"], said["position"], said["settled"]) == (3000, 3000, True)
        assert "exists" in cli("export", str(file), "--format", format, url=database, code=2)
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        assert "up to position 3000" in cli("export", str(file), "--format", format, "--resume", url=database)
        assert file.read_bytes() == whole
        again = json.loads(cli("import", str(file), *option, "--json", url=database))
        assert (again["added"], again["present"]) == (0, 3000)
    assert "--resume needs a file" in cli("export", "--resume", url=database, code=2)
    assert "--format takes" in cli("export", "--format", "xml", url=database, code=2)
    assert "3 events" in cli("export", "-", "--after", "2997", url=database)
    with start("export", url=database) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_resumed_export_begins_the_file_that_is_not_there(database, tmp_path):
    """So a job can always say --resume."""
    file = tmp_path / "log.csv"
    for total in (1, 2):
        cli("append", "a-1", "T", '{"n": 1.50}', url=database)
        cli("export", str(file), "--format", "csv", "--resume", url=database)
        rows = list(csv.DictReader(io.StringIO(file.read_text())))
        assert [row["position"] for row in rows] == [str(n + 1) for n in range(total)]
    assert cli("import", str(file), "--format", "csv", url=database).startswith("0 events added, 2 ")


RECEIPT = Path(__file__).parent.parent.parent / "shared" / "data" / "receipt.csv"


@pytest.mark.skipif(not RECEIPT.exists(), reason="the receipt log does not lie beside this checkout")
@pytest.mark.parametrize("format", FORMATS)
async def test_a_real_log_survives_the_round_trip(store, other, format):
    """8,577 events, equal in the copy."""
    store._registry = other._registry
    mapping = CsvMapping("permit-{case:concept:name}", "{concept:name}", "{time:timestamp}")
    with RECEIPT.open("rb") as file:
        await import_lines(store, read_csv(file, "receipt.csv", mapping), on_bad=stop)
    _, text = await exported(store, format)
    await import_lines(other, READ[format](io.BytesIO(text)), on_bad=stop)

    assert len(text.splitlines()) == 8577 + (format == "csv")
    assert await told(other) == await told(store)
