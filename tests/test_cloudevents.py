"""CloudEvents 1.0: ours are whole on the way out and back, those of others arrive or are named."""

import datetime as dt
import io
import json
import re
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Event, Recorded, UnknownEvent, errors
from eventstore.bulk import BadLine, ImportLine, import_lines, read_cloudevents
from eventstore.serialization.cloudevents import SOURCE, parse_cloudevent, to_cloudevent

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
FOREIGN = {"specversion": "1.0", "id": "A-1", "source": "/shop", "type": "com.example.sold", "subject": "order-7"}


class Moved(Event):
    to: int


def recorded(data, metadata, **other):
    fields = {
        "position": 2**40,
        "tenant_id": "",
        "stream_id": "a-1",
        "version": 3,
        "type": "Moved",
        "schema_version": 2,
        "event_id": uuid.UUID(int=7),
        "correlation_id": "c",
        "causation_id": uuid.UUID(int=8),
        "occurred_at": NOW,
        "recorded_at": NOW + dt.timedelta(seconds=1),
    }
    return Recorded(**fields | other, data=data, metadata=metadata)


def read(*documents, stream=""):
    text = "".join(json.dumps(d) + "\n" for d in documents)
    return list(read_cloudevents(io.BytesIO(text.encode()), stream))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def can_be_stored(value):
    return "\\u0000" not in json.dumps(value)


storable = values.filter(can_be_stored)
names = st.text(max_size=3) | st.sampled_from(["actor", "traceparent", "source", "cloudevent"])


@settings(max_examples=150)
@given(
    storable,
    st.dictionaries(names, values, max_size=4).filter(can_be_stored),
    st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1), unique=True, max_size=3),
)
def test_an_event_of_ours_comes_back_whole(data, metadata, tags):
    """Data, metadata of any kind, tags, ids, times and versions."""
    event = recorded(UnknownEvent("Moved", data), metadata, tags=tags)
    (line,) = read(to_cloudevent(event, "urn:somewhere"))

    assert isinstance(line, ImportLine), line
    assert (json.loads(line.data), json.loads(line.metadata)) == (data, metadata)
    assert (line.stream_id, line.type, line.schema_version, line.tags) == ("a-1", "Moved", 2, tuple(tags))
    assert (line.event_id, line.correlation_id) == (str(event.event_id), "c")
    assert (line.causation_id, dt.datetime.fromisoformat(line.occurred_at)) == (str(event.causation_id), NOW)


def test_attributes_are_as_the_specification_wants_them():
    """Names of lower case letters and digits, at most 20; integers of 32 bits; text without control characters; RFC 3339."""
    metadata = {"actor": "ada", "traceparent": "00-ab-cd-01", "note": "a\x01b", "n": 1}
    document = to_cloudevent(recorded(Moved(to=1), metadata, tags=["course:1", "ü\u2028"]))

    for name, value in document.items():
        assert name == "data" or re.fullmatch("[a-z0-9]{1,20}", name)
        if name != "data" and isinstance(value, int):
            assert abs(value) < 2**31
        elif name != "data":
            assert isinstance(value, str)
            assert not re.search("[\x00-\x1f\x7f-\x9f]", value)
    assert (document["specversion"], document["source"], document["subject"]) == ("1.0", SOURCE, "a-1")
    assert document["time"] == "2026-03-01T12:00:00+00:00"
    assert (document["data"], document["datacontenttype"]) == ({"to": 1}, "application/json")
    assert (document["actor"], document["traceparent"]) == ("ada", "00-ab-cd-01")
    assert json.loads(document["eventmeta"]) == {"note": "a\x01b", "n": 1}
    assert document["eventtags"] == '["course:1", "\\u00fc\\u2028"]'
    assert document["position"] == str(2**40)


