"""Row operations: whatever is folded must end as if each operation had run by itself."""

import asyncio
import datetime as dt
import decimal
import enum
import uuid

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql as pg

from eventstore import Event, EventStore, Recorded, errors, spi
from projections import InvalidProjection, RowMissing
from projections.rows import Rows, TableWriter, create_tables

pytestmark = pytest.mark.server


class Anything(Event):
    pass


metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("total", sa.Integer),
    sa.Column("state", sa.Text, nullable=False, server_default="new"),
    sa.Column("level", sa.Integer, default=3),
    sa.Column("score", sa.Integer, server_default="5"),
)


class Model:
    """What the operations mean, one by one, on a dict of rows."""

    NEW = {"name": None, "total": None, "state": "new", "level": 3, "score": 5}

    def __init__(self, rows):
        self.rows = {key: dict(row) for key, row in rows.items()}

    def upsert(self, id, **columns):
        self.rows.setdefault(id, dict(self.NEW)).update(columns)

    def add(self, id, **amounts):
        row = self.rows.setdefault(id, dict(self.NEW))
        for name, amount in amounts.items():
            row[name] = amount if row[name] is None else row[name] + amount

    def set(self, id, missing="error", **columns):
        if id in self.rows:
            self.rows[id].update(columns)
        elif missing == "error":
            raise RowMissing("things", {"id": id}, 0)

    def delete(self, id):
        self.rows.pop(id, None)


_id = st.integers(1, 4)
_columns = st.fixed_dictionaries(
    {}, optional={"name": st.sampled_from("ab"), "total": st.integers(0, 9), "state": st.just("x")}
)
_operation = st.one_of(
    st.tuples(st.just("upsert"), _id, _columns),
    st.tuples(
        st.just("add"),
        _id,
        st.fixed_dictionaries(
            {}, optional={"total": st.integers(1, 9), "level": st.integers(1, 9), "score": st.integers(1, 9)}
        ),
    ),
    st.tuples(st.just("set"), _id, _columns),
    st.tuples(st.just("set_ignore"), _id, _columns),
    st.tuples(st.just("delete"), _id, st.just({})),
)


def apply(rows, operation):
    name, id, columns = operation
    if name == "set_ignore":
        rows.set(id=id, missing="ignore", **columns)
    else:
        getattr(rows, name)(id=id, **columns)


@pytest.fixture
async def connection(database):
    async with EventStore(database) as store:
        made = await spi.connect(store, "test", {})
        yield made
        await made.close()


@pytest.fixture
async def table(database, connection):
    create_tables(database.replace("postgresql:", "postgresql+psycopg:"), [things])
    return things


async def contents(connection):
    rows = await connection.raw.fetch("select * from things order by id")
    return {row["id"]: {k: row[k] for k in Model.NEW} for row in rows}


async def test_folded_batches_end_as_single_operations_would(connection, table, request):
    """Random sequences, in random batches, over rows that are there and rows that are not."""

    async def check(before, batches):
        await connection.raw.execute("truncate things")
        for id in before:
            await connection.raw.execute("insert into things values ($1, 'old', 100, 'old', 1, null)", id)
        model = Model({id: {"name": "old", "total": 100, "state": "old", "level": 1, "score": None} for id in before})
        writer = TableWriter(table)
        rows = Rows(writer)
        rows.recorded = Recorded(data=None, stream_id="a-1", type="T", position=7)
        for batch in batches:
            draft, failed = Model(model.rows), None
            try:
                for operation in batch:
                    apply(draft, operation)
            except RowMissing as error:
                failed = error
            try:
                async with connection.transaction():
                    for operation in batch:
                        apply(rows, operation)
                    await writer.write(connection)
            except RowMissing as error:
                assert failed is not None, f"{error} for {batch}"
                assert error.key in [{"id": id} for name, id, _ in batch if name == "set"]
                writer.folds.clear()
            else:
                assert failed is None, f"a missing row went unnoticed in {batch}"
                model = draft
            assert await contents(connection) == model.rows, batch

    loop = asyncio.get_running_loop()

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sets(_id), st.lists(st.lists(_operation, min_size=1, max_size=8), min_size=1, max_size=3))
    def explore(before, batches):
        asyncio.run_coroutine_threadsafe(check(before, batches), loop).result(60)

    await asyncio.to_thread(explore)


class Mood(enum.Enum):
    GOOD = 1
    BAD = 2


