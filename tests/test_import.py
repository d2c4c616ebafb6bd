"""Import: every line once, whatever happens on the way."""

import asyncio
import io
import json
import random
import uuid

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eventstore import EventStore, errors
from eventstore.bulk import BadLine, CsvMapping, ImportLine, import_lines, read_csv, read_json_lines
from eventstore.serialization.members import flat_object, members_of

pytestmark = pytest.mark.server


def lines(*documents):
    return io.BytesIO("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents).encode())


def stop(bad):
    raise errors.InvalidArgument(f"line {bad.number}: {bad.reason}")


async def run(store, file, source="test", **how):
    return await import_lines(store, read_json_lines(file, source), on_bad=how.pop("on_bad", stop), **how)


async def stored(store):
    return [r async for r in store.read_all(settle=5)]


def many(count, streams=7):
    return [{"stream_id": f"s-{n % streams}", "type": "T", "data": {"n": n}} for n in range(count)]


async def test_lines_become_events_in_their_order(store):
    """With everything that a line may carry."""
    given_id, cause = str(uuid.uuid4()), str(uuid.uuid4())
    full = {
        "stream_id": "a-1",
        "type": "Moved",
        "data": {"x": 1.5, "ü": None},
        "event_id": given_id,
        "occurred_at": "2020-02-29T12:00:00+01:00",
        "correlation_id": "c",
        "causation_id": cause,
        "metadata": {"actor": "ada"},
        "schema_version": 3,
    }
    result = await run(store, lines(full, *many(2500)))

    first, *rest = await stored(store)
    assert (result.read, result.added, result.present) == (2501, 2501, 0)
    assert (str(first.event_id), str(first.causation_id), first.correlation_id) == (given_id, cause, "c")
    assert (first.data.data, first.schema_version, first.metadata["actor"]) == (full["data"], 3, "ada")
    assert first.occurred_at.isoformat() == "2020-02-29T11:00:00+00:00"
    assert [r.data.data["n"] for r in rest] == list(range(2500))


async def test_importing_twice_adds_nothing_and_a_longer_file_adds_the_rest(store):
    """Derived ids come from source, ordinal and content."""
    await run(store, lines(*many(1500)))
    again = await run(store, lines(*many(1500)))
    longer = await run(store, lines(*many(1700)))
    elsewhere = await run(store, lines(*many(3)), source="other")

    assert (again.added, again.present) == (0, 1500)
    assert (longer.added, longer.present) == (200, 1500)
    assert elsewhere.added == 3
    assert len(await stored(store)) == 1703


async def test_two_imports_at_once_and_other_writers_add_every_line_once(database):
    """Both look before they append, at exactly the version that they looked at."""
    async with EventStore(database) as one, EventStore(database) as two:

        async def disturb():
            from eventstore import UnknownEvent

            for n in range(40):
                await two.append(f"s-{n % 7}", UnknownEvent("Other", {}))

        first, second, _ = await asyncio.gather(run(one, lines(*many(3000))), run(two, lines(*many(3000))), disturb())

        imported = [r.data.data["n"] for r in await stored(one) if r.type == "T"]
        assert sorted(imported) == list(range(3000))
        assert first.added + second.added == 3000
        assert first.added + first.present == second.added + second.present == 3000
        for stream in range(7):
            own = [r.data.data["n"] async for r in one.read_stream(f"s-{stream}") if r.type == "T"]
            assert own == sorted(own)


async def test_an_import_under_a_writer_that_never_rests_makes_progress(database):
    """A batch that lost its races goes in parts, in which only the stream that moved is refused."""
    from eventstore import UnknownEvent

    async with EventStore(database) as one, EventStore(database) as two:

        async def disturb():
            while True:
                await two.append("s-0", UnknownEvent("Other", {}))

        disturbing = asyncio.create_task(disturb())
        await asyncio.sleep(0.05)
        result = await asyncio.wait_for(run(one, lines(*many(4000))), 60)
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)

        assert result.added == 4000
        assert sorted([r.data.data["n"] async for r in one.read_all(types=["T"])]) == list(range(4000))
        own = [r.data.data["n"] async for r in one.read_stream("s-0") if r.type == "T"]
        assert own == list(range(0, 4000, 7))


