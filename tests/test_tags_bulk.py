"""Tags in bulk: imported, exported, and given to old events, under the same locks as every other write of a tag."""

import asyncio
import csv
import io
import json
import os
import signal
import sys
import uuid

import pytest
from test_cli import cli

from eventstore import Boundary, EventStore, NewEvent, Query, UnknownEvent, errors
from eventstore.bulk import (
    EXPORTED,
    FORMATS,
    BadLine,
    CsvMapping,
    export_events,
    import_lines,
    read_cloudevents,
    read_csv,
    read_json_lines,
    resume_point,
)
from eventstore.bulk import importer as importing
from eventstore.tagging import backfill_tags
from eventstore.testing import faults

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def nothing_stays_armed():
    yield
    faults.disarm()


def lines(*documents):
    return io.BytesIO("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents).encode())


def stop(bad):
    pytest.fail(f"line {bad.number}: {bad.reason}")


async def run(store, *documents, source="test"):
    return await import_lines(store, read_json_lines(lines(*documents), source), on_bad=stop)


def line(n, *tags, stream=None):
    document = {"stream_id": stream or f"s-{n % 7}", "type": "T", "data": {"n": n}}
    return document | {"tags": list(tags)} if tags else document


async def ask(store, sql, *args):
    async with store._driver.acquire("transaction") as connection:
        return [tuple(row) for row in await connection.raw.fetch(sql, *args)]


async def tag_rows(store):
    """The rows of tags as (tag, position, type), by seq."""
    return await ask(store, "select tag, position, type from eventstore.event_tags order by seq")


async def tags_in_events(store):
    """What the rows should be if nothing was back-filled, by position."""
    return await ask(
        store,
        "select t.tag, e.position, e.type from eventstore.events e, unnest(e.tags) with ordinality as t (tag, n)"
        " order by e.position, t.n",
    )


async def positions(store, *tags, **how):
    return [r.position async for r in store.read_all(tags=tags, **how)]


# -- import


@pytest.mark.parametrize("copies", [3, 0])
async def test_imported_events_have_their_tags_and_the_rows_of_them(store, monkeypatch, copies):
    """By COPY and in parts; beside lines without any; seq grows with the position; decisions and readers find them."""
    monkeypatch.setattr(importing, "COPIES", copies)
    documents = [line(n, *[f"t:{n % k}" for k in (2, 3) if n % 5]) for n in range(1500)]
    result = await run(store, *documents)

    found = [r async for r in store.read_all()]
    assert result.added == 1500
    assert [list(r.tags) for r in found] == [list(dict.fromkeys(d.get("tags", []))) for d in documents]
    assert await tag_rows(store) == await tags_in_events(store) != []
    wanted = [r.position for r in found if {"t:0", "t:1"} <= set(r.tags)]
    assert await positions(store, "t:0", "t:1") == wanted != []
    decision = await Boundary(store).read(Query(tags=["t:0", "t:1"]))
    assert [r.position for r in decision.events] == wanted


ODD = ['a"b', "a\\b", '\\"', "{}", "a,b", "NULL", "null", "\\N", "ü€🎉", " a ", "'", "\u2028", "x" * 255]


@pytest.mark.parametrize("copies", [3, 0])
@pytest.mark.parametrize("format", FORMATS)
async def test_every_text_of_a_tag_arrives_as_it_is(store, monkeypatch, format, copies):
    """Through PostgreSQL's arrays, COPY, JSON and CSV."""
    monkeypatch.setattr(importing, "COPIES", copies)
    write = {"jsonl": as_jsonl, "csv": as_csv, "cloudevents": as_cloudevents}[format]
    given = [[tag] for tag in ODD] + [ODD, []]
    await import_lines(store, read_back(write(given), format), on_bad=stop)

    assert [list(r.tags) async for r in store.read_all()] == given
    assert await tag_rows(store) == await tags_in_events(store)


def as_jsonl(given):
    return lines(*[line(n) | {"tags": tags} for n, tags in enumerate(given)])


def as_csv(given):
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["stream", "tags"])
    rows.writerows([["a-1", json.dumps(tags) if tags else ""] for tags in given])
    return io.BytesIO(out.getvalue().encode())


def as_cloudevents(given):
    foreign = {"specversion": "1.0", "source": "/x", "type": "T", "subject": "a-1"}
    return lines(*[foreign | {"id": str(n)} | ({"eventtags": json.dumps(t)} if t else {}) for n, t in enumerate(given)])


