"""Typed events to JSON and back: a registry of types, and a codec for each."""

from .json import EncodedEvent, EventType, encode_json
from .registry import Registry, Unknown

__all__ = ["EncodedEvent", "EventType", "Registry", "Unknown", "encode_json"]
