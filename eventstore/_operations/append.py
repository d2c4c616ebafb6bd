"""Append: a group of appends in one statement, each with its own outcome.

`prepare.prepare` checks and encodes one append before anything is sent. Five statements send appends, and all give an outcome for
each (`Landed`, `Refused`, `CONTENDED`, `Known`, `Overtaken`):

- `append_one` and `append_group` for connections of the library's own, which carry the settings that they lean on;
- `append` by a function that brings its settings: for pooled connections, for request ids, and for queueing;
- `append` by another such function where tags or decisions are among them (`boundary` has the argument), and
  `append_tagged_one` by a third for a single one of those, on connections of the library's own;
- the same in somebody's transaction (`joined.append_joined`), where it is a savepoint of its own.

A contended stream is one that another transaction is appending to: its advisory lock was tried, not waited for.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from .._details import SEPARATOR
from ..errors import (
    BoundaryConflict,
    IdempotencyMismatch,
    LockTimeout,
    SequenceBehind,
    UniqueViolation,
    VersionConflict,
)
from ..events import Appended
from ..streams import Expectation, Position, Version, expectation_to_sql
from .boundary import Seen
from .prepare import EventRow, PreparedAppend
from .statement import Operation, Row, Statement, load_sql

__all__ = [
    "CONTENDED",
    "MISMATCHED",
    "RACES",
    "Known",
    "Landed",
    "Outcome",
    "Overtaken",
    "Refused",
    "append",
    "append_group",
    "append_one",
    "append_tagged_one",
    "append_together",
    "appended",
    "outcomes_of",
    "recognise",
    "refuse_reused_position",
    "settle",
    "settle_together",
    "statement_of",
    "together_statement",
]

_QUERIES: Final = Path(__file__).parent.parent / "sql" / "queries"
_APPEND: Final = load_sql(_QUERIES, "append")
_APPEND_GROUP: Final = load_sql(_QUERIES, "append_group")
_APPEND_ONE: Final = load_sql(_QUERIES, "append_one")
_APPEND_TAGGED: Final = load_sql(_QUERIES, "append_tagged")
_APPEND_TAGGED_ONE: Final = load_sql(_QUERIES, "append_tagged_one")
_APPEND_TOGETHER: Final = _APPEND_TAGGED.replace("append_tagged_v1", "append_together_v1")
_EVENT_AT: Final = load_sql(_QUERIES, "event_at")
_EVENTS_BETWEEN: Final = load_sql(_QUERIES, "events_between")

RACES: Final = 100
"""How often an append that lost a race for a version is sent again; contenders queue, so one more is rarely needed."""

_CONTENDED_CODE: Final = -(2**62)
_KNOWN_CODE: Final = _CONTENDED_CODE - 1
_MISMATCHED_CODE: Final = _CONTENDED_CODE - 2
_OVERTAKEN_CODE: Final = _CONTENDED_CODE - 3

_WRITTEN_COLUMNS: Final = 10
"""Of a result that may tell which rows of tags were written."""
_by_seq: Final = itemgetter(1)


class Landed(NamedTuple):
    """Inserted, on top of `before`; visible once committed. `positions`: of the events, in order. `written`: of a decision, how
    far it has brought the tags that it has written.
    """

    before: int
    positions: Sequence[int]
    written: Mapping[str, Seen] | None = None


class Refused(NamedTuple):
    """The expectation does not hold: the stream is at version `actual`. Nothing was inserted."""

    actual: int


class Known(NamedTuple):
    """The request was appended before, to this stream, with these versions. Nothing was inserted now."""

    stream_id: str
    first_version: int
    version: int
    position: int


class Overtaken(NamedTuple):
    """An event that matches the decision's boundary has appeared since. `position`: of one; 0: the log is another one by now.
    Nothing was inserted.
    """

    position: int


CONTENDED: Final = "contended"
"""Another transaction is appending to the stream, to a tag, or with the same request id. Nothing was inserted."""

MISMATCHED: Final = "mismatched"
"""The request id is known with other content. Nothing was inserted."""

Outcome = Landed | Refused | Known | Overtaken | Literal["contended", "mismatched"]


def append_one(one: PreparedAppend) -> Operation[Outcome | None]:
    """Send an append of one event without a request id; None: it is refused or contended, `append_group` says which."""
    expect = one.expect.value if isinstance(one.expect, Expectation) else one.expect
    type_, event_id, data, metadata, schema_version, *rest, _ = one.rows[0]
    args = (one.tenant_id, one.stream_id, expect, type_, event_id, data, metadata or "{}", schema_version or 1, *rest)
    rows = yield Statement(_APPEND_ONE, args)
    return Landed(rows[0][0] - 1, (rows[0][1],)) if rows else None


def append_tagged_one(one: PreparedAppend) -> Operation[Outcome]:
    """Send an append with tags, or a decision; without a request id, and with at most 256 tags."""
    types, ids, datas, metadatas, schema_versions, correlations, causations, times, tags = zip(*one.rows, strict=True)
    log, asks = (None, ()) if one.token is None else (one.token.log, tuple(zip(*one.token.asks(), strict=True)))
    args = (
        one.tenant_id,
        one.stream_id,
        expectation_to_sql(one.expect),
        *(types, ids, datas, metadatas, schema_versions, correlations, causations, times),
        [each and SEPARATOR.join(each) for each in tags],
        one.tags,
        log,
        *(asks or [None] * 5),
    )
    (row,) = yield Statement(_APPEND_TAGGED_ONE, args)
    version, positions, conflict, *written = row
    if version >= 0:
        return Landed(version, positions, None if one.token is None else _rows_of_tags(one, positions, written))
    return _not_landed(version, 0, (None,) * 6 + ((conflict,),))


def append_group(group: Sequence[PreparedAppend]) -> Operation[list[Outcome]]:
    """Send appends without request ids, for different streams; return each one's outcome, in order.

    Raises (thrown in by the driver): UniqueViolation, LockTimeout, ConnectionLost and others; then nothing was written,
    but for a ConnectionLost.
    """
    rows = yield Statement(_APPEND_GROUP, _joined_arguments(group))
    return outcomes_of(group, rows[0])


def append(
    group: Sequence[PreparedAppend],
    *,
    waiting: bool = False,
    patience: str | None = None,
    order: Sequence[tuple[int, int, EventRow]] | None = None,
) -> Operation[list[Outcome]]:
    """As `append_group`, on any connection, and with request ids.

    Args:
        group: the appends; no two for one stream.
        waiting: queue for contended streams instead of leaving them out.
        patience: how long to wait for any lock, as lock_timeout has it; None: as the session says.
        order: (number of the append, 1-based; ordinal in it, 1-based; its row), in the order of the log; default: one
            append behind the other.
    """
    rows = yield statement_of(group, waiting=waiting, patience=patience, order=order)
    return outcomes_of(group, rows[0], order)


def append_together(group: Sequence[PreparedAppend], *, patience: str | None = None) -> Operation[list[Outcome]]:
    """As `append`, waiting, all or none: where one of them is not inserted, none is, whatever the outcomes of others say."""
    rows = yield together_statement(group, patience=patience)
    return outcomes_of(group, rows[0])


def together_statement(group: Sequence[PreparedAppend], *, patience: str | None = None) -> Statement:
    """Return the statement of `append_together`."""
    return _tagged_statement(_APPEND_TOGETHER, group, None, waiting=True, patience=patience)


def statement_of(
    group: Sequence[PreparedAppend],
    *,
    waiting: bool,
    patience: str | None = None,
    order: Sequence[tuple[int, int, EventRow]] | None = None,
) -> Statement:
    """Return the statement of `append`, for whoever runs it in a way of their own. Arguments as there."""
    if any(one.tags for one in group):
        return _tagged_statement(_APPEND_TAGGED, group, order, waiting=waiting, patience=patience)
    *events, _ = _events_of(group, order)
    return Statement(_APPEND, (*events, *_requests_of(group), ["true" if waiting else "false", patience]))


def _texts(values: Sequence[object]) -> list[str | None] | None:
    """A column as text; null where it holds nothing."""
    return [None if value is None else str(value) for value in values] if any(values) else None


def _tagged_statement(
    sql: str,
    group: Sequence[PreparedAppend],
    order: Sequence[tuple[int, int, EventRow]] | None,
    *,
    waiting: bool,
    patience: str | None,
) -> Statement:
    logs = [None if one.token is None else one.token.log for one in group]
    asks = [(n, *ask) for n, one in enumerate(group, 1) if one.token is not None for ask in one.token.asks()]
    args = (
        *_events_of(group, order),
        [str(n) for n, one in enumerate(group, 1) for _ in one.tags],
        [tag for one in group for tag in one.tags],
        *(_asked(logs, asks) if asks else [None] * 7),
        *_requests_of(group),
        ["true" if waiting else "false", patience],
    )
    return Statement(sql, args)


def _asked(
    logs: Sequence[str | None], asks: Sequence[tuple[int, str, int, str | None, str | None, str | None]]
) -> Sequence[Any]:
    heads, tags, seqs, *rest = zip(*asks, strict=True)
    return logs, [str(n) for n in heads], list(tags), [str(seq) for seq in seqs], *map(list, rest)


def _events_of(group: Sequence[PreparedAppend], order: Sequence[tuple[int, int, EventRow]] | None) -> Sequence[Any]:
    """Appends and their events, as text; the events' tags last."""
    if order is None:
        order = [(n, k, row) for n, one in enumerate(group, 1) for k, row in enumerate(one.rows, 1)]
    types, ids, datas, metadatas, schema_versions, correlations, causations, times, tags = zip(
        *[row for _, _, row in order], strict=True
    )
    return (
        [one.tenant_id for one in group],
        [one.stream_id for one in group],
        [str(expectation_to_sql(one.expect)) for one in group],
        [str(n) for n, _, _ in order],
        [str(k) for _, k, _ in order],
        list(types),
        [str(one) for one in ids],
        list(datas),
        *[_texts(column) for column in (metadatas, schema_versions, correlations, causations)],
        _texts([None if time is None else time.isoformat() for time in times]),
        _texts([None if one is None else SEPARATOR.join(one) for one in tags]),
    )


