"""A JSON object taken apart without losing how its values are written.

PostgreSQL's jsonb keeps the digits of a number as they stand (1.50 stays 1.50), and taking a value's text out of a line
costs less than writing it again. Everything is parsed nevertheless: what `parse_exact_json` refuses is refused here.
"""

from __future__ import annotations

import json
import re
from types import NoneType
from typing import Any, Final, NamedTuple

import pydantic_core

from ..errors import InvalidArgument
from .json import EXACT_JSON, parse_exact_json

__all__ = ["Member", "flat_object", "member_of", "members_of"]

_NAME: Final = re.compile(r'"((?:[^"\\\x00-\x1f]|\\.)*+)"[ \t\n\r]*:[ \t\n\r]*')
_BEHIND: Final = re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*")
_OPEN: Final = re.compile(r"\{[ \t\n\r]*")
_SPACES: Final = str.maketrans("\t\n\r", "   ")

_PLAIN: Final = frozenset({str, int, bool, NoneType})
"""Values that come back as they are written, whatever parser reads them."""

_parse: Final = pydantic_core.from_json


class Member(NamedTuple):
    """One member of an object.

    Attributes:
        value: as parsed.
        text: as it is written, on one line: white space between tokens may have become spaces.
    """

    value: Any  # any JSON
    text: str


def members_of(text: str) -> dict[str, Member]:
    """Return the members of the JSON object that `text` is, in order.

    Raises:
        ValueError: no JSON, a number that a float does not keep, a key that stands twice.
        InvalidArgument: no object.
    """
    members: dict[str, Member] = {}
    found = _OPEN.match(text)
    while found is not None and (name := _NAME.match(text, found.end())) is not None:
        key = name[1] if "\\" not in name[1] else json.loads(f'"{name[1]}"')
        value, end = EXACT_JSON.raw_decode(text, name.end())
        if key in members:
            raise ValueError(f"the key {key!r} stands twice in one object")
        members[key] = Member(value, text[name.end() : end].translate(_SPACES))
        found = _BEHIND.match(text, end)
        if found is not None and found[1] == "}":
            found = None if found.end() < len(text) else found
            break
    if found is not None and members:
        return members
    value = parse_exact_json(text)  # says what is wrong with it
    if not isinstance(value, dict):
        raise InvalidArgument(f"expected a JSON object, got {type(value).__name__}")
    return {key: Member(one, json.dumps(one)) for key, one in value.items()}


def member_of(text: str) -> Member:
    """Return the JSON value that `text` is.

    Raises:
        ValueError: as `members_of`.
    """
    return Member(parse_exact_json(text), text.strip(" \t\n\r").translate(_SPACES))


def flat_object(text: str, key: str) -> tuple[dict[str, Any], str] | None:
    """Return the object that `text` is, and the text of its member `key`; None: take it apart by `members_of`.

    Answers only for what is surely right, at an eighth of the price: `key` holds an object of plain values, there is no
    other brace and no backslash (so that the text between the inner braces is that object), and as many names as keys (so
    that none stands twice).
    """
    begin = text.find("{", 1)
    end = text.find("}") + 1
    if text.find("{", begin + 1) > 0 or text.find("}", end) != len(text) - 1 or "\\" in text or '" :' in text:
        return None
    try:
        outer = _parse(text, allow_inf_nan=False)
        inner = outer[key]
        if type(inner) is not dict or not _PLAIN.issuperset(map(type, inner.values())):
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if text.count('":') != len(outer) + len(inner) or "\t" in text or "\r" in text or "\n" in text:
        return None
    return outer, text[begin:end]