async def test_a_lost_race_is_looked_up_again_each_way(store, monkeypatch):
    """By COPY, and in parts: what somebody appended between look-up and write is left alone, doubles and all."""
    from eventstore import UnknownEvent
    from eventstore.bulk import importer

    looked_up = importer._Importer._look_up

    async def then_somebody_appends(self, part):
        await looked_up(self, part)
        if left:
            left.pop()
            await store.append("s-3", UnknownEvent("Other", {}))

    monkeypatch.setattr(importer._Importer, "_look_up", then_somebody_appends)
    for races in (1, importer.COPIES, importer.COPIES + 2):
        left = [None] * races
        documents = [d | {"data": {"n": d["data"]["n"], "races": races}} for d in many(1500)]
        result = await run(store, lines(*documents, *documents[:5]), source=str(races))

        assert (result.added, result.present) == (1505, 0)  # the line's number is part of a derived id
        told = [r.data.data["n"] async for r in store.read_all(types=["T"]) if r.data.data["races"] == races]
        assert sorted(told) == sorted([*range(1500), *range(5)])
        for stream in range(7):
            own = [r.data.data["n"] async for r in store.read_stream(f"s-{stream}") if r.type == "T"]
            assert len(own) == len([n for n in told if n % 7 == stream]) * (1 + (1, 3, 5).index(races))
    assert (await run(store, lines(*documents), source=str(races))).present == 1500


async def test_two_imports_that_both_insist_beside_a_writer_add_every_line_once(database, monkeypatch):
    """What the other one appended since the look-up is found before the commit."""
    from eventstore import UnknownEvent

    monkeypatch.setattr("eventstore.bulk.importer.COPIES", 0)
    async with EventStore(database) as one, EventStore(database) as two, EventStore(database) as three:

        async def disturb():
            while True:
                await asyncio.gather(*(three.append(f"s-{n}", UnknownEvent("Other", {})) for n in range(2)))

        disturbing = asyncio.create_task(disturb())
        documents = many(3000, streams=2)
        first, second = await asyncio.wait_for(asyncio.gather(run(one, lines(*documents)), run(two, lines(*documents))), 60)
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)

        assert first.added + second.added == 3000
        assert sorted([r.data.data["n"] async for r in one.read_all(types=["T"])]) == list(range(3000))


@pytest.mark.parametrize("copies", [3, 0])
async def test_a_line_that_stands_twice_is_one_event(store, monkeypatch, copies):
    """Within a batch, by COPY and in parts."""
    monkeypatch.setattr("eventstore.bulk.importer.COPIES", copies)
    twice = {"stream_id": "a-1", "type": "T", "data": {}, "event_id": str(uuid.uuid4())}
    elsewhere = twice | {"stream_id": "a-2"}
    result = await run(store, lines(twice, elsewhere, twice, *many(3), twice))

    assert (result.read, result.added, result.present) == (7, 5, 2)
    assert [r.stream_id for r in await stored(store)] == ["a-1", "a-2", "s-0", "s-1", "s-2"]


ODD = [
    "back\\slash\\N",
    "tab\tnew\nline\rend",
    '"quoted" {braces} [1, "x": 2]',
    "\u00fc\u20ac\U0001f389",
    "\\u0041 \\.",
    "\x7f\x85",
]


@pytest.mark.parametrize("copies", [3, 0])
async def test_every_text_arrives_as_it_is(store, monkeypatch, copies):
    """COPY's own escapes, JSON's, and names that look like them; by COPY and in parts."""
    monkeypatch.setattr("eventstore.bulk.importer.COPIES", copies)
    documents = [
        {"stream_id": f"a\\N-{n}", "type": "T\\t", "data": {text: [text, {text: text}]}} for n, text in enumerate(ODD)
    ]
    documents += [d | {"data": ODD[2], "metadata": {"m": ODD}, "correlation_id": "\\N"} for d in documents[:1]]
    for ascii_only in (True, False):
        text = "".join(json.dumps(d, ensure_ascii=ascii_only) + "\n" for d in documents)
        await run(store, io.BytesIO(text.encode()), source=str(ascii_only))

    found = [(r.stream_id, r.type, r.data.data) for r in await stored(store)]
    assert found == [(d["stream_id"], d["type"], d["data"]) for d in documents] * 2
    assert [r.metadata for r in await stored(store)][-1] == {"m": ODD}
    assert [r.correlation_id for r in await stored(store)][-2:] == [None, "\\N"]


async def test_the_context_completes_lines_as_it_completes_appends(store):
    """What a line says itself stands."""
    cause = uuid.uuid4()
    own = {"correlation_id": "own", "metadata": {"actor": "bob"}}
    with store.context(correlation_id="c", causation_id=cause, actor="ada", job=7):
        await run(store, lines(many(1)[0] | own, *many(1)))

    first, second = await stored(store)
    assert (first.correlation_id, first.causation_id, first.metadata) == ("own", cause, {"actor": "bob", "job": 7})
    assert (second.correlation_id, second.metadata) == ("c", {"actor": "ada", "job": 7})