def _requests_of(group: Sequence[PreparedAppend]) -> tuple[list[str | None] | None, list[str | None] | None]:
    """Request ids and digests; null where there are none."""
    if all(one.request_id is None for one in group):
        return None, None
    digests = [None if one.digest is None else f"\\x{one.digest.hex()}" for one in group]
    return [one.request_id for one in group], digests


def appended(one: PreparedAppend, landed: Landed) -> Appended:
    """Return what the caller is told of an append that was inserted."""
    before, positions, _ = landed
    if len(one.rows) == 1:
        return Appended(Version(before + 1), Version(before + 1), Position(positions[0]), (one.rows[0].event_id,))
    return Appended(Version(before + 1), Version(before + len(one.rows)), Position(positions[-1]), one.event_ids)


def settle(one: PreparedAppend, outcome: Outcome) -> Operation[Appended]:
    """Return what the caller is told of an outcome.

    Raises:
        VersionConflict: it was refused, and is no repetition.
        IdempotencyMismatch: the same event ids stand there with other content.
        BoundaryConflict: what a decision rests on has changed.
        LockTimeout: it is contended still.
    """
    if isinstance(outcome, Landed):
        return appended(one, outcome)
    if isinstance(outcome, Known):
        args = (one.tenant_id, outcome.stream_id, outcome.first_version - 1, outcome.version)
        rows = yield Statement(_EVENTS_BETWEEN, args)
        return _again(outcome.first_version, outcome.version, outcome.position, rows)
    if isinstance(outcome, Refused):
        return (yield from recognise(one, outcome.actual))
    if isinstance(outcome, Overtaken):
        rows = (yield Statement(_EVENT_AT, (outcome.position,))) if outcome.position else ()
        raise BoundaryConflict(*rows[0]) if rows else BoundaryConflict()
    if outcome == MISMATCHED:
        raise IdempotencyMismatch(one.request_id or "", f"a request for stream {one.stream_id!r}")
    raise LockTimeout(f"another transaction is appending to {one.stream_id!r}; try again")


