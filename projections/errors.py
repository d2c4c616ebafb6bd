"""Errors of followers. They stand in the tree of `eventstore.errors`: a caller decides by its second level.

::

    EventStoreError
     +- Transient
     |   +- LeaseLost           another daemon has taken the follower over; this one stepped down, nothing was written
     +- Invalid
     |   +- InvalidProjection   a projection that is not well formed, said at start
     |   +- TableMissing        its table does not exist; the message holds the DDL
     |   +- RowMissing          rows.set() for a row that is not there
     |   +- HandlerFailed       a handler raised, or returned something; names the event
     |   +- BatchFailed         the rows of a batch could not be written; names its events
"""

from __future__ import annotations

from eventstore.errors import Invalid, Transient

__all__ = ["BatchFailed", "HandlerFailed", "InvalidProjection", "LeaseLost", "RowMissing", "TableMissing"]


class LeaseLost(Transient):
    """Another daemon runs this follower now; the batch was rolled back."""


class InvalidProjection(Invalid):
    """A projection is not well formed: its handlers' types or signatures, its table, its name."""


class TableMissing(Invalid):
    """A projection's table does not exist."""


class RowMissing(Invalid):
    """`rows.set` met a row that is not there.

    Attributes:
        table: the table's name.
        key: the key of the missing row, by column.
        position: of the event whose handler set it.
    """

    def __init__(self, table: str, key: dict[str, object], position: int) -> None:
        self.table, self.key, self.position = table, key, position
        super().__init__(
            f"rows.set() expected a row in {table} with {key} (event at position {position}), there is none; use "
            "rows.upsert() if it may be new, or rows.set(..., missing='ignore')"
        )


class BatchFailed(Invalid):
    """The database refused what the handlers of a batch collected. The batch was rolled back.

    Attributes:
        follower: the projection's name.
        first, last: positions of the batch's events.
    """

    def __init__(self, follower: str, first: int, last: int, why: str) -> None:
        self.follower, self.first, self.last = follower, first, last
        super().__init__(
            f"projection {follower!r} could not write the rows of the events at positions {first} to {last}: {why}; nothing "
            "of them was written. Correct the handlers or the table and start again"
        )


class HandlerFailed(Invalid):
    """A handler raised. The batch was rolled back; the checkpoint stands before the event.

    Attributes:
        follower: the projection's name.
        position, stream_id, version, type: the event.
    """

    def __init__(self, follower: str, position: int, stream_id: str, version: int, type_: str, why: str) -> None:
        self.follower, self.position, self.stream_id, self.version, self.type = follower, position, stream_id, version, type_
        super().__init__(
            f"projection {follower!r} failed on event {type_!r} at position {position} (version {version} of stream "
            f"{stream_id!r}): {why}; nothing of its batch was written. Correct the handler and start again"
        )
