"""Typed events to JSON and back: a registry of types, and a codec for each."""

from .json import NO_METADATA, EncodedEvent, EventType, decode_metadata, encode_json
from .registry import Registry, Unknown

__all__ = ["NO_METADATA", "EncodedEvent", "EventType", "Registry", "Unknown", "decode_metadata", "encode_json"]