def test_numbers_keep_their_digits_and_derived_ids_are_what_they_were():
    """1.50 stays 1.50; the id is UUID version 5 of source, number and content."""
    text = '{"stream_id": "a", "type": "T", "data": {"x": 1.50, "y": -0.10, "z": 123456789012345678901}}'
    (line,) = read_json_lines(io.BytesIO(text.encode()), "src")

    assert line.data == '{"x": 1.50, "y": -0.10, "z": 123456789012345678901}'
    namespace = uuid.UUID("6a2f6f0e-5a4b-5f4e-9c1d-2f0b4b1d8a3c")
    assert line.event_id == str(uuid.uuid5(namespace, f"src\x1f1\x1f{text}"))


keys = st.sampled_from(["data", "a", 'q"', "{", "}", ":", '":', "b ", "ü"]) | st.text(max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | keys,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


PLAIN = (", ", ": ")


@settings(max_examples=300)
@example({}, {"x": '"}'}, {}, PLAIN)
@example({"m": {"data": {"x": 1}}}, {"y": 2}, {}, PLAIN)
@example({"m": {"data": {"x": 1}}}, 7, {}, PLAIN)
@given(
    st.dictionaries(keys, values, max_size=3),
    values,
    st.dictionaries(keys, values, max_size=2),
    st.sampled_from([(", ", ": "), (",", ":"), (" , ", " :\t")]),
)
def test_a_quick_answer_is_the_full_one(before, data, after, separators):
    """Whatever an object holds, the quick way takes it apart as parsing does, or leaves it to the full way."""
    document = {**before, "data": data, **after}
    data = document["data"]
    text = json.dumps(document, ensure_ascii=False, separators=separators)
    members = members_of(text)
    assert {name: member.value for name, member in members.items()} == document
    assert json.loads(members["data"].text) == data
    if (quick := flat_object(text, "data")) is not None:
        assert quick[0] == document
        assert json.loads(quick[1]) == data


TWICE = [
    '{"stream_id": "a", "type": "T", "data": {"x": 1, "x": 2}}',
    '{"stream_id": "a", "type": "T", "data": {"x" : 1, "x": 2, "y:": 3}}',
    '{"stream_id": "a", "stream_id": "b", "type": "T", "data": {}}',
    '{"stream_id": "a", "type": "T", "data": {}, "data": {}}',
    '{"stream_id": "a", "type": "T", "data": {"x": {"y": 1, "y": 2}}}',
    '{"stream_id": "a", "type": "T", "data": {"\\u0061": 1, "a": 2}}',
]


@pytest.mark.parametrize("text", TWICE)
def test_a_key_that_stands_twice_is_refused(text):
    """At every depth, however it is written."""
    (line,) = read_json_lines(io.BytesIO(text.encode()), "x")
    assert isinstance(line, BadLine)
    assert "stands twice" in line.reason


async def test_a_cut_connection_loses_and_doubles_nothing(database):
    """The ids in the log tell what was committed."""
    async with EventStore(database, application_name="cut") as store, EventStore(database) as other:
        running = asyncio.create_task(run(store, lines(*many(6000))))
        while not running.done():
            async with other.transaction() as tx:
                await tx.connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'cut %'"
                    " and datname = current_database()"
                )
            await asyncio.sleep(random.uniform(0.05, 0.4))
        result = await running
        assert result.added + result.present == 6000
        assert sorted(r.data.data["n"] for r in await stored(other)) == list(range(6000))


