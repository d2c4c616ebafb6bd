"""A boundary: what a decision rests on, and what it is held to when it is appended.

The argument, which `append_tagged_v1` and `boundary_v1` carry out:

**Authority.** The rows of ``event_tags``, and the advisory lock of each tag. Whoever writes a row of a tag, in whichever way (an
append, a group, a joined transaction, an import, a back-fill), takes the tag's lock before it draws the row's ``seq``, and keeps
it until its transaction ends. So the rows of one tag become visible in the order of their ``seq``: whoever has seen one has seen
all below it, or they are dead for ever.

**A token** is the highest ``seq`` of each tag of the question, from the snapshot in which the events were read. It stands for
the events of the tag that existed then, exactly; a position would not, since positions of different tags become visible in
any order. Beside the ``seq`` stands the id of the event that has it.

**An append with a token** takes the locks of all tags of the question, besides those that it writes. A later statement, whose
snapshot therefore holds whatever was written under those locks before, looks for a row behind the token that matches the
question. If there is none, nothing that the decision rests on has changed, and nobody can change it before this transaction has
ended. An event may get its tags by and by (a back-fill), so each tag of an item is looked behind.

**What if it dies here.** Locks and rows end with the transaction. A token of a transaction that was rolled back may be ahead
of the rows by those that are dead; later rows have a higher ``seq`` all the same, since a sequence never goes back. Where it
does, numbers may come again: after a failover that lost the log's end the timeline is another one, on a restored dump the
table's oid is, and after a crash that lost it (``synchronous_commit = off``, a disk's snapshot) the row at the token's
``seq`` is gone, or another event's. The append looks for all three, and refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from .._details import SEPARATOR
from ..errors import InvalidArgument, SequenceBehind
from ..events import POSITION
from .statement import Operation, Row, Statement, load_sql

__all__ = ["Item", "Seen", "Token", "read_boundary"]

_QUERIES: Final = Path(__file__).parent.parent / "sql" / "queries"
_READ_BOUNDARY: Final = load_sql(_QUERIES, "read_boundary")
_READ_BOUNDARY_OWN: Final = load_sql(_QUERIES, "read_boundary_own")

_position: Final = itemgetter(POSITION)
_READY, _STANDBY, _ISOLATED, _BEHIND = range(4)
"""The state that stands in the row of a tag; see schema/14_boundary_v1.sql."""


class Item(NamedTuple):
    """One alternative of a question: events with all of these tags and one of these types (None: any)."""

    tags: tuple[str, ...]
    types: tuple[str, ...] | None


class Seen(NamedTuple):
    """How far a tag had come: its highest `seq`, 0 for none, and the event that has it."""

    seq: int
    event_id: str | None = None


class Token(NamedTuple):
    """A question, and how far its answer goes.

    Attributes:
        items: the question.
        log: which log answered.
        seen: how far each tag had come.
    """

    items: tuple[Item, ...]
    log: str
    seen: Mapping[str, Seen]

    def asks(self) -> list[tuple[str, int, str | None, str | None, str | None]]:
        """Return what `append_tagged_v1` asks: tag, seq that was seen and its event, types and other tags of its item."""
        return [
            (
                tag,
                *self.seen[tag],
                None if item.types is None else SEPARATOR.join(item.types),
                SEPARATOR.join(other for other in item.tags if other != tag) or None,
            )
            for item in self.items
            for tag in item.tags
        ]

    def after(self, written: Mapping[str, Seen]) -> Token:
        """As it is once an append has been done on top of it, which has written rows of these tags."""
        return self._replace(seen={tag: written.get(tag, seen) for tag, seen in self.seen.items()})


def read_boundary(tenant_id: str, items: tuple[Item, ...], *, own: bool = False) -> Operation[tuple[Sequence[Row], Token]]:
    """Return the events that match one of the items, in order of position, and what an append on top of them is held to.

    Args:
        tenant_id: whose events.
        items: the question.
        own: whether the connection carries the library's settings for reads; faster.

    Raises:
        InvalidArgument: on a standby, or under REPEATABLE READ or SERIALIZABLE.
        SequenceBehind: the sequence of `seq` lies behind.
    """
    tags = list(dict.fromkeys(tag for item in items for tag in item.tags))
    asked = [SEPARATOR.join(item.tags) for item in items]
    types = [None if item.types is None else SEPARATOR.join(item.types) for item in items]
    rows = yield Statement(_READ_BOUNDARY_OWN if own else _READ_BOUNDARY, (tenant_id, tags, asked, types))
    seen, log = {}, ""
    for seq, tag, _, log, state, event_id, _ in rows[: len(tags)]:
        if state != _READY:
            _refuse(state, log)
        seen[tag] = Seen(seq, event_id)
    return sorted(rows[len(tags) :], key=_position), Token(items, log, seen)


def _refuse(state: int, level: str) -> NoReturn:
    if state == _STANDBY:
        raise InvalidArgument("a decision needs the primary, and this server is a standby")
    if state == _ISOLATED:
        raise InvalidArgument(f"a decision needs READ COMMITTED, and this transaction is {level.upper()}")
    raise SequenceBehind(
        "the sequence event_tags_seq_seq lies behind the tags that were written: a restore left it behind, and decisions would "
        "overlook events. Stop all writers, then run what `eventstore doctor` says, or: "
        "select setval('event_tags_seq_seq', (select max(seq) from event_tags)) in that schema"
    )
