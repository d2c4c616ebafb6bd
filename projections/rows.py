"""Row operations on one table: folded per key in memory, written by one MERGE over `unnest` a batch.

What an operation does depends on whether its row exists, which is not known while folding. So each key keeps what will
be done if the row is there, and what if it is not. The two differ only where `rows.set(..., missing="ignore")` came first.

| operation | the row is there | it is not |
| --- | --- | --- |
| `upsert(key, columns)` | the columns are set | the row is made with them |
| `add(key, amounts)` | added to the columns (null counts as nothing) | the row is made, then the same |
| `set(key, columns)` | the columns are set | `RowMissing`; nothing with `missing="ignore"` |
| `delete(key)` | deleted | nothing |

MERGE rather than INSERT ... ON CONFLICT, since that refuses a partial row with NOT NULL columns before it looks for the
conflict. Values go through SQLAlchemy's bind processors, so that what a type does in the ORM it does here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateSchema

from eventstore import Recorded
from eventstore.spi import AsyncpgConnection, Statement

from .columns import DIALECT, Value, describe, quote
from .errors import InvalidProjection, RowMissing, TableMissing

__all__ = ["Rows", "TableWriter", "create_tables"]


@dataclass(slots=True)
class _Fold:
    """What a batch does to one row.

    Attributes:
        alive: whether the row exists afterwards (where `absent` is False: if it was there before).
        fresh: the row was deleted on the way, so nothing of its old columns stays.
        must_exist: position of the event that set the row without knowing whether it was there; 0: none.
        changes: column to (added or set, value), for a row that is there.
        absent: the same for a row that is not: None means as `changes`, False that none is made.
    """

    alive: bool = True
    fresh: bool = False
    must_exist: int = 0
    changes: dict[str, tuple[bool, Value]] = field(default_factory=dict)
    absent: dict[str, tuple[bool, Value]] | Literal[False] | None = None

    def assign(self, columns: dict[str, Value], check: Callable[[str], None]) -> None:
        """Set columns, whether the row was there or not; `check` is asked about each that is new."""
        for name, value in columns.items():
            if name not in self.changes:
                check(name)
            self.changes[name] = (False, value)
        if isinstance(self.absent, dict):
            for name, value in columns.items():
                self.absent[name] = (False, value)

    def add(self, amounts: dict[str, Value], check: Callable[[str], None]) -> None:
        """Add to columns, whether the row was there or not; `check` is asked about each that is new."""
        _add(self.changes, amounts, check)
        if isinstance(self.absent, dict):
            _add(self.absent, amounts, check)

    def make_sure(self) -> None:
        """From here on the row exists."""
        if not self.alive:
            self.alive, self.fresh, self.changes, self.absent = True, True, {}, None
        elif self.absent is False and not self.must_exist:
            self.absent = {}


def _add(changes: dict[str, tuple[bool, Value]], amounts: dict[str, Value], check: Callable[[str], None]) -> None:
    for name, amount in amounts.items():
        known = changes.get(name)
        if known is None:
            check(name)
            changes[name] = (True, amount)
        else:
            added, value = known
            changes[name] = (added, amount if value is None else value + amount)


class Rows:
    """What handlers call: collects row operations. Columns are named by their SQLAlchemy keys.

    Every operation names the whole primary key. Bad column names and missing keys are refused at once.
    """

    __slots__ = ("_writer", "recorded")

    def __init__(self, writer: TableWriter) -> None:
        self._writer = writer
        self.recorded: Recorded[Any] | None = None

    @property
    def position(self) -> int:
        """Of the event that is being handled."""
        return 0 if self.recorded is None else self.recorded.position

    def upsert(self, **columns: Value) -> None:
        """Set columns of a row; make the row if it is not there."""
        key = self._writer.split(columns)
        self._writer.made(key).assign(columns, self._writer.check)

    def add(self, **columns: Value) -> None:
        """Add to columns of a row; make the row first, with its defaults, if it is not there."""
        key = self._writer.split(columns)
        self._writer.made(key).add(columns, self._writer.check)

    def set(self, *, missing: Literal["error", "ignore"] = "error", **columns: Value) -> None:
        """Set columns of a row that is there.

        Raises (when the batch is written):
            RowMissing: it is not, unless ``missing="ignore"``.
        """
        key = self._writer.split(columns)
        known = self._writer.folds.get(key)
        if known is None:
            known = self._writer.fold(key)
            known.absent = False
            known.must_exist = self.position if missing == "error" else 0
        elif not known.alive or (known.absent is False and missing == "error" and not known.must_exist):
            if not known.alive and missing == "error":
                raise RowMissing(self._writer.name, self._writer.named(key), self.position)
            if not known.alive:
                return
            known.must_exist = self.position
        known.assign(columns, self._writer.check)

    def delete(self, **key: Value) -> None:
        """Delete a row; nothing if it is not there."""
        values = self._writer.split(key)
        if key:
            raise InvalidProjection(f"rows.delete() of {self._writer.name} takes the key only, got also {sorted(key)}")
        fold = self._writer.fold(values)
        fold.alive, fold.changes, fold.absent = False, {}, None


class _Shape(NamedTuple):
    """What is done to a row, without its values: rows of one shape share a WHEN clause.

    Attributes:
        update: (column, added) for a row that is there; None: nothing.
        delete: whether a row that is there is deleted.
        insert: (column, added to its default) for a row that is made; None: none is.
    """

    update: tuple[tuple[str, bool], ...] | None
    delete: bool
    insert: tuple[tuple[str, bool], ...] | None


class TableWriter:
    """Folds row operations of one table, and writes them.

    Raises:
        InvalidProjection: not a SQLAlchemy Table, or one without a primary key.
    """

    def __init__(self, table: Any) -> None:  # whatever the user put there
        if not isinstance(table, sa.Table):
            raise InvalidProjection(f"`table` must be a sqlalchemy.Table, got {type(table).__name__}: {table!r:.80}")
        self.table = table
        self.name = DIALECT.identifier_preparer.format_table(table)
        self._columns = {column.key: describe(column) for column in table.columns}
        self._key = tuple(column.key for column in table.primary_key.columns)
        if not self._key:
            raise InvalidProjection(f"table {self.name} needs a primary key: it names the rows")
        self._key_binds = [(name, self._columns[name].bind) for name in self._key]
        self._only_key = self._key[0] if len(self._key) == 1 and self._key_binds[0][1] is None else ""
        self._shapes: dict[tuple[object, ...], _Shape] = {}
        self.folds: dict[tuple[Value, ...], _Fold] = {}
        self._defaults = {
            name: column.default for name, column in self._columns.items() if column.default is not None and column.writable
        }

    def split(self, columns: dict[str, Value]) -> tuple[Value, ...]:
        """Take the key's values out of `columns`; return them as the server will see them.

        Raises:
            InvalidProjection: the key is not whole.
        """
        try:
            if self._only_key:
                key: tuple[Value, ...] = (columns.pop(self._only_key),)
            else:
                key = tuple([columns.pop(n) if bind is None else bind(columns.pop(n)) for n, bind in self._key_binds])
        except KeyError as error:
            raise InvalidProjection(self._named_by(f"{error} was not given")) from None
        if None in key:
            raise InvalidProjection(self._named_by("one of them is None"))
        return key

    def _named_by(self, why: str) -> str:
        return f"a row of {self.name} is named by {', '.join(self._key)}; {why}"

    def check(self, name: str) -> None:
        """Check a column that a row has not been given before in this batch.

        Raises:
            InvalidProjection: it does not exist, or the database makes its value.
        """
        known = self._columns.get(name)
        if known is None:
            raise InvalidProjection(f"{self.name} has no column {name!r}; it has {', '.join(self._columns)}")
        if not known.writable:
            raise InvalidProjection(f"column {name!r} of {self.name} is generated by the database and cannot be set")

    def made(self, key: tuple[Value, ...]) -> _Fold:
        """Return what is known of the row `key`, which exists from here on."""
        fold = self.folds.get(key)
        if fold is None:
            fold = self.folds[key] = _Fold()
        elif not fold.alive or fold.absent is False:
            fold.make_sure()
        return fold

    def fold(self, key: tuple[Value, ...]) -> _Fold:
        """Return what is known of the row `key`; a new fold if nothing is."""
        fold = self.folds.get(key)
        if fold is None:
            fold = self.folds[key] = _Fold()
        return fold

    def named(self, key: tuple[Value, ...]) -> dict[str, object]:
        """Return a key by column name."""
        return dict(zip(self._key, key, strict=True))

    async def write(self, connection: AsyncpgConnection) -> None:
        """Write everything collected, on the batch's transaction, and forget it.

        Raises:
            RowMissing: a row that `rows.set` expected is not there.
        """
        folds, self.folds = self.folds, {}
        if not folds:
            return
        await self._resolve(connection, {k: f for k, f in folds.items() if isinstance(f.absent, dict)})
        replaced = {key: fold for key, fold in folds.items() if fold.fresh}
        if replaced:
            await self._require(connection, {key: fold for key, fold in replaced.items() if fold.must_exist})
            await connection.execute(self._delete(replaced))
        certain: dict[tuple[Value, ...], tuple[_Shape, _Fold]] = {}
        uncertain: dict[tuple[Value, ...], tuple[_Shape, _Fold]] = {}
        for key, fold in folds.items():
            if fold.fresh and not fold.alive:
                continue  # gone already
            shape = self._shape(fold)
            affects_one = fold.must_exist or (shape.insert is not None and (shape.update is not None or fold.fresh))
            (certain if affects_one else uncertain)[key] = (shape, fold)
        if certain and await connection.execute(self._merge(certain)) < len(certain):
            await self._require(connection, {key: fold for key, (_, fold) in certain.items() if fold.must_exist})
        if uncertain:
            await connection.execute(self._merge(uncertain))

    def _shape(self, fold: _Fold) -> _Shape:
        """Return what is to be done to a row; the same for most rows of a batch, so known ones are kept."""
        certain = fold.absent is None and not (fold.must_exist and not fold.fresh)
        kind = (fold.alive, fold.fresh, certain, *[(name, change[0]) for name, change in fold.changes.items()])
        shape = self._shapes.get(kind)
        if shape is None:
            shape = self._shapes[kind] = _shape(fold, self._defaults)
        return shape

    async def _resolve(self, connection: AsyncpgConnection, doubtful: dict[tuple[Value, ...], _Fold]) -> None:
        """Where a row that is there and one that is not end differently, ask which it is."""
        if not doubtful:
            return
        there = await self._existing(connection, doubtful)
        for key, fold in doubtful.items():
            if key not in there:
                fold.changes = fold.absent or {}
            fold.absent = None

    async def _existing(self, connection: AsyncpgConnection, keys: Iterable[tuple[Value, ...]]) -> set[tuple[Value, ...]]:
        wanted = list(keys)
        source, args = self._source(wanted)
        sql = f"select s.n from {source} join {self.name} t on {self._join()}"
        rows = await connection.fetch(Statement(sql, args))
        return {wanted[row[0] - 1] for row in rows}

    async def _require(self, connection: AsyncpgConnection, strict: dict[tuple[Value, ...], _Fold]) -> None:
        """Name a row that `rows.set` expected and that is not there."""
        there = await self._existing(connection, strict) if strict else set()
        for key, fold in strict.items():
            if key not in there:
                raise RowMissing(self.name, self.named(key), fold.must_exist)

    def _source(self, keys: Sequence[tuple[Value, ...]]) -> tuple[str, tuple[Any, ...]]:  # parameters of any type
        """The keys as a relation `s` with columns k0, k1, ... and their number n."""
        parameters = ", ".join(f"${i}::{self._columns[name].cast}[]" for i, name in enumerate(self._key, 1))
        names = ", ".join(f"k{i}" for i in range(len(self._key)))
        args = tuple([key[i] for key in keys] for i in range(len(self._key)))
        return f"unnest({parameters}) with ordinality as s({names}, n)", args

    def _join(self) -> str:
        pairs = (f"t.{quote(self._columns[name].name)} = s.k{i}" for i, name in enumerate(self._key))
        return " and ".join(pairs)

    def _delete(self, folds: dict[tuple[Value, ...], _Fold]) -> Statement:
        source, args = self._source(list(folds))
        return Statement(f"delete from {self.name} t using {source} where {self._join()}", args)

    def _merge(self, rows: dict[tuple[Value, ...], tuple[_Shape, _Fold]]) -> Statement:
        shapes = sorted({shape for shape, _ in rows.values()}, key=repr)
        number = {shape: n for n, shape in enumerate(shapes)}
        used = [name for name in self._columns if any(name in _names(shape) for shape in shapes)]
        args: list[list[Value]] = [[key[i] for key in rows] for i in range(len(self._key))]
        args.append([number[shape] for shape, _ in rows.values()])
        args += [self._values(name, rows.values()) for name in used]
        casts = [self._columns[name].cast for name in self._key] + ["int"] + [self._columns[n].array for n in used]
        parameters = ", ".join(f"${i}::{cast}[]" for i, cast in enumerate(casts, 1))
        names = [f"k{i}" for i in range(len(self._key))] + ["shape"] + [f"v{i}" for i in range(len(used))]
        value = {name: f"s.v{i}" + self._recast(name) for i, name in enumerate(used)}
        clauses = "\n".join(clause for shape in shapes for clause in self._clauses(shape, number[shape], value))
        source = f"unnest({parameters}) as s({', '.join(names)})"
        return Statement(f"merge into {self.name} t using {source} on {self._join()}\n{clauses}", tuple(args))

    def _recast(self, name: str) -> str:
        column = self._columns[name]
        return "" if column.array == column.cast else f"::{column.cast}"

    def _values(self, name: str, rows: Iterable[tuple[_Shape, _Fold]]) -> list[Value]:
        bind = self._columns[name].bind
        default = self._defaults.get(name)
        values = [fold.changes[name][1] if name in fold.changes else default for _, fold in rows]
        return values if bind is None else [None if value is None else bind(value) for value in values]

    def _clauses(self, shape: _Shape, number: int, value: dict[str, str]) -> Iterable[str]:
        names = {key: quote(column.name) for key, column in self._columns.items()}
        if shape.delete:
            yield f"when matched and s.shape = {number} then delete"
        elif shape.update:
            parts = [
                f"{names[n]} = coalesce(t.{names[n]} + {value[n]}, {value[n]})" if added else f"{names[n]} = {value[n]}"
                for n, added in shape.update
            ]
            yield f"when matched and s.shape = {number} then update set {', '.join(parts)}"
        elif shape.update is not None:  # only the key was given: touch the row so that it counts as affected
            first = names[self._key[0]]
            yield f"when matched and s.shape = {number} then update set {first} = t.{first}"
        if shape.insert is not None:
            columns = [names[n] for n in (*self._key, *(n for n, _ in shape.insert))]
            values = [f"s.k{i}" for i in range(len(self._key))]
            values += [self._made(n, value[n]) if added else value[n] for n, added in shape.insert]
            yield (
                f"when not matched and s.shape = {number} then insert ({', '.join(columns)}) values ({', '.join(values)})"
            )

    def _made(self, name: str, amount: str) -> str:
        """An amount added to the default of a row that is being made."""
        column = self._columns[name]
        default = column.server_default
        if column.default is not None:
            bound = column.default if column.bind is None else column.bind(column.default)
            default = "'" + str(bound).replace("'", "''") + "'"
        return amount if default is None else f"coalesce(({default})::{column.cast} + {amount}, {amount})"

    async def check_table(self, connection: AsyncpgConnection) -> None:
        """Check that the table is there.

        Raises:
            TableMissing: with the DDL that makes it.
        """
        rows = await connection.fetch(Statement("select to_regclass($1) is not null", (self.name,)))
        if not rows[0][0]:
            raise TableMissing(
                f"table {self.name} does not exist; make it with a migration of yours, or start with create=True "
                f"(projections run --create):\n{self.ddl()}"
            )

    def ddl(self) -> str:
        """Return the table's DDL, with the types that it needs."""
        parts = [f"CREATE SCHEMA IF NOT EXISTS {quote(self.table.schema)}"] if self.table.schema else []

        def note(part: Any, *args: object, **kwargs: object) -> None:  # a DDL element
            parts.append(str(part.compile(dialect=DIALECT)).strip())

        self.table.create(sa.create_mock_engine("postgresql+psycopg://", note), checkfirst=False)
        return ";\n".join(parts) + ";"