BAD = {
    "not json": "{nope",
    "a list": "[1]",
    "no data": '{"stream_id": "a", "type": "T"}',
    "unknown field": '{"stream_id": "a", "type": "T", "data": {}, "stream": 1}',
    "bad id": '{"stream_id": "a", "type": "T", "data": {}, "event_id": "7"}',
    "bad time": '{"stream_id": "a", "type": "T", "data": {}, "occurred_at": "yesterday"}',
    "naive time": '{"stream_id": "a", "type": "T", "data": {}, "occurred_at": "2020-01-01T00:00:00"}',
    "NUL": '{"stream_id": "a", "type": "T", "data": {"x": "\\u0000"}}',
    "too precise": '{"stream_id": "a", "type": "T", "data": {"x": 0.1234567890123456789}}',
    "surrogate": '{"stream_id": "a", "type": "T", "data": {"x": "\\ud800"}}',
    "bad stream": '{"stream_id": "", "type": "T", "data": {}}',
    "bad metadata": '{"stream_id": "a", "type": "T", "data": {}, "metadata": 7}',
    "too large": '{"stream_id": "a", "type": "T", "data": {"x": "' + "y" * 2**20 + '"}}',
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_line_is_named_and_what_came_before_is_kept(store, bad):
    """Stop: everything before it is committed, nothing behind it. Skip: everything but it."""
    good = [json.dumps(d) for d in many(1205)]
    text = "\n".join([*good[:1203], BAD[bad], *good[1203:]]) + "\n"

    with pytest.raises(errors.InvalidArgument, match="line 1204: "):
        await run(store, io.BytesIO(text.encode()))
    assert len(await stored(store)) == 1203

    rejected = []
    result = await run(store, io.BytesIO(text.encode()), on_bad=rejected.append)
    assert (result.added, result.present, result.rejected) == (2, 1203, 1)
    assert [(b.number, b.raw) for b in rejected] == [(1204, BAD[bad])]
    assert sorted(r.data.data["n"] for r in await stored(store)) == list(range(1205))


async def test_bytes_that_are_no_utf8_are_a_bad_line(store):
    """Not mangled into question marks."""
    rejected = []
    await run(store, io.BytesIO(b'{"stream_id": "a", "type": "T", "data": {"x": "\xff"}}\n'), on_bad=rejected.append)

    assert "UTF-8" in rejected[0].reason
    assert await stored(store) == []


async def test_csv_rows_become_events_by_templates(store):
    """Columns whose names hold colons; quoted line breaks; ragged rows are bad lines with their number."""
    text = (
        "\ufeffcase:name,time:stamp,concept:name,note\r\n"
        'c 1,2011-10-11 13:45:40.276000+02:00,Start,"two\r\nlines"\r\n'
        "c 2,2011-10-11 13:45:41+02:00,Start\r\n"
        "c 1,,Stop,\r\n"
        "c 3,2011-10-11 13:45:41,Start,naive\r\n"
    )
    mapping = CsvMapping("case-{case:name}", "{concept:name}", "{time:stamp}")
    parsed = list(read_csv(io.BytesIO(text.encode()), "f", mapping))

    assert [(p.number, type(p)) for p in parsed] == [(2, ImportLine), (4, BadLine), (5, ImportLine), (6, BadLine)]
    assert parsed[0].stream_id == "case-c 1"
    assert parsed[0].type == "Start"
    assert json.loads(parsed[0].data) == {
        "case:name": "c 1",
        "time:stamp": "2011-10-11 13:45:40.276000+02:00",
        "concept:name": "Start",
        "note": "two\r\nlines",
    }
    assert parsed[0].raw == 'c 1,2011-10-11 13:45:40.276000+02:00,Start,"two\r\nlines"'
    assert parsed[0].occurred_at == "2011-10-11 13:45:40.276000+02:00"
    assert parsed[2].occurred_at is None
    assert "columns" in parsed[1].reason
    assert "offset" in parsed[3].reason
    result = await import_lines(store, parsed, on_bad=lambda bad: None)
    assert (result.added, result.rejected) == (2, 2)


async def test_large_events_are_appended_in_smaller_batches(database):
    """A thousand of them would weigh more than an append may."""
    big = [{"stream_id": "a-1", "type": "T", "data": {"x": "y" * 800_000, "n": n}} for n in range(90)]
    async with EventStore(database) as store:
        result = await run(store, lines(*big))
    assert result.added == 90


def test_csv_headers_and_templates_that_would_lose_data_are_refused():
    """A column twice, a brace without its partner; a large field is none of it."""
    with pytest.raises(errors.InvalidArgument, match="'a' twice"):
        list(read_csv(io.BytesIO(b"a,b,a\n1,2,3\n"), "f", CsvMapping("{a}", "{b}")))
    with pytest.raises(errors.InvalidArgument, match="brace"):
        CsvMapping("q-{id", "T")
    (line,) = read_csv(io.BytesIO(b"a,b\n1," + b"x" * 300_000 + b"\n"), "f", CsvMapping("s-{a}", "T"))
    assert len(json.loads(line.data)["b"]) == 300_000


def test_a_csv_file_without_the_mapped_columns_is_refused():
    """The message names what is there."""
    for text, why in ((b"", "empty"), (b"a,b\n", "'c'")):
        with pytest.raises(errors.InvalidArgument, match=why):
            list(read_csv(io.BytesIO(text), "f", CsvMapping("{c}", "{a}")))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_are_parsed_or_named(chunks):
    """Never an exception, never a line lost."""
    data = b"\n".join(chunks)
    parsed = list(read_json_lines(io.BytesIO(data), "x"))
    wanted = [n for n, line in enumerate(data.split(b"\n"), 1) if line.decode("utf-8", "replace").strip()]
    assert [p.number for p in parsed] == wanted
