"""Import of JSON lines, against bare COPY of the same rows.

The floor is asyncpg's `copy_records_to_table` of tuples that lie ready: it includes encoding them into COPY's binary format,
sending them, and inserting them in one transaction; reading and checking lines, ids and versions is not in it. A second
contestant reads the lines with `json.loads` and makes the tuples while the clock runs, as the shortest script would.
"""

import datetime
import io
import json
import uuid

from eventstore import EventStore
from eventstore.bulk import import_lines, read_json_lines

from ..core import OURS, Contest, Contestant, Goal
from ..sample import event

STREAMS = 500
COLUMNS = ("stream_id", "version", "type", "event_id", "occurred_at", "data")


def contests(scale):
    """The contest."""
    yield Contest(
        topic="import",
        key="import",
        title="import of JSON lines",
        contestants=(Contestant(OURS, ours), Contestant("COPY", copy), Contestant("json.loads + COPY", parse_and_copy)),
        size=scale.pick(100_000, 1_000),
        warmup=scale.pick(5_000, 500),
        goals=(Goal("COPY", 0.85),),
    )


async def ours(arena, events):
    """What `eventstore import` does."""
    file = io.BytesIO("".join(_lines(arena.token(), int(events))).encode())
    async with EventStore(arena.dsn) as store:
        meter = arena.meter()
        added = await _import(store, file)
        return meter.stop(added)


async def copy(arena, events):
    """COPY of tuples that lie ready."""
    records = list(_records(_lines(arena.token(), int(events))))
    meter = arena.meter()
    await _copy(arena, records)
    return meter.stop(len(records))


async def parse_and_copy(arena, events):
    """COPY of tuples that are made on the way."""
    lines = list(_lines(arena.token(), int(events)))
    meter = arena.meter()
    await _copy(arena, _records(lines))
    return meter.stop(len(lines))


async def _import(store, file):
    """The one place that knows how lines are imported; how many events were added."""
    result = await import_lines(store, read_json_lines(file, "bench"), on_bad=_refuse)
    return result.added


def _refuse(bad):
    raise RuntimeError(f"line {bad.number} was refused: {bad.reason}")


async def _copy(arena, records):
    await arena.bare.copy_records_to_table(
        "events", records=records, columns=list(COLUMNS), schema_name="eventstore", timeout=600
    )


def _lines(token, events):
    """Lines in the order of the log, their streams interleaved; with ids and times, as exports have them."""
    for n in range(events):
        fields = {
            "stream_id": f"import-{token}-{n % STREAMS}",
            "type": "Deposited",
            "data": event(n).model_dump(),
            "event_id": str(uuid.uuid4()),
            "occurred_at": "2026-01-01T00:00:00+00:00",
        }
        yield json.dumps(fields) + "\n"


def _records(lines):
    for n, text in enumerate(lines):
        line = json.loads(text)
        yield (
            line["stream_id"],
            n // STREAMS + 1,
            line["type"],
            uuid.UUID(line["event_id"]),
            datetime.datetime.fromisoformat(line["occurred_at"]),
            json.dumps(line["data"]),
        )