def create_tables(url: str, tables: Sequence[sa.Table]) -> None:
    """Create tables that do not exist yet, with their types and indexes. Blocks; two at once do no harm."""
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"connect_timeout": 10, "prepare_threshold": None})
    try:
        with engine.begin() as connection:
            connection.execute(sa.text("select pg_advisory_xact_lock(hashtextextended('pg-eventstore create tables', 0))"))
            for table in tables:
                if table.schema:
                    connection.execute(CreateSchema(table.schema, if_not_exists=True))
                table.create(connection, checkfirst=True)
    except DBAPIError as error:
        line = str(error.orig).strip().replace("\n", " ")
        raise TableMissing(f"the tables {', '.join(t.name for t in tables)} could not be made: {line}") from error


def _shape(fold: _Fold, defaults: dict[str, Value]) -> _Shape:
    if not fold.alive:
        return _Shape(None, delete=True, insert=None)
    insert = None
    if fold.absent is None and not (fold.must_exist and not fold.fresh):
        made = {**dict.fromkeys(defaults, False), **{name: added for name, (added, _) in fold.changes.items()}}
        insert = tuple(sorted(made.items()))
    update = None if fold.fresh else tuple(sorted((name, added) for name, (added, _) in fold.changes.items()))
    return _Shape(update, delete=False, insert=insert)


def _names(shape: _Shape) -> set[str]:
    return {name for name, _ in (*(shape.update or ()), *(shape.insert or ()))}
