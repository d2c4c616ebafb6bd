"""Adapters for psycopg, for whatever we send and read, that no statement would survive. Imports nothing of ours."""

import uuid
from datetime import datetime

import psycopg
from psycopg.adapt import Dumper, Loader


class LoudText(Dumper):
    def dump(self, obj):
        return f"<{obj}>".encode()


class Garbage(Loader):
    def load(self, data):
        return f"garbage {bytes(data)!r}"


class BinaryGarbage(Garbage):
    format = psycopg.pq.Format.BINARY


def make_hostile(context):
    """Register adapters for whatever we send and read that no statement would survive."""
    for kind in (str, int, uuid.UUID, datetime, list, bool, type(None)):
        context.adapters.register_dumper(kind, LoudText)
    for name in ("text", "int4", "int8", "bool", "uuid", "bytea", "timestamptz", "jsonb", "text[]"):
        info = psycopg.adapters.types[name.removesuffix("[]")]
        oid = info.array_oid if name.endswith("[]") else info.oid
        context.adapters.register_loader(oid, Garbage)
        context.adapters.register_loader(oid, BinaryGarbage)