def read_back(file, format):
    if format == "csv":
        return read_csv(file, "x", CsvMapping("{stream}", "T", tags_json="tags"))
    return read_cloudevents(file) if format == "cloudevents" else read_json_lines(file, "x")


def test_csv_columns_become_tags_by_templates():
    """Also beside a column of JSON; an empty column makes none; a template without a column is in every row."""
    mapping = CsvMapping("c-{case}", "T", tags=("case:{case}", "who:{who}", "import:1"), tags_json="more")
    text = 'case,who,more\n1,ada,"[""x:1"", ""case:1""]"\n2,,\n'
    one, two = read_csv(io.BytesIO(text.encode()), "f", mapping)

    assert one.tags == ("case:1", "who:ada", "import:1", "x:1")
    assert two.tags == ("case:2", "import:1")
    with pytest.raises(errors.InvalidArgument, match="'course'"):
        list(read_csv(io.BytesIO(b"a\n1\n"), "f", CsvMapping("{a}", "T", tags=("course:{course}",))))
    with pytest.raises(errors.InvalidArgument, match="'tags'"):
        list(read_csv(io.BytesIO(b"a\n1\n"), "f", CsvMapping("{a}", "T", tags_json="tags")))


BAD_TAGS = ["course:1", {"course:1": 1}, 7, [7], [None], [""], ["a\x01b"], ["a\nb"], ["\ud800"], ["x" * 256], [["a"]]]


@pytest.mark.parametrize("tags", BAD_TAGS, ids=repr)
def test_what_can_be_no_tag_makes_a_bad_line(tags):
    """In each format; the reason says so."""
    (by_json,) = read_json_lines(io.BytesIO(json.dumps(line(1) | {"tags": tags}).encode()), "x")
    (by_csv,) = read_csv(as_csv([tags]), "x", CsvMapping("{stream}", "T", tags_json="tags"))
    (by_event,) = read_cloudevents(as_cloudevents([tags]))

    for parsed in (by_json, by_csv, by_event):
        assert isinstance(parsed, BadLine), parsed
        assert "tag" in parsed.reason


async def test_more_tags_than_an_event_may_have_make_a_bad_line(store):
    """As an append refuses them."""
    bad = []
    documents = [line(0, *[f"t:{n}" for n in range(100)]), line(1, *[f"t:{n}" for n in range(101)]), line(2)]
    result = await import_lines(store, read_json_lines(lines(*documents), "x"), on_bad=bad.append)

    assert (result.added, result.rejected, bad[0].number) == (2, 1, 2)
    assert "101 tags, at most 100" in bad[0].reason
    assert len(await tag_rows(store)) == 100


async def test_importing_twice_writes_no_tag_twice(store):
    """Nor adds any to events that were brought without."""
    documents = [line(n, "t:1", f"u:{n}") | {"event_id": str(uuid.uuid4())} for n in range(50)]
    plain = [line(n) | {"event_id": str(uuid.uuid4())} for n in range(50)]
    await run(store, *documents, *plain)
    rows = await tag_rows(store)
    again = await run(store, *documents, *[d | {"tags": ["late:1"]} for d in plain], line(99, "t:1"))

    assert (again.added, again.present) == (1, 100)
    assert await tag_rows(store) == [*rows, ("t:1", 101, "T")]


async def test_a_batch_without_tags_takes_no_lock_and_is_one_copy(store, monkeypatch):
    """While somebody holds every bucket of tags."""

    async def refuse(*_):
        raise AssertionError("a plain batch was copied as one with tags")

    monkeypatch.setattr(importing, "_copy_tagged", refuse)
    async with store.transaction() as tx:
        await tx.connection.execute(
            "select eventstore.lock_tags_v1(array_fill(''::text, array[5000]), array(select 't:' || n from generate_series(1, 5000) n))"
        )
        assert (await asyncio.wait_for(run(store, *[line(n) for n in range(100)]), 10)).added == 100


async def test_a_batch_of_more_tags_than_have_locks_of_their_own(store):
    """Beside appends that carry some of the same."""

    async def disturb():
        for n in range(40):
            await store.append("d-1", NewEvent(UnknownEvent("D", {}), tags=[f"t:{n * 50}", "d:1"]))

    documents = [line(n, f"t:{n}", f"u:{n % 3}") for n in range(2000)]
    result, _ = await asyncio.wait_for(asyncio.gather(run(store, *documents), disturb()), 60)

    assert result.added == 2000
    assert sorted(await tag_rows(store)) == sorted(await tags_in_events(store))


