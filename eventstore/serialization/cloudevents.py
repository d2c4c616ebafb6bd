"""Events as CloudEvents 1.0 in JSON, and CloudEvents of other systems as events.

Our event is a CloudEvent so: ``id`` the event id, ``type`` the type, ``subject`` the stream id, ``time`` occurred_at,
``data`` the data. What has no attribute in the specification goes into extension attributes (lower case letters and
digits, at most 20): ``position`` and ``streamversion`` as text, since integers of CloudEvents have 32 bits;
``schemaversion``; ``recordedtime``; ``correlationid``; ``causationid``; of the metadata ``traceparent`` and ``actor``
where they are plain text, and all other metadata as a JSON text in ``eventmeta``; the tags as a JSON array in text,
``eventtags``, since attributes are simple values. Nothing is lost on the way and back.

A CloudEvent of another system has neither ``position`` nor ``streamversion``. Its source, its id where that is no UUID,
its content type where that is not JSON, and every extension besides ``correlationid``, ``traceparent`` and ``eventtags`` are
kept in the metadata under ``cloudevent``. An id that is no UUID becomes one (version 5) of source and id, the pair that identifies a
CloudEvent. ``data_base64`` becomes the document ``{"data_base64": "..."}``; a missing ``data`` becomes null.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md and .../formats/json-format.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from ..errors import InvalidArgument
from ..events import Recorded, UnknownEvent
from ..tags import check_tags

__all__ = ["SOURCE", "ParsedCloudEvent", "attributes_of", "parse_cloudevent", "to_cloudevent"]

SOURCE: Final = "urn:pg-eventstore"
"""What ``source`` says unless told: a URI reference that names no machine."""

NAMESPACE: Final = UUID("b0a1c0de-6f0e-5c1e-8e5d-2c4a7c1f9d10")
"""Ids of CloudEvents that are no UUIDs become UUIDs version 5 in this namespace (RFC 9562, section 5.5)."""

_PLAIN: Final = re.compile("[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
"""Text that an attribute may hold."""

_OF_METADATA: Final = ("traceparent", "actor")
_CORE: Final = {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data", "data_base64"}
_OURS: Final = {"position", "streamversion", "recordedtime", "schemaversion", "causationid", "actor", "eventmeta"}
_SHARED: Final = {"correlationid", "traceparent", "eventtags"}
_JSON: Final = re.compile(r"[^;]*[/+]json\s*(;.*)?", re.IGNORECASE)


class ParsedCloudEvent(NamedTuple):
    """A CloudEvent, checked, in the words of an append; ids and times are still to be checked as those of any line.

    Attributes:
        event_id: a UUID.
        subject: the stream, where it says one.
        attributes: every attribute that is text, for a template of the stream.
        type, schema_version, time, correlation_id, causation_id, metadata: as their names say.
        tags: checked.
    """

    event_id: UUID
    subject: str | None
    attributes: Mapping[str, str]
    type: str
    schema_version: object
    time: object
    correlation_id: object
    causation_id: object
    metadata: Mapping[str, Any]  # any JSON
    tags: tuple[str, ...] = ()


def attributes_of(recorded: Recorded[Any], source: str = SOURCE) -> dict[str, str | int]:
    """Return a stored event as a CloudEvent without its data.

    Args:
        recorded: the event.
        source: a URI reference that names the log.
    """
    metadata = dict(recorded.metadata)
    found: dict[str, str | int | None] = {
        "specversion": "1.0",
        "id": str(recorded.event_id),
        "source": source,
        "type": recorded.type,
        "subject": recorded.stream_id,
        "time": recorded.occurred_at.isoformat(),
        "datacontenttype": "application/json",
        "position": str(recorded.position),
        "streamversion": str(recorded.version),
        "schemaversion": recorded.schema_version,
        "recordedtime": recorded.recorded_at.isoformat(),
        "correlationid": recorded.correlation_id,
        "causationid": None if recorded.causation_id is None else str(recorded.causation_id),
    }
    for name in _OF_METADATA:
        if isinstance(value := metadata.get(name), str) and _PLAIN.fullmatch(value):
            found[name] = metadata.pop(name)
    found["eventmeta"] = json.dumps(metadata) if metadata else None
    found["eventtags"] = json.dumps(tags) if (tags := recorded.tags) else None
    return {name: value for name, value in found.items() if value is not None}


def to_cloudevent(recorded: Recorded[Any], source: str = SOURCE) -> dict[str, Any]:  # any JSON
    """Return a stored event as a CloudEvent, ready for `json.dumps`.

    Args:
        recorded: the event.
        source: a URI reference that names the log.
    """
    event = recorded.data
    data: Any
    if isinstance(event, UnknownEvent):
        data = event.data
    elif isinstance(event, BaseModel):
        data = event.model_dump(mode="json", round_trip=True)
    else:
        data = to_jsonable_python(event)
    return {**attributes_of(recorded, source), "data": data}


def parse_cloudevent(document: Mapping[str, Any]) -> ParsedCloudEvent:  # parsed JSON
    """Return what a CloudEvent says, apart from its data.

    Raises:
        InvalidArgument: it lacks an attribute, or has one of the wrong kind; the message names it.
    """
    if document.get("specversion") != "1.0":
        raise InvalidArgument(f"expected a CloudEvent with specversion '1.0', got {document.get('specversion')!r:.40}")
    for name in ("id", "source", "type"):
        if not isinstance(document.get(name), str) or not document[name]:
            raise InvalidArgument(f"a CloudEvent needs the attribute {name}, text that is not empty")
    if "data" in document and "data_base64" in document:
        raise InvalidArgument("a CloudEvent has data or data_base64, not both")
    subject = document.get("subject")
    if subject is not None and not isinstance(subject, str):
        raise InvalidArgument(f"subject must be text, got {type(subject).__name__}")
    ours = "position" in document and "streamversion" in document
    return ParsedCloudEvent(
        _event_id(document),
        subject,
        {name: value for name, value in document.items() if isinstance(value, str) and name not in ("data", "data_base64")},
        document["type"],
        document.get("schemaversion", 1) if ours else 1,
        document.get("time"),
        document.get("correlationid"),
        document.get("causationid") if ours else None,
        _own_metadata(document) if ours else _foreign_metadata(document),
        _tags(document["eventtags"]) if "eventtags" in document else (),
    )


def _event_id(document: Mapping[str, Any]) -> UUID:
    try:
        return UUID(document["id"])
    except ValueError:
        return uuid5(NAMESPACE, f"{document['source']}\x1f{document['id']}")


def _tags(text: object) -> tuple[str, ...]:
    try:
        tags = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        tags = None
    if not isinstance(tags, list):
        raise InvalidArgument(f"eventtags must be a JSON array of texts as text, got {text!r:.60}")
    return check_tags(tags, "eventtags")


def _own_metadata(document: Mapping[str, Any]) -> dict[str, Any]:
    text = document.get("eventmeta", "{}")
    try:
        metadata = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise InvalidArgument(f"eventmeta must be a JSON object as text, got {text!r:.60}")
    more = {name: value for name, value in document.items() if name not in _CORE | _OURS | _SHARED}
    kept = {name: document[name] for name in _OF_METADATA if name in document}
    return {**metadata, **kept, **({"cloudevent": more} if more else {})}


def _foreign_metadata(document: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in document.items() if name not in _CORE | _SHARED}
    kept["source"] = document["source"]
    if str(_event_id(document)) != document["id"]:
        kept["id"] = document["id"]
    content = document.get("datacontenttype")
    if content is not None and not (isinstance(content, str) and _JSON.fullmatch(content)):
        kept["datacontenttype"] = content
    trace = {"traceparent": document["traceparent"]} if "traceparent" in document else {}
    return {"cloudevent": kept, **trace}
