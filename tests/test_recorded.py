"""What a reader is given."""

import copy
import datetime as dt
import json
import pickle
import uuid

import asyncpg
import pytest

from eventstore import Event, EventStore, NewEvent, Recorded, UnknownEvent
from eventstore.events import DETAILS

NOON = dt.datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=dt.UTC)


class Deposited(Event, schema_version=3):
    amount: int


@pytest.mark.server
async def test_everything_that_was_stored_is_there(store):
    """Also what comes as null because it is usual, and what is not usual."""
    plain, full = NewEvent(Deposited(amount=1)), uuid.uuid4()
    await store.append("account-1", plain)
    with store.context(correlation_id="request-7", causation_id=full, actor="ada"):
        await store.append("account-1", NewEvent(Deposited(amount=2), event_id=full, metadata={"n": [1]}, occurred_at=NOON))
    before = dt.datetime.now(dt.UTC)
    first, second = [recorded async for recorded in store.read_stream("account-1")]

    assert (first.position, first.version, first.stream_id, first.type) == (1, 1, "account-1", "Deposited")
    assert (first.schema_version, first.tenant_id, first.correlation_id, first.causation_id) == (3, "", None, None)
    assert (first.metadata, first.tags) == ({}, ())
    assert first.occurred_at == first.recorded_at
    assert first.recorded_at.tzinfo is dt.UTC
    assert abs(before - first.recorded_at) < dt.timedelta(minutes=5)
    assert first.event_id.version == 7
    assert (second.event_id, second.occurred_at) == (full, NOON)
    assert (second.correlation_id, second.causation_id) == ("request-7", full)
    assert second.metadata == {"n": [1], "actor": "ada"}
    assert second.data == Deposited(amount=2)
    with pytest.raises(TypeError):
        second.metadata["n"] = 2
    with pytest.raises(AttributeError):
        second.version = 9


@pytest.mark.server
async def test_an_event_that_was_read_can_be_pickled_and_compared(store):
    """Without the driver's row in it."""
    await store.append("account-1", [Deposited(amount=n) for n in range(2)])
    one, other = [recorded async for recorded in store.read_all()]
    (again, _) = [recorded async for recorded in store.read_all()]

    for same in (again, pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert same == one
        assert (same.recorded_at, same.event_id, same.data) == (one.recorded_at, one.event_id, one.data)
    assert one != other
    assert len({one, again, other}) == 2


@pytest.mark.server
@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("infinity", dt.datetime.max.replace(tzinfo=dt.UTC)),
        ("-infinity", dt.datetime.min.replace(tzinfo=dt.UTC)),
        ("0044-03-15 BC", dt.datetime.min.replace(tzinfo=dt.UTC)),
        ("1969-07-20 20:17:40.5+00", dt.datetime(1969, 7, 20, 20, 17, 40, 500000, tzinfo=dt.UTC)),
        ("9999-12-31 23:59:59.999999+00", dt.datetime.max.replace(tzinfo=dt.UTC)),
    ],
)
async def test_times_at_the_edge_are_read(store, stored, expected):
    """Whatever timestamptz can hold; what Python cannot becomes its first or last moment."""
    async with store.transaction() as tx:
        await tx.connection.execute(
            """insert into eventstore.events (stream_id, version, type, event_id, occurred_at, data)
               values ('a-1', 1, 'Deposited', gen_random_uuid(), $1::text::timestamptz, '{"amount": 1}')""",
            stored,
        )
    (recorded,) = [recorded async for recorded in store.read_stream("a-1")]
    assert recorded.occurred_at == expected


ONE, OTHER = uuid.UUID("0190163d-8694-739b-aea5-966c26f8ad91"), uuid.UUID(int=2**128 - 1)
LONG = dt.datetime(4711, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC)
AS_USUAL = {"occurred_at": None, "metadata": {}, "correlation_id": None, "causation_id": None, "tenant_id": ""}
ODD = {"quote": '"', "back\\slash": "\n\t\u0001", "é": ["\U0001f600", None, True, 1.5], "": {}}
INSERT = """
    insert into eventstore.events (tenant_id, stream_id, version, type, schema_version, event_id, correlation_id, causation_id,
                                   occurred_at, recorded_at, data, metadata)
    values ($1, 'a-1', $2, 'Deposited', $3, $4, $5, $6, $7, $8, '{"amount": 1}', $9::text::jsonb)"""
BESIDE = [
    {},
    {"occurred_at": NOON},
    {"metadata": {"actor": "ada"}},
    {"metadata": ODD},
    {"correlation_id": "request-7"},
    {"correlation_id": ""},
    {"correlation_id": "Größe \U0001f600" * 50},
    {"causation_id": ONE},
    {"causation_id": uuid.UUID(int=0)},
    {"tenant_id": "acmé"},
    {"occurred_at": LONG, "metadata": ODD, "correlation_id": "c", "causation_id": OTHER, "tenant_id": "acme"},
]


