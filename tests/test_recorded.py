"""What a reader is given."""

import copy
import datetime as dt
import pickle
import uuid

import pytest

from eventstore import Event, EventStore, NewEvent, Recorded

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