class Upper(sa.types.TypeDecorator):
    """Stores upper case."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value.upper()


wide = sa.Table(
    'Odd "Name"',
    sa.MetaData(),
    sa.Column("Key Part", sa.Text, primary_key=True, key="part"),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("serial", sa.Integer, sa.Identity(always=True)),
    sa.Column("mood", sa.Enum(Mood)),
    sa.Column("loud", Upper),
    sa.Column("j", sa.JSON),
    sa.Column("jb", pg.JSONB),
    sa.Column("exact", sa.Numeric(12, 3)),
    sa.Column("ratio", sa.Float),
    sa.Column("flag", sa.Boolean),
    sa.Column("when", sa.DateTime(timezone=True)),
    sa.Column("day", sa.Date),
    sa.Column("span", sa.Interval),
    sa.Column("uid", sa.Uuid),
    sa.Column("raw", sa.LargeBinary),
    sa.Column("numbers", pg.ARRAY(sa.Integer)),
    sa.Column("words", pg.ARRAY(sa.Text)),
    sa.Column("short", sa.String(20)),
    sa.Column("double", sa.Integer, sa.Computed("number * 2", persisted=True)),
    sa.Column("select", sa.Text),
    sa.Index("ix odd", "select"),
)
VALUES = {
    "mood": Mood.BAD,
    "loud": "quiet",
    "j": {"a": [1, None, "ü"]},
    "jb": {"b": {"c": 1.5}},
    "exact": decimal.Decimal("123456789.125"),
    "ratio": 0.1,
    "flag": True,
    "when": dt.datetime(2020, 2, 29, 12, 0, 0, 123456, tzinfo=dt.UTC),
    "day": dt.date(2020, 2, 29),
    "span": dt.timedelta(days=1, microseconds=5),
    "uid": uuid.UUID(int=7),
    "raw": b"\0\xff'\\",
    "numbers": [1, None, 3],
    "words": ['a "quoted" \\ word', "", None, "NULL", "{},"],
    "short": "x",
    "select": "from",
}


async def test_every_column_type_is_written_as_sqlalchemy_writes_it(database, connection):
    """Native enum, TypeDecorator, json, numeric, arrays, identity, computed, quoted names, a composite key."""
    url = database.replace("postgresql:", "postgresql+psycopg:")
    create_tables(url, [wide])
    create_tables(url, [wide])
    writer = TableWriter(wide)
    rows = Rows(writer)
    rows.upsert(part="o'clock", number=1, **VALUES)
    rows.upsert(part="o'clock", number=2, **dict.fromkeys(VALUES))
    await writer.write(connection)
    rows.add(part="o'clock", number=1, exact=decimal.Decimal("0.5"), span=dt.timedelta(days=1))
    rows.set(part="o'clock", number=2, **VALUES)
    await writer.write(connection)

    engine = sa.create_engine(url)
    with engine.connect() as ask:
        first, second = ask.execute(sa.select(wide).order_by(wide.c.number)).mappings().all()
    engine.dispose()
    stored = VALUES | {"loud": "QUIET"}
    assert {k: second[k] for k in VALUES} == stored
    assert {k: first[k] for k in VALUES} == stored | {
        "exact": decimal.Decimal("123456789.625"),
        "span": dt.timedelta(days=2, microseconds=5),
    }
    assert (first["serial"], first["double"], second["serial"], second["double"]) == (1, 2, 2, 4)


narrow = sa.Table(
    "narrow",
    sa.MetaData(),
    sa.Column("id", sa.String(5), primary_key=True),
    sa.Column("name", sa.String(5)),
    sa.Column("code", sa.CHAR(3)),
    sa.Column("exact", sa.Numeric(4, 1)),
    sa.Column("names", pg.ARRAY(sa.String(3))),
)


@pytest.mark.parametrize(
    "columns",
    [
        {"id": "abcdef"},
        {"id": "a", "name": "abcdef"},
        {"id": "a", "code": "abcd"},
        {"id": "a", "exact": 12345},
        {"id": "a", "names": ["abcd"]},
    ],
)
async def test_what_does_not_fit_its_column_is_refused_not_cut(database, connection, columns):
    """An explicit cast would cut it, and two keys would become one row."""
    create_tables(database.replace("postgresql:", "postgresql+psycopg:"), [narrow])
    writer = TableWriter(narrow)
    rows = Rows(writer)
    rows.upsert(id="abcde", name="fits", code="abc", exact=decimal.Decimal("123.4"), names=["abc"])
    await writer.write(connection)
    for operation in (rows.upsert, rows.add if "exact" in columns else rows.upsert):
        operation(**columns)
        with pytest.raises(errors.DatabaseRefused):
            async with connection.transaction():
                await writer.write(connection)
        writer.folds.clear()

    (row,) = await connection.raw.fetch("select * from narrow")
    assert tuple(row) == ("abcde", "fits", "abc", decimal.Decimal("123.4"), ["abc"])


async def test_the_printed_ddl_makes_the_table(connection):
    """With its types, indexes and schema."""
    other = wide.to_metadata(sa.MetaData(), schema="elsewhere", name="copy")
    for table in (wide, other):
        await connection.raw.execute(TableWriter(table).ddl())
        rows = Rows(writer := TableWriter(table))
        rows.upsert(part="a", number=1, **(VALUES | {"mood": None}))
        await writer.write(connection)
        if table is wide:
            await connection.raw.execute(f"drop table {writer.name}; drop type mood")


def test_a_default_that_is_computed_is_refused_at_start():
    """It would be left out in silence."""
    for default in (lambda: 1, sa.func.now()):
        table = sa.Table(
            "t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer, default=default)
        )
        with pytest.raises(InvalidProjection, match="server_default"):
            TableWriter(table)


def test_wrong_columns_are_refused_at_once():
    """Unknown, missing key, generated by the database; a table without a key."""
    rows = Rows(TableWriter(wide))
    for call in (
        lambda: rows.upsert(part="a"),
        lambda: rows.upsert(part="a", number=1, colour="red"),
        lambda: rows.upsert(part="a", number=1, double=3),
        lambda: rows.upsert(part="a", number=1, serial=3),
        lambda: rows.delete(part="a", number=1, loud="x"),
    ):
        with pytest.raises(InvalidProjection):
            call()
    for table in (sa.Table("no_key", sa.MetaData(), sa.Column("a", sa.Integer)), "things", None):
        with pytest.raises(InvalidProjection):
            TableWriter(table)