def settle_together(ones: Sequence[PreparedAppend], outcomes: Sequence[Outcome]) -> Operation[list[Appended]]:
    """As `settle`, for appends that are inserted all or none."""
    done = []
    for one, outcome in zip(ones, outcomes, strict=True):
        if not isinstance(outcome, Landed):
            done.append((yield from settle(one, outcome)))
    if not done:
        return [appended(one, outcome) for one, outcome in zip(ones, outcomes, strict=True) if isinstance(outcome, Landed)]
    if len(done) == len(ones):
        return done
    known = done[0]
    one = next(one for one in ones if one.event_ids == known.event_ids)
    raise VersionConflict(one.stream_id, known.first_version - 1, known.version)


def recognise(one: PreparedAppend, actual: int) -> Operation[Appended]:
    """Return the first result of an append that was refused because it stands there already.

    Raises:
        VersionConflict: it does not.
        IdempotencyMismatch: its event ids do, with other types or data.
    """
    expected = expectation_to_sql(one.expect)
    if one.ids_given and 0 <= expected <= actual - len(one.rows):
        rows = yield Statement(_EVENTS_BETWEEN, (one.tenant_id, one.stream_id, expected, expected + len(one.rows)))
        if [UUID(bytes=row[2]) for row in rows] == list(one.event_ids):
            for row, wanted in zip(rows, one.rows, strict=True):
                if row[3] != wanted.type or json.loads(row[4]) != json.loads(wanted.data):
                    raise IdempotencyMismatch(str(wanted.event_id), f"version {row[0]} of stream {one.stream_id!r}")
            return _again(expected + 1, expected + len(one.rows), rows[-1][1], rows)
    raise VersionConflict(one.stream_id, one.expect.name if isinstance(one.expect, Expectation) else one.expect, actual)