def test_a_foreign_event_keeps_what_we_have_no_place_for():
    """Its source, its id where that is no UUID, its extensions; source and id make the event's id."""
    one, same, other = read(
        FOREIGN
        | {"data": {"n": 1}, "region": "eu", "tags": "a", "correlationid": "c", "time": "2026-01-01T00:00:00Z"}
        | {"eventtags": '["course:1"]'},
        FOREIGN,
        FOREIGN | {"source": "/elsewhere"},
    )

    assert (one.stream_id, one.type, one.data, one.correlation_id) == ("order-7", "com.example.sold", '{"n": 1}', "c")
    assert json.loads(one.metadata) == {"cloudevent": {"region": "eu", "tags": "a", "source": "/shop", "id": "A-1"}}
    assert (one.tags, same.tags) == (("course:1",), ())
    assert (one.event_id == same.event_id, one.event_id == other.event_id) == (True, False)
    assert same.data == "null"
    given_id = str(uuid.uuid4())
    (line,) = read(FOREIGN | {"id": given_id, "data": "<x/>", "datacontenttype": "text/xml"})
    assert (line.event_id, line.data) == (given_id, '"<x/>"')
    assert json.loads(line.metadata)["cloudevent"] == {"source": "/shop", "datacontenttype": "text/xml"}
    (binary,) = read(FOREIGN | {"data_base64": "AAEC"})
    assert json.loads(binary.data) == {"data_base64": "AAEC"}


def test_a_template_names_the_stream():
    """Of any attribute that is text."""
    (line,) = read(FOREIGN | {"customer": "9"}, stream="customer-{customer}")
    assert line.stream_id == "customer-9"
    (bad,) = read(FOREIGN, stream="customer-{customer}")
    assert "'customer'" in bad.reason


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": None}, "specversion"),
        ({"id": ""}, "attribute id"),
        ({"source": None}, "attribute source"),
        ({"type": 7}, "attribute type"),
        ({"subject": None}, "--stream"),
        ({"subject": 7}, "subject"),
        ({"time": "yesterday"}, "ISO 8601"),
        ({"time": "2026-01-01T00:00:00"}, "offset"),
        ({"data": 1, "data_base64": "AA=="}, "not both"),
        ({"data_base64": 7}, "data_base64"),
        ({"data": "\ud800"}, "JSON"),
        ({"data": {"x": "\0"}}, "NUL"),
        ({"position": "1", "streamversion": "1", "eventmeta": "[1]"}, "eventmeta"),
        ({"eventtags": "course:1"}, "eventtags"),
        ({"eventtags": ["course:1"]}, "eventtags"),
        ({"eventtags": "[1]"}, "a tag"),
        ({"position": "1", "streamversion": "1", "schemaversion": "x"}, "schema_version"),
        ({"position": "1", "streamversion": "1", "causationid": "x"}, "causationid"),
    ],
)
def test_what_is_no_cloudevent_is_named(change, why):
    """By the attribute that is wrong; what stands beside it is read."""
    bad, good = read(FOREIGN | change, FOREIGN)

    assert isinstance(bad, BadLine)
    assert (bad.number, why in bad.reason) == (1, True), bad.reason
    assert isinstance(good, ImportLine)


def test_parsing_says_what_is_missing():
    """As one of our errors."""
    with pytest.raises(errors.InvalidArgument, match="specversion"):
        parse_cloudevent({})


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}])
def test_an_array_is_read_piece_by_piece(layout, monkeypatch):
    """The batch mode, however it is laid out; an element in error is named by its place."""
    monkeypatch.setattr("eventstore.bulk.cloudevent_lines.READ_BYTES", 7)
    documents = [FOREIGN | {"id": f"ü{n}", "data": {"n": [n, "],{"]}} for n in range(30)]
    documents[3] = {"no": "event"}
    text = json.dumps(documents, ensure_ascii=False, **layout).encode()

    for begin in (b"", b"\n \n", b"\xef\xbb\xbf"):
        lines = list(read_cloudevents(io.BytesIO(begin + text)))
        assert [type(line) is BadLine for line in lines] == [n == 3 for n in range(30)]
        assert [line.number for line in lines] == list(range(1, 31))
        assert [json.loads(line.data)["n"][0] for line in lines if type(line) is ImportLine] == [0, 1, 2, *range(4, 30)]

    torn = list(read_cloudevents(io.BytesIO(text[:-9])))
    assert "does not end" in torn[-1].reason
    assert list(read_cloudevents(io.BytesIO(b"[]"))) == list(read_cloudevents(io.BytesIO(b""))) == []


@pytest.mark.server
async def test_foreign_events_are_imported_once(store):
    """However often they come."""
    documents = [FOREIGN | {"id": str(n), "data": {"n": n}} for n in range(20)]
    for added in (20, 0):
        result = await import_lines(store, read(*documents), on_bad=lambda bad: pytest.fail(bad.reason))
        assert result.added == added
    assert [r.data.data["n"] async for r in store.read_stream("order-7")] == list(range(20))