async def test_imports_and_appends_at_once_write_the_rows_of_every_tag_once(database):
    """Two imports of the same file, tagged writers on the same streams; each tag becomes visible in the order of seq."""
    async with EventStore(database) as one, EventStore(database) as two:
        seen, done = {}, asyncio.Event()

        async def disturb():
            for n in range(60):
                await two.append(f"s-{n % 7}", NewEvent(UnknownEvent("Other", {}), tags=[f"t:{n % 4}"]))

        async def watch():
            """Whoever has seen a row of a tag has seen all below it."""
            while not done.is_set():
                for tag, seqs in await ask(one, "select tag, array_agg(seq) from eventstore.event_tags group by tag"):
                    before = seen.get(tag, set())
                    assert not [seq for seq in set(seqs) - before if before and seq < max(before)]
                    seen[tag] = set(seqs)

        documents = [line(n, f"t:{n % 4}", f"u:{n}") for n in range(3000)]
        watching = asyncio.create_task(watch())
        first, second, _ = await asyncio.wait_for(asyncio.gather(run(one, *documents), run(two, *documents), disturb()), 90)
        done.set()
        await watching

        assert first.added + second.added == 3000
        assert sorted(await tag_rows(one)) == sorted(await tags_in_events(one))
        assert len(await positions(one, "t:1")) == 750 + 15


async def test_an_import_with_tags_under_a_writer_that_never_rests_makes_progress(database):
    """In parts, and by insisting, tags and all."""
    async with EventStore(database) as one, EventStore(database) as two:
        done = asyncio.Event()

        async def disturb():
            while not done.is_set():
                await two.append("s-0", NewEvent(UnknownEvent("Other", {}), tags=["t:0"]))

        disturbing = asyncio.create_task(disturb())
        await asyncio.sleep(0.05)
        result = await asyncio.wait_for(run(one, *[line(n, f"t:{n % 4}") for n in range(3000)]), 90)
        done.set()
        await disturbing

        assert result.added == 3000
        assert sorted(await tag_rows(one)) == sorted(await tags_in_events(one))


@pytest.mark.parametrize(
    "query", [Query(tags=["t:1"]), Query(tags=["t:1", "u:1"]), Query(tags=["t:1"], types=["T"])], ids=repr
)
async def test_a_decision_notices_what_was_imported_since(store, query):
    """Committed before it is appended, and while it is."""
    decision = await Boundary(store).read(query)
    other = await Boundary(store).read(Query(tags=["v:1"]) | Query(tags=["t:1"], types=["U"]) | Query(tags=["t:1", "v:1"]))
    await run(store, line(1, "t:1", "u:1"))

    with pytest.raises(errors.BoundaryConflict):
        await decision.append("d-1", UnknownEvent("D", {}))
    await other.append("d-1", UnknownEvent("D", {}))

    decision = await Boundary(store).read(query)
    with faults.armed("import.after_copy", faults.Sleep(0.5)) as fault:
        importing_ = asyncio.create_task(run(store, line(2, "t:1", "u:1")))
        await asyncio.wait_for(fault.struck.wait(), 10)
        with pytest.raises(errors.BoundaryConflict):  # it waits for the import; else it would be done long since
            await decision.append("d-1", UnknownEvent("D", {}))
        assert (await importing_).added == 1


async def test_an_import_that_dies_between_its_events_and_their_tags_leaves_neither(store):
    """And is finished by running it again."""
    documents = [line(n, "t:1") for n in range(20)]
    with faults.armed("import.after_copy", faults.Raise(RuntimeError("cut"))), pytest.raises(RuntimeError, match="cut"):
        await run(store, *documents)
    assert await ask(store, "select from eventstore.events") == await tag_rows(store) == []
    with faults.armed("import.after_copy", faults.Raise(errors.ConnectionLost("cut"))):
        assert (await run(store, *documents)).added == 20
    assert len(await tag_rows(store)) == 20


async def in_the_order_of_locks(store, count):
    """Tags, as whoever takes all of them takes them."""
    sql = """select tag from (select 't:' || n as tag from generate_series(1, $1) n) t
             order by hashtextextended('"eventstore"' || chr(3) || chr(3) || tag, 0)"""
    return [tag for (tag,) in await ask(store, sql, count)]