async def insert(connection, version, beside, *, schema_version=1):
    row = {**AS_USUAL, **beside}
    await connection.execute(
        INSERT, row["tenant_id"], version, schema_version, ONE, row["correlation_id"], row["causation_id"], row["occurred_at"],
        NOON, json.dumps(row["metadata"]),
    )  # fmt: skip


@pytest.mark.server
async def test_what_stands_beside_an_event_comes_as_it_was_stored(store):
    """Each field alone and all together, in the server's bytes; made by hand, it is packed into the same ones."""
    async with store.transaction() as tx:
        for n, beside in enumerate(BESIDE):
            await insert(tx.connection, n + 1, beside)
    read = [recorded async for recorded in store.read_all()]

    assert len(read) == len(BESIDE)
    for recorded, beside in zip(read, BESIDE, strict=True):
        expected = {**AS_USUAL, "occurred_at": NOON, **beside}
        assert {name: getattr(recorded, name) for name in expected} == expected
        assert (recorded.event_id, recorded.recorded_at) == (ONE, NOON)
        by_hand = Recorded(data=recorded.data, stream_id="a-1", event_id=ONE, recorded_at=NOON, **beside)
        if "metadata" not in beside:  # whose keys the server puts in an order of its own
            assert by_hand[0][DETAILS] == recorded[0][DETAILS]
        assert {name: getattr(by_hand, name) for name in expected} == expected
        for same in (pickle.loads(pickle.dumps(recorded)), copy.deepcopy(recorded)):
            assert same == recorded
            assert {name: getattr(same, name) for name in expected} == expected


@pytest.mark.server
async def test_every_road_to_an_event_gives_the_same_of_it(store):
    """A stream in both directions, the log, the log filtered."""
    async with store.transaction() as tx:
        for n, beside in enumerate(each for each in BESIDE if "tenant_id" not in each):
            await insert(tx.connection, n + 1, beside, schema_version=n + 1)
    log = [recorded async for recorded in store.read_all()]
    filtered = [recorded async for recorded in store.read_all(types=["Deposited"], categories=["a"])]
    forwards = [recorded async for recorded in store.read_stream("a-1")]
    backwards = [recorded async for recorded in store.read_stream("a-1", backwards=True)]

    assert [recorded.schema_version for recorded in log] == list(range(1, len(log) + 1))
    assert log == filtered == forwards == backwards[::-1]


@pytest.mark.server
async def test_an_unknown_event_keeps_its_schema_version(store):
    """Also where it is the usual one, which comes as null."""
    await store.append("a-1", [UnknownEvent("Gone", {}), UnknownEvent("Gone", {}, 7)])

    assert [recorded.data.schema_version async for recorded in store.read_all()] == [1, 7]


@pytest.mark.server
async def test_codecs_of_the_pools_owner_change_nothing(store, database):
    """A pool that decodes uuid, jsonb and timestamptz in its own way."""

    async def set_codecs(connection):
        for name in ("uuid", "json", "jsonb", "timestamptz"):
            await connection.set_type_codec(name, schema="pg_catalog", encoder=str, decoder=lambda text: f"<{text}>")

    async with store.transaction() as tx:
        for n, beside in enumerate(BESIDE):
            await insert(tx.connection, n + 1, beside)
    expected = [recorded async for recorded in store.read_all()]

    async with (
        asyncpg.create_pool(database, ssl=False, min_size=0, max_size=5, init=set_codecs) as pool,
        EventStore(pool) as other,
    ):
        read = [recorded async for recorded in other.read_all()]

    assert read == expected
    assert read[-1].causation_id == OTHER


def test_one_made_by_hand_serves_a_handlers_test():
    """What is not given is made up, what is given comes back."""
    made = Recorded(data=Deposited(amount=1), stream_id="account-1")
    assert (made.type, made.schema_version, made.version, made.position) == ("Deposited", 3, 1, 1)
    assert (made.metadata, made.correlation_id, made.tenant_id) == ({}, None, "")
    assert made.occurred_at == made.recorded_at
    full = Recorded(
        data=Deposited(amount=1), stream_id="account-1", version=4, position=9, type="x", recorded_at=NOON, event_id=uuid.UUID(int=5),
        tenant_id="acme", schema_version=2, correlation_id="c", causation_id=uuid.UUID(int=6),
        occurred_at=NOON - dt.timedelta(days=9999), metadata={"actor": "ada"},
    )  # fmt: skip
    assert (full.version, full.position, full.type, full.recorded_at, full.event_id) == (4, 9, "x", NOON, uuid.UUID(int=5))
    assert (full.tenant_id, full.schema_version, full.correlation_id) == ("acme", 2, "c")
    assert (full.causation_id, full.occurred_at) == (uuid.UUID(int=6), NOON - dt.timedelta(days=9999))
    assert full.metadata == {"actor": "ada"}
    assert "account-1" in repr(full)
    assert EventStore
