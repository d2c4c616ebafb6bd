"""Tags: what an event is about, besides the stream that it stands in.

A tag is text of 1 to 255 bytes, by convention ``<name>:<value>``. Events carry those that their class declares::

    class Enrolled(Event):
        course_id: Annotated[str, Tag("course")]
        student_id: Annotated[int, Tag("student")]

and those of `NewEvent(tags=...)`. Decisions (`eventstore.boundary`) and readers ask for them.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Final, get_args, get_origin
from uuid import UUID

from .errors import InvalidArgument, InvalidEvent
from .streams import check_name

__all__ = ["Tag", "Tagger", "check_tags", "tagger_of"]

Tagger = Callable[[Any], tuple[str, ...]]
"""Gives the tags that an event's class declares."""

_CONTAINERS: Final = (list, tuple, set, frozenset)


@dataclass(frozen=True, slots=True)
class Tag:
    """Marks a field whose value is a tag of its event: ``course_id: Annotated[str, Tag("course")]``.

    The value is a str, an int, a UUID or an Enum; None is no tag; of a list, tuple or set each element is one.

    Attributes:
        name: what the value is of; text without a colon.
    """

    name: str

    def of(self, value: object) -> str:
        """Return the tag of a value: ``Tag("course").of(42) == "course:42"``.

        Raises:
            InvalidArgument: the value cannot be a tag's.
        """
        return check_name(f"{self.name}:{_text(value, self.name)}", "a tag")


def check_tags(tags: object, what: str) -> tuple[str, ...]:
    """Return tags, each once, in order.

    Raises:
        InvalidArgument: not a sequence of texts that can be tags.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidArgument(f"{what} must be a sequence of tags, got {tags!r:.80}; write tags=['course:1']")
    return tuple(dict.fromkeys(check_name(tag, "a tag") for tag in tags))


def tagger_of(cls: type) -> Tagger | None:
    """Return what gives the tags of a class's instances; None: it declares none.

    Raises:
        InvalidEvent: a tag's name is none.
    """
    fields = [(name, tag) for name, annotation in _annotations(cls) for tag in _tags_in(annotation)]
    if not fields:
        return None
    for name, tag in fields:
        if not isinstance(tag.name, str) or not tag.name or ":" in tag.name:
            raise InvalidEvent(
                f"field {name!r} of {cls.__qualname__} has a Tag whose name is {tag.name!r}: expected text without a colon"
            )

    def tags(event: object) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tag.of(value) for name, tag in fields for value in _values(getattr(event, name))))

    return tags


def _annotations(cls: type) -> Iterator[tuple[str, Any]]:
    """Give the fields of a model or dataclass with their annotations, `Annotated` included."""
    if (fields := getattr(cls, "model_fields", None)) is not None:
        for name, field in fields.items():
            yield name, Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    elif dataclasses.is_dataclass(cls):
        yield from typing.get_type_hints(cls, include_extras=True).items()


def _tags_in(annotation: Any) -> Iterator[Tag]:  # any annotation
    if get_origin(annotation) is Annotated:
        yield from (extra for extra in annotation.__metadata__ if isinstance(extra, Tag))
        annotation = annotation.__origin__
    for part in get_args(annotation):
        yield from _tags_in(part)


def _values(value: object) -> Sequence[object]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, _CONTAINERS) else (value,)


def _text(value: object, name: str) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool) or not isinstance(value, str | int | UUID):
        raise InvalidArgument(f"the tag {name!r} needs a str, an int, a UUID or an Enum of them, got {value!r:.80}")
    return str(value)