async def test_an_import_waits_for_a_tag_that_somebody_holds_and_holds_nothing_meanwhile(store, monkeypatch):
    """Who takes tags in another order than it does is never the one to give way; in the end it says what to do."""
    *own, last = await in_the_order_of_locks(store, 20)
    documents = [line(n, own[n % 19], last) for n in range(40)]
    async with store.transaction() as tx:
        await tx.append("x-1", NewEvent(UnknownEvent("X", {}), tags=[last]))
        running = asyncio.create_task(run(store, *documents))
        await asyncio.sleep(1.5)  # longer than deadlock_timeout
        await asyncio.wait_for(store.append("y-1", NewEvent(UnknownEvent("Y", {}), tags=own)), 2.5)
        await tx.append("x-2", NewEvent(UnknownEvent("X", {}), tags=own))
        assert not running.done()
    assert (await asyncio.wait_for(running, 20)).added == 40

    monkeypatch.setattr(importing, "TAGS_SECONDS", 0.3)
    async with store.transaction() as tx:
        await tx.append("x-1", NewEvent(UnknownEvent("X", {}), tags=["z:1"]))
        with pytest.raises(errors.LockTimeout):
            await run(store, line(100, "z:1"))
    assert (await run(store, line(100, "z:1"))).added == 1


async def test_only_rows_of_the_imports_own_events_are_written(store):
    """Neither those of neighbours that commit meanwhile, nor those of events that somebody inserts by hand with a tag."""
    with faults.armed("import.after_copy", faults.Sleep(0.5)) as fault:
        running = asyncio.create_task(run(store, *[line(n, "t:1") for n in range(5)]))
        await asyncio.wait_for(fault.struck.wait(), 10)
        await store.append("y-1", NewEvent(UnknownEvent("Y", {}), tags=["y:1"]))
        await ask(
            store,
            "insert into eventstore.events (stream_id, version, type, event_id, data, tags)"
            " values ('z-1', 1, 'Z', gen_random_uuid(), '{}', '{z:1}')",
        )
        assert not running.done()
    assert (await running).added == 5
    assert sorted(await tag_rows(store)) == [*[("t:1", n, "T") for n in range(1, 6)], ("y:1", 6, "Y")]


@pytest.mark.parametrize("copies", [3, 0])
async def test_a_sequence_of_tags_that_a_restore_left_behind_is_said_and_its_cure_cures(store, monkeypatch, copies):
    """Not tried again for ever as a lost race."""
    monkeypatch.setattr(importing, "COPIES", copies)
    await run(store, *[line(n, "t:1") for n in range(5)], line(5))
    await ask(store, "select setval('eventstore.event_tags_seq_seq', 1, false)")
    with pytest.raises(errors.SequenceBehind, match="select setval") as found:
        await asyncio.wait_for(run(store, line(7, "t:1")), 20)
    with pytest.raises(errors.SequenceBehind):
        await backfill_tags(store, lambda recorded: ["t:1"])
    await ask(store, "select setval" + str(found.value).partition("select setval")[2])
    assert (await run(store, line(7, "t:1"))).added == 1


# -- export


async def test_an_older_export_to_csv_without_tags_is_taken_still(store, tmp_path):
    """It has no column for them; new rows are not put under its header."""
    await store.append("a-1", NewEvent(UnknownEvent("T", {"n": 1}), tags=["t:1"]))
    out = io.BytesIO()
    await export_events(store, out, "csv")
    header, row = csv.reader(io.StringIO(out.getvalue().decode()))
    assert header[-1] == "tags"
    older = io.StringIO()
    csv.writer(older).writerows([header[:-1], row[:-1]])
    (new,) = read_csv(io.BytesIO(out.getvalue()), "x", EXPORTED)
    (old,) = read_csv(io.BytesIO(older.getvalue().encode()), "x", EXPORTED)

    assert (new.tags, old.tags) == (("t:1",), ())
    assert new[:10] == old[:10]
    for lines_ in (1, 2):
        file = tmp_path / "older.csv"
        file.write_text("".join(older.getvalue().splitlines(keepends=True)[:lines_]))
        with pytest.raises(errors.InvalidArgument, match="no csv of an export"):
            resume_point(file, "csv")


@pytest.mark.parametrize("format", FORMATS)
async def test_an_export_says_what_events_were_appended_with_and_finds_them_by_every_tag(store, format):
    """A back-fill's tags choose events, and are not written."""
    for n in range(4):
        await store.append("a-1", NewEvent(UnknownEvent("T", {"n": n}), tags=["t:1"] if n % 2 else []))
    await backfill_tags(store, lambda recorded: [f"late:{recorded.version // 3}"])
    out = io.BytesIO()
    result = await export_events(store, out, format, tags=["late:1"])

    assert result.events == 2
    out.seek(0)
    read = {"csv": lambda: read_csv(out, "x", EXPORTED), "jsonl": lambda: read_json_lines(out, "x")}
    parsed = list(read.get(format, lambda: read_cloudevents(out))())
    assert [(json.loads(p.data)["n"], p.tags) for p in parsed] == [(2, ()), (3, ("t:1",))]
    with pytest.raises(errors.InvalidArgument, match="not both"):
        await export_events(store, io.BytesIO(), stream="a-1", tags=["t:1"])


