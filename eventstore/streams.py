"""Streams, their versions, positions in the log, and what an append may expect.

A stream id is text of 1 to 255 bytes in UTF-8 without control characters. By convention it reads
``<category>-<id>``: the category is what stands before the first dash (all of it where there is none).
"""

from __future__ import annotations

import enum
import re
from typing import Final, NewType

from .errors import InvalidArgument

__all__ = [
    "ANY",
    "EXISTS",
    "NO_STREAM",
    "Expectation",
    "Position",
    "StreamId",
    "Version",
    "category_of",
    "check_expectation",
    "check_name",
    "expectation_to_sql",
]

Version = NewType("Version", int)
"""The number of events ever appended to a stream; the event that made it so carries it. 1-based."""

Position = NewType("Position", int)
"""An event's place in the whole log. Grows with every event, with holes where appends were rolled back."""

MAX_NAME_BYTES: Final = 255
"""Longest stream id or event type, in bytes of UTF-8: leaves room in PostgreSQL's 2,704 bytes an index entry."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class Expectation(enum.Enum):
    """What an append may expect of a stream besides an exact version."""

    ANY = -1
    """The stream may be at any version, or have no events."""
    EXISTS = -2
    """The stream has at least one event."""

    def __repr__(self) -> str:
        return self.name


ANY: Final = Expectation.ANY
EXISTS: Final = Expectation.EXISTS
NO_STREAM: Final = Version(0)
"""The stream has no events yet: version 0."""


class StreamId(str):
    """A stream id made of a category and an id, checked: ``StreamId("purchase_order", 7) == "purchase_order-7"``.

    Raises:
        InvalidArgument: the category is empty or holds a dash, or the result is not a valid stream id.
    """

    __slots__ = ()

    def __new__(cls, category: str, id: object) -> StreamId:  # noqa: A002 - the field's word
        """Join `category` and `id` (by `str`) with a dash."""
        if not category or "-" in category:
            raise InvalidArgument(
                f"a stream's category is text without a dash (the id begins after the first one), got {category!r}; "
                "write purchase_order rather than purchase-order"
            )
        return str.__new__(cls, check_name(f"{category}-{id}", "a stream id"))

    def __reduce__(self) -> tuple[type[StreamId], tuple[str, str]]:
        return (StreamId, (self.category, self.id))

    @property
    def category(self) -> str:
        """What stands before the first dash."""
        return category_of(self)

    @property
    def id(self) -> str:
        """What stands behind the first dash."""
        return self.partition("-")[2]


def category_of(stream_id: str) -> str:
    """Return what stands before the first dash of `stream_id`; all of it where there is none."""
    return stream_id.partition("-")[0]


def check_name(name: object, what: str) -> str:
    """Return `name` if it can be a stream id or an event type.

    Raises:
        InvalidArgument: not a string, empty, over 255 bytes, a control character, or a lone surrogate.
    """
    if not isinstance(name, str):
        raise InvalidArgument(f"{what} must be a str, got {type(name).__name__}: {name!r:.80}")
    if not name:
        raise InvalidArgument(f"{what} must not be empty")
    try:
        size = len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} must be valid Unicode, but {name!a:.80} holds a lone surrogate") from None
    if size > MAX_NAME_BYTES:
        raise InvalidArgument(f"{what} may be at most {MAX_NAME_BYTES} bytes of UTF-8, got {size}: {name!r:.60}...")
    if not name.isprintable() and (found := _CONTROL.search(name)):
        raise InvalidArgument(f"{what} must not hold control characters, but {name!r:.80} holds {found[0]!r}")
    return name


def check_expectation(expect: object) -> int | Expectation:
    """Return `expect` if an append may carry it: a version >= 0, NO_STREAM, EXISTS or ANY; bools are refused.

    Raises:
        InvalidArgument: anything else.
    """
    if isinstance(expect, Expectation):
        return expect
    if isinstance(expect, int) and not isinstance(expect, bool) and 0 <= expect < 2**63:
        return expect
    raise InvalidArgument(f"expect must be a version >= 0, NO_STREAM, EXISTS or ANY, got {expect!r}")


def expectation_to_sql(expect: int | Expectation) -> int:
    """Return the number that stands for `expect` in SQL: the version, -1 for ANY, -2 for EXISTS."""
    return expect.value if isinstance(expect, Expectation) else expect