def refuse_reused_position(error: UniqueViolation, schema: str) -> None:
    """A lost race for a version is tried again; a position that is taken already is no race, nor is a row of a tag, which is
    written under the tag's lock.

    Raises:
        SequenceBehind: the sequence of positions, or of tags, lies behind its table.
    """
    if "event_tags_" in str(error):
        raise SequenceBehind(
            f'"{schema}".event_tags holds what is only being written now ({error}): a restore left its sequence behind, or '
            f"brought back another state of it than of the log. Stop all writers, then: "
            f'select setval(\'"{schema}".event_tags_seq_seq\', (select max(seq) from "{schema}".event_tags))'
        ) from error
    if "events_position_key" in str(error):
        raise SequenceBehind(
            f'the sequence "{schema}".events_position_seq gives out positions that are taken: a restore left it behind the '
            f"log. Stop all writers, then: select setval('\"{schema}\".events_position_seq', (select max(position) from "
            f'"{schema}".events))'
        ) from error


def _again(first: int, last: int, position: int, rows: Sequence[Row]) -> Appended:
    ids = tuple(UUID(bytes=row[2]) for row in rows)
    return Appended(Version(first), Version(last), Position(position), ids, deduplicated=True)


def _joined_arguments(group: Sequence[PreparedAppend]) -> tuple[Any, ...]:
    """What queries/append_group.sql takes: names and documents joined, since arrays of text are slow to encode."""
    rows = [row for one in group for row in one.rows]
    types, ids, datas, metadatas, schema_versions, correlations, causations, times, _ = zip(*rows, strict=True)
    many = len(rows) > len(group)
    tenants = [one.tenant_id for one in group]
    return (
        SEPARATOR.join([one.stream_id for one in group]),
        SEPARATOR.join(tenants) if any(tenants) else None,
        [expectation_to_sql(one.expect) for one in group],
        [n for n, one in enumerate(group, 1) for _ in one.rows] if many else None,
        SEPARATOR.join(types),
        ids,
        SEPARATOR.join([one or "" for one in correlations]) if any(correlations) else None,
        f"[{','.join(datas)}]",
        f"[{','.join([one or '{}' for one in metadatas])}]" if any(metadatas) else None,
        schema_versions if any(schema_versions) else None,
        [k for one in group for k in range(1, len(one.rows) + 1)] if many else None,
        causations if any(causations) else None,
        times if any(times) else None,
    )


def outcomes_of(
    group: Sequence[PreparedAppend], row: Row, order: Sequence[tuple[int, int, EventRow]] | None = None
) -> list[Outcome]:
    """Tell the appends of a group what became of them."""
    versions, drawn = row[0], iter(row[1] or ())
    if (
        order is None
        and len(row) < _WRITTEN_COLUMNS
        and row[1]
        and len(row[1]) == len(versions) == len(group)
        and min(versions) >= 0
    ):
        return [Landed(version, (position,)) for version, position in zip(versions, drawn, strict=True)]  # one event each
    if order is None:
        positions = [
            list(itertools.islice(drawn, len(one.rows))) if v >= 0 else [] for one, v in zip(group, versions, strict=True)
        ]
    else:
        positions = [[] for _ in group]
        for n, _, _ in order:
            if versions[n - 1] >= 0:
                positions[n - 1].append(next(drawn))
    return [
        Landed(version, positions[n], _written(group[n], positions[n], row))
        if version >= 0
        else _not_landed(version, n, row)
        for n, version in enumerate(versions)
    ]


def _written(one: PreparedAppend, positions: Sequence[int], row: Row) -> Mapping[str, Seen] | None:
    """How far the tags have come that events at these positions carry; None where no decision is among the appends."""
    if len(row) < _WRITTEN_COLUMNS or row[7] is None:
        return None
    return _rows_of_tags(one, positions, row[7:10])


def _rows_of_tags(one: PreparedAppend, positions: Sequence[int], written: Sequence[Sequence[Any]]) -> Mapping[str, Seen]:
    own = {position: str(event_id) for position, event_id in zip(positions, one.event_ids, strict=True)}
    rows = sorted(zip(*[column or () for column in written], strict=True), key=_by_seq)
    return {tag: Seen(seq, own[position]) for tag, seq, position in rows if position in own}


def _not_landed(version: int, n: int, row: Row) -> Outcome:
    if version > _CONTENDED_CODE:
        return Refused(-1 - version)
    if version == _KNOWN_CODE:
        return Known(row[2][n], row[3][n], row[4][n], row[5][n])
    if version == _OVERTAKEN_CODE:
        return Overtaken(row[6][n])
    return CONTENDED if version == _CONTENDED_CODE else MISMATCHED