# -- on the command line


def test_tags_are_given_asked_for_and_shown(database):
    """By append, read and tail; as documents, tables and lines; where there are none nothing is shown of them."""
    cli("append", "c-1", "T", '{"n": 1}', url=database)
    plain = cli("read", url=database)
    assert "tags" not in plain
    cli("append", "c-1", "T", '{"n": 2}', "--tag", "course:1", "--tag", "student:2", url=database)
    cli("append", "c-2", "T", '{"n": 3}', "--tag", "course:1", url=database)

    def numbers(*args):
        return [json.loads(text)["data"]["n"] for text in cli(*args, "--json", url=database).splitlines()]

    for command in (["read"], ["tail", "--no-follow"], ["tail", "--no-follow", "--after", "0"]):
        assert numbers(*command, "--tag", "course:1", "--category", "c", "--type", "T") == [2, 3]
        assert numbers(*command, "--tag", "course:1", "--tag", "student:2") == [2]
        told = [json.loads(text) for text in cli(*command, "--json", url=database).splitlines()]
        assert [one["tags"] for one in told] == [[], ["course:1", "student:2"], ["course:1"]]
    table = cli("read", url=database)
    assert "course:1, student:2" in table
    assert "tags" in table.splitlines()[1]
    first, second, _ = cli("tail", "--no-follow", url=database).splitlines()
    assert "  T  [course:1, student:2]  {" in second
    assert "  T  {" in first
    assert "leave the stream out" in cli("read", "c-1", "--tag", "course:1", url=database, code=2)
    assert "a tag" in cli("append", "c-1", "T", "--tag", "", url=database, code=2)


def test_import_and_export_take_tags(database, tmp_path):
    """A CSV of somebody else's by templates; out again, chosen by tag."""
    file = tmp_path / "log.csv"
    file.write_text('case,who,more\n1,ada,"[""x:1""]"\n2,,\n')
    options = ["--stream", "c-{case}", "--type", "T", "--tag", "who:{who}", "--tags-json", "more"]
    assert cli("import", str(file), *options, url=database).startswith("2 events added")
    assert [json.loads(text)["tags"] for text in cli("read", "--json", url=database).splitlines()] == [
        ["who:ada", "x:1"],
        [],
    ]

    (chosen,) = cli("export", "--tag", "x:1", "--tag", "who:ada", url=database).splitlines()[:1]
    assert json.loads(chosen)["tags"] == ["who:ada", "x:1"]
    lines_ = tmp_path / "log.jsonl"
    lines_.write_text(chosen + "\n")
    assert "themselves" in cli("import", str(lines_), "--tag", "x:1", url=database, code=2)
    assert "themselves" in cli("import", str(file), "--format", "csv", "--tags-json", "more", url=database, code=2)


async def test_a_process_that_is_killed_between_events_and_their_tags_leaves_neither(database):
    """What is under way on the server goes with its connection."""
    code = (
        "import asyncio, io, json, sys\n"
        "from eventstore import EventStore\n"
        "from eventstore.bulk import import_lines, read_json_lines\n"
        "from eventstore.testing import faults\n"
        "async def main():\n"
        "    file = io.BytesIO(sys.argv[2].encode())\n"
        "    async with EventStore(sys.argv[1], events=[]) as store:\n"
        "        done = await import_lines(store, read_json_lines(file, 'x'), on_bad=print)\n"
        "        print(done.added, done.present)\n"
        "faults.arm_from_environment()\n"
        "asyncio.run(main())\n"
    )
    text = lines(*[line(n, "t:1", f"u:{n}") for n in range(100)]).getvalue().decode()

    async def child(failpoint):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            database,
            text,
            env=os.environ | {faults.VARIABLE: failpoint},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, out.decode()

    async with EventStore(database) as store:
        assert await child("import.after_copy:kill") == (-signal.SIGKILL, "")
        assert await ask(store, "select from eventstore.events") == await tag_rows(store) == []
        assert await child("") == (0, "100 0\n")
        assert await tag_rows(store) == await tags_in_events(store) != []
        assert await child("import.after_copy:kill") == (0, "0 100\n")
