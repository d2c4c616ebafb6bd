"""psycopg's connections run every operation as asyncpg's do, whatever their owner has set on them."""

import asyncio
import contextlib
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import psycopg
import pytest
from conftest import drop_database, new_database, on_database
from hostile import make_hostile
from psycopg.rows import dict_row

from eventstore import Event, NewEvent, schema
from eventstore._binaries import OLDEST_MAJOR
from eventstore._drivers import asyncpg as asyncpg_driver
from eventstore._drivers import psycopg as psycopg_driver
from eventstore._drivers.asyncpg import AsyncpgConnection
from eventstore._drivers.connection import in_schema
from eventstore._drivers.joining import Joined
from eventstore._drivers.psycopg import AsyncPsycopgConnection, PsycopgConnection
from eventstore._operations import append as appends
from eventstore._operations import blockers, marks, opening, read, requests
from eventstore._operations.joined import append_joined
from eventstore._operations.prepare import Limits, prepare
from eventstore._operations.read import Filter
from eventstore._operations.statement import Pause, Statement
from eventstore.errors import (
    ConnectionLost,
    DatabaseRefused,
    InvalidArgument,
    LockTimeout,
    PermissionDenied,
    Retryable,
    SchemaMissing,
    UniqueViolation,
    VersionConflict,
)
from eventstore.events import DETAILS, VERSION
from eventstore.serialization import Registry
from eventstore.streams import NO_STREAM
from eventstore.transaction import Transaction

pytestmark = pytest.mark.server

