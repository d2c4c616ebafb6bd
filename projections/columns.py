"""How the values of SQLAlchemy columns reach the server: through SQLAlchemy's own bind processors, as arrays for `unnest`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql.asyncpg import dialect as AsyncpgDialect  # noqa: N812 - it is a class
from sqlalchemy.schema import CreateTable

from .errors import InvalidProjection

__all__ = ["DIALECT", "Column", "Value", "describe", "quote"]

DIALECT: Final = AsyncpgDialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves dialects untyped

Value = Any
"""What a user gives for a column: whatever its SQLAlchemy type takes."""


class Column(NamedTuple):
    """How one column's values reach the server."""

    name: str
    cast: str
    array: str
    bind: Callable[[Value], Value] | None
    writable: bool
    default: Value
    server_default: str | None


def quote(name: str) -> str:
    """Return an identifier, quoted where it must be."""
    return DIALECT.identifier_preparer.quote(name)


def describe(column: sa.Column[Any]) -> Column:  # of any type
    """Return what is to be known of a column."""
    type_ = column.type.dialect_impl(DIALECT)
    cast = _without_length(str(DIALECT.type_compiler_instance.process(column.type)))
    bind = type_.bind_processor(DIALECT)
    impl = getattr(type_, "impl_instance", type_)
    is_array = isinstance(impl, (ARRAY, sa.ARRAY))
    writable = column.computed is None and not (column.identity is not None and column.identity.always)
    if column.default is not None and not column.default.is_scalar:
        raise InvalidProjection(
            f"column {column.name!r} of {column.table.name} has a default that is computed in Python or SQL on each insert; "
            "give it a server_default, which rows.* can rely on"
        )
    default = column.default.arg if column.default is not None else None  # type: ignore[attr-defined]
    server_default = DIALECT.ddl_compiler(DIALECT, CreateTable(column.table)).get_column_default_string(column)
    if is_array:
        return Column(column.name, cast, "text", _array_literal(bind), writable, default, server_default)
    return Column(column.name, cast, cast, bind, writable, default, server_default)


_LENGTH: Final = re.compile(r"\s*\([^()]*\)")


def _without_length(cast: str) -> str:
    """Return a type without length, precision or scale.

    An explicit cast to VARCHAR(5) cuts a longer value in silence, and two keys become one; what is assigned to such a column
    is refused. So values travel as the bare type, and the assignment checks.
    """
    if cast.startswith('"'):
        return cast
    bare = _LENGTH.sub("", cast)
    return re.sub(r"^BIT\b(?! VARYING)", "BIT VARYING", re.sub(r"^CHAR\b", "bpchar", bare))


def _array_literal(bind: Callable[[Value], Value] | None) -> Callable[[Value], Value]:
    """Arrays travel as text: `unnest` would take an array of arrays apart."""

    def literal(value: Value) -> Value:
        bound = value if bind is None else bind(value)
        return None if bound is None else _literal(bound)

    return literal


def _literal(value: Value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, (list, tuple)):
        return "{" + ",".join(_literal(item) for item in value) + "}"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, bytes):
        text = "\\x" + value.hex()
    elif isinstance(value, (dict, set)):
        text = json.dumps(value)
    else:
        text = str(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