KINDS = ("asyncpg", "async psycopg", "psycopg")
AT = datetime(2031, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
HOSTILE_TEXT = "NULL \"quoted\" {braces}, back\\slash 'single' \n täglich 日本 $1 %s"


class Noted(Event):
    text: str = ""


class Blocking:
    """A blocking connection with the methods of an async one, for the tests that run on every driver."""

    def __init__(self, connection):
        self.raw, self._connection = connection.raw, connection

    async def fetch(self, statement):
        return await asyncio.to_thread(self._connection.fetch, statement)

    async def execute(self, statement):
        return await asyncio.to_thread(self._connection.execute, statement)

    async def run(self, operation):
        return await asyncio.to_thread(self._connection.run, operation)

    @contextlib.asynccontextmanager
    async def transaction(self):
        block = self._connection.transaction()
        await asyncio.to_thread(block.__enter__)
        try:
            yield
        except BaseException:
            await asyncio.to_thread(block.__exit__, *sys.exc_info())
            raise
        await asyncio.to_thread(block.__exit__, None, None, None)

    @property
    def closed(self):
        return self._connection.closed

    @property
    def schema(self):
        return self._connection.schema


@contextlib.asynccontextmanager
async def connected(kind, database, **options):
    """One of our connections over one of the driver's own, as its user might have made it."""
    if kind == "asyncpg":
        raw = await asyncpg.connect(database, ssl=False)
        try:
            yield AsyncpgConnection(raw, "eventstore")
        finally:
            await raw.close()
    elif kind == "async psycopg":
        raw = await psycopg.AsyncConnection.connect(database, **options)
        try:
            yield AsyncPsycopgConnection(raw, "eventstore")
        finally:
            await raw.close()
    else:
        with contextlib.closing(psycopg.connect(database, **options)) as raw:
            yield Blocking(PsycopgConnection(raw, "eventstore"))


def prepared(stream, events, **expected):
    return prepare(Registry(None, unknown="keep"), stream, events, limits=Limits(), **expected)


def some_events():
    """Values that drivers treat each in its own way, and Nones before, between and after them."""
    return [
        NewEvent(Noted(text=HOSTILE_TEXT), event_id=uuid.uuid4()),
        NewEvent(
            Noted(), event_id=uuid.uuid4(), correlation_id=HOSTILE_TEXT[:20], causation_id=uuid.uuid4(), occurred_at=AT
        ),
        NewEvent(Noted(text="x" * 70_000), event_id=uuid.uuid4(), metadata={"quote": '"', "list": [None, "NULL", 2**40]}),
    ]


def without_time(details):
    """All that is packed but for recorded_at."""
    return details[:16], details[24:]


async def everything(connection, events):
    """What each operation returns; the ids apart, since every append has its own."""
    plain, filtered = Filter(), Filter(types=("Noted",), categories=("a", "b"))
    named = prepared("c-1", events, request_id="täglich-1")
    found = [await connection.run(appends.append([prepared("a-1", events), prepared("b-1", events[:1])]))]
    found += [
        await connection.run(appends.append([prepared("a-1", Noted(), expect=NO_STREAM)], waiting=True, patience="5s"))
    ]
    for _ in range(2):
        (outcome,) = await connection.run(appends.append([named]))
        found += [outcome, await connection.run(appends.settle(named, outcome))]
    found += [await connection.run(appends.append([prepared("c-1", Noted(), request_id="täglich-1")]))]
    found += [await connection.run(appends.append_one(prepared("d-1", event))) for event in events]
    found += [await connection.run(appends.append_group([prepared("e-1", events), prepared("f-1", events[1])]))]
    async with connection.transaction():
        found += (await connection.run(append_joined(prepared("g-1", events, request_id="other"), "eventstore")))[:1]
        with pytest.raises(VersionConflict):
            await connection.run(append_joined(prepared("g-1", Noted(), expect=NO_STREAM), "eventstore"))
        await connection.run(requests.note("", "third", "g-1", found[-1]))
    found += [await connection.run(requests.find("", "third")), await connection.run(requests.find("", "fourth"))]
    found += [await connection.run(requests.prune(3600.0, 10))]
    rows = await connection.run(read.read_stream("", "a-1", 0, 2**63 - 1, 10, backwards=False))
    found += [[(*tuple(row)[:DETAILS], without_time(row[DETAILS])) for row in rows]]
    found += [(await connection.run(read.read_stream("", "a-1", 1, 3, 1, backwards=True)))[0][VERSION]]
    for wanted in (plain, filtered):
        rows, upto = await connection.run(read.read_log(0, 2**40, 100, wanted))
        found += [[type(value) for value in rows[0]], upto]
    found += [type(await connection.run(read.head())), await connection.run(read.stream_version("", "a-1"))]
    position, event_id = await connection.run(read.newest_upto(2**40))
    assert await connection.run(read.event_id_at(position)) == event_id
    state = await connection.run(marks.log_state())
    found += [state.identity, state.started]
    mark, holders = await connection.run(marks.open_round(state.started))
    found += [holders, await connection.run(marks.holders_left({"9/9"}, state.started))]
    found += [await connection.run(marks.advance(30_000, state.started)), mark.seen_at.utcoffset() is not None]
    found += [await connection.run(marks.publish(mark, always=True)), await connection.run(marks.notify())]
    found += [type(value) for value in await connection.run(marks.as_of(AT))]
    found += [await connection.run(blockers.blockers({"9/9"}))]
    found += [await connection.run(opening.check_versions(schema.VERSION, OLDEST_MAJOR, "eventstore"))]
    return found


@pytest.fixture
def twin(server, template):
    """The URL of a second fresh database."""
    name = new_database(server, template)
    yield on_database(server, name)
    drop_database(server, name)


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("kind", KINDS[1:])
async def test_every_operation_returns_what_it_does_on_asyncpg(database, twin, kind, autocommit):
    """Lists of None, ids, times, long and quoted texts go in; what comes out has the same types and values."""
    events = some_events()
    async with connected("asyncpg", twin) as connection:
        expected = await everything(connection, events)

    async with connected(kind, database, autocommit=autocommit) as connection:
        assert await everything(connection, events) == expected


async def test_each_of_our_integers_goes_as_a_bigint(database):
    """Psycopg's own choice, the smallest type that fits, would overflow where two are added."""
    async with connected("psycopg", database) as connection:
        with pytest.raises(psycopg.errors.NumericValueOutOfRange):
            psycopg.RawCursor(connection.raw).execute("select $1 + $2", (30_000, 10_000))
        connection.raw.rollback()

        assert await connection.fetch(Statement("select $1 + $2", (30_000, 10_000))) == [(40_000,)]


HOSTILE = {
    "rows are dicts": {"row_factory": dict_row},
    "always prepares": {"prepare_threshold": 0},
    "never prepares": {"prepare_threshold": None},
    "autocommit": {"autocommit": True},
    "other formats": {
        "options": "-c DateStyle=German,DMY -c IntervalStyle=iso_8601 -c bytea_output=escape -c TimeZone=Asia/Tokyo"
    },
    "odd settings": {"options": "-c standard_conforming_strings=off -c extra_float_digits=0 -c search_path=pg_catalog"},
    "latin": {"client_encoding": "latin1"},
}


@pytest.mark.parametrize("setting", [*HOSTILE, "hostile adapters", "cursors bind on the client"])
@pytest.mark.parametrize("kind", KINDS[1:])
async def test_what_the_user_has_set_on_a_connection_changes_nothing(database, twin, kind, setting):
    """Row and cursor factories, adapters, prepared statements, output formats, autocommit, encodings."""
    text = HOSTILE_TEXT.replace("日本", "") if setting == "latin" else HOSTILE_TEXT
    events = [NewEvent(Noted(text=text), event_id=uuid.uuid4()), NewEvent(Noted(), event_id=uuid.uuid4(), occurred_at=AT)]
    async with connected("asyncpg", twin) as connection:
        expected = await everything(connection, events)

    async with connected(kind, database, **HOSTILE.get(setting, {})) as connection:
        if setting == "hostile adapters":
            make_hostile(connection.raw)
        if setting == "cursors bind on the client":
            connection.raw.cursor_factory = psycopg.ClientCursor if kind == "psycopg" else psycopg.AsyncClientCursor
        assert await everything(connection, events) == expected
        assert await connection.execute(Statement("notify nobody")) == 0
        assert await connection.execute(Statement("select generate_series(1, $1::bigint)", (3,))) == 3


PROGRAM = """
import uuid, psycopg, hostile
if {before}:
    hostile.make_hostile(psycopg)
from eventstore._drivers.psycopg import PsycopgConnection
from eventstore._operations.statement import Statement
hostile.make_hostile(psycopg)
with psycopg.connect({url!r}) as raw:
    some = uuid.uuid4()
    statement = Statement("select $1::uuid, $2::bigint, array[$3::text], $4::bool, now()", (some, 1, "a", None))
    row = PsycopgConnection(raw, "eventstore").fetch(statement)[0]
    assert row[:4] == (some, 1, ["a"], None), row
    assert row[4].tzinfo is not None
"""


@pytest.mark.parametrize("before", [True, False])
def test_adapters_of_the_whole_process_change_nothing(database, before):
    """Whether they are registered before our import, or after."""
    code = PROGRAM.format(before=before, url=database)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


# -- errors


async def violates(connection, other):
    await connection.run(appends.append([prepared("a-1", Noted())]))
    columns = "tenant_id, stream_id, version, type, event_id, data, metadata"
    await connection.execute(
        Statement(f'insert into "eventstore".events ({columns}) select {columns} from "eventstore".events')
    )


async def waits_for_a_lock(connection, other):
    async with other.transaction():
        await other.execute(Statement('lock table "eventstore".events'))
        await connection.execute(Statement("set lock_timeout = '20ms'"))
        await connection.run(appends.append([prepared("a-1", Noted())]))


async def is_cancelled_by_the_server(connection, other):
    await connection.execute(Statement("set statement_timeout = '20ms'"))
    await connection.fetch(Statement("select pg_sleep(10)"))


async def finds_no_schema(connection, other):
    await connection.fetch(Statement('select * from "eventstore".no_such_table'))


async def may_not(connection, other):
    await connection.execute(Statement("set role pg_monitor"))
    await connection.fetch(Statement('select * from "eventstore".events'))


async def divides_by_zero(connection, other):
    await connection.fetch(Statement("select 1 / $1::int", (0,)))


async def is_terminated(connection, other):
    ((pid,),) = await connection.fetch(Statement("select pg_backend_pid()"))
    await other.fetch(Statement("select pg_terminate_backend($1::int)", (pid,)))
    await connection.fetch(Statement("select pg_sleep(10)"))


async def is_idle_for_too_long(connection, other):
    await connection.execute(Statement("set idle_in_transaction_session_timeout = '10ms'"))
    async with connection.transaction():
        ((pid,),) = await connection.fetch(Statement("select pg_backend_pid()"))
        while await other.fetch(Statement("select 1 from pg_stat_activity where pid = $1::int", (pid,))):
            pass
        await connection.fetch(Statement("select 1"))


async def is_closed(connection, other):
    closing = connection.raw.close()
    if closing is not None:
        await closing
    await connection.fetch(Statement("select 1"))


async def gets_a_number_that_is_too_large(connection, other):
    await connection.fetch(Statement("select $1::bigint", (2**70,)))


CAUSES = {
    violates: UniqueViolation,
    waits_for_a_lock: LockTimeout,
    is_cancelled_by_the_server: Retryable,
    finds_no_schema: SchemaMissing,
    may_not: PermissionDenied,
    divides_by_zero: DatabaseRefused,
    is_terminated: ConnectionLost,
    is_idle_for_too_long: ConnectionLost,
    is_closed: ConnectionLost,
    gets_a_number_that_is_too_large: InvalidArgument,
}


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("kind", KINDS)
async def test_each_driver_raises_the_same_for_the_same_cause(database, kind, cause):
    """The class, and the driver's own error behind it."""
    options = {} if kind == "asyncpg" else {"autocommit": True}
    async with connected(kind, database, **options) as connection, connected("asyncpg", database) as other:
        with pytest.raises(CAUSES[cause]) as caught:
            await cause(connection, other)
        assert type(caught.value) is CAUSES[cause]
        assert connection.closed == (CAUSES[cause] is ConnectionLost)

    cause = caught.value.__cause__ or caught.value.__context__
    assert isinstance(cause, (*asyncpg_driver.DRIVER_ERRORS, *psycopg_driver.DRIVER_ERRORS))


@pytest.mark.parametrize("kind", KINDS[1:])
async def test_what_psycopg_refuses_itself_is_the_callers_fault(database, kind):
    """A zero byte, a type that it does not know."""
    async with connected(kind, database, autocommit=True) as connection:
        for argument in ("a\0b", object()):
            with pytest.raises(InvalidArgument):
                await connection.fetch(Statement("select $1::text", (argument,)))


# -- transactions


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("kind", KINDS[1:])
async def test_a_savepoint_never_commits_by_itself_what_the_owner_may_roll_back(database, kind, autocommit):
    """A connection that has not begun yet begins; in autocommit mode the block is a transaction of its own."""
    async with connected(kind, database, autocommit=autocommit) as connection:
        async with connection.transaction():
            await connection.run(appends.append([prepared("a-1", Noted())]))
            with pytest.raises(DatabaseRefused):
                async with connection.transaction():
                    await connection.run(appends.append([prepared("a-1", Noted())]))
                    await divides_by_zero(connection, None)
        rolled_back = connection.raw.rollback()
        if rolled_back is not None:
            await rolled_back
        assert await connection.run(read.stream_version("", "a-1")) == (1 if autocommit else 0)


async def test_an_async_transaction_runs_on_psycopg(database):
    """As on asyncpg: all or nothing with its owner's, and a conflict leaves it usable."""
    async with connected("async psycopg", database, row_factory=dict_row) as connection:
        await connection.raw.execute("select 1")
        transaction = Transaction(Joined(connection), Registry(None, unknown="keep"), Limits())
        await transaction.append("a-1", Noted(text="1"), expect=NO_STREAM)
        with pytest.raises(VersionConflict):
            await transaction.append("a-1", Noted(text="2"), expect=NO_STREAM)
        assert [one.data.text for one in await transaction.read_stream("a-1")] == ["1"]
        await connection.raw.commit()
        await connection.raw.execute("select 1")
        await transaction.append("a-1", Noted(text="3"))
        await connection.raw.rollback()
        assert await connection.run(read.stream_version("", "a-1")) == 1


async def test_a_cancelled_block_is_rolled_back(database):
    """And the connection is as good as before."""
    async with connected("async psycopg", database, autocommit=True) as connection, connected("asyncpg", database) as other:

        async def go():
            async with connection.transaction():
                await connection.run(appends.append([prepared("a-1", Noted())]))
                await connection.fetch(Statement("select pg_sleep(60)"))

        task = asyncio.create_task(go())
        while not await other.fetch(
            Statement("select 1 from pg_stat_activity where query like '%pg_sleep%' and wait_event = 'PgSleep'")
        ):
            pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await connection.run(read.stream_version("", "a-1")) == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_an_operation_may_pause_and_catch(database, kind):
    """Every driver's loop lets time pass, throws errors in, and closes what it has left."""
    closed = []

    def operation():
        try:
            yield Pause(0.001)
            try:
                yield Statement("select 1 / $1::int", (0,))
            except DatabaseRefused as error:
                rows = yield Statement("select $1::text", (error.sqlstate,))
            return rows[0][0]
        finally:
            closed.append(True)

    def failing():
        try:
            yield Statement("select 1 / $1::int", (0,))
        finally:
            closed.append(True)

    async with connected(kind, database, **({} if kind == "asyncpg" else {"autocommit": True})) as connection:
        assert await connection.run(operation()) == "22012"
        with pytest.raises(DatabaseRefused):
            await connection.run(failing())
    assert closed == [True, True]


def test_the_schema_is_swapped_and_nothing_else():
    """One quoted identifier."""
    assert in_schema('select "eventstore".x, eventstore', "other") == 'select "other".x, eventstore'
