"""The frontend/backend protocol as far as a proxy must know it: where a message ends, and of what type it is.

A connection begins with requests without a type: SSLRequest and GSSENCRequest, answered by one byte; then a CancelRequest,
after which the server hangs up, or a StartupMessage. From there on each message, both ways, is one type byte, an int32
length that counts itself, and a body.

Source: PostgreSQL manual, "Frontend/Backend Protocol", sections "Message Flow" and "Message Formats".
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["COMMIT", "Message", "Opening", "Rule", "To", "read_message", "read_opening"]

To = Literal["client", "server"]
"""Where a message goes."""

_CANCEL: Final = 80877102
_ENCRYPT: Final = (80877103, 80877104)
"""SSLRequest and GSSENCRequest."""

_ANSWERED: Final = "QSF"
"""Query, Sync and FunctionCall: the server answers each with one ReadyForQuery."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as it was read.

    Attributes:
        to: where it goes.
        type: its letter.
        raw: all its bytes, with type and length.
    """

    to: To
    type: str
    raw: bytes

    @property
    def body(self) -> bytes:
        """What follows the length."""
        return self.raw[5:]

    @property
    def is_request(self) -> bool:
        """Whether the server will say ReadyForQuery to it."""
        return self.to == "server" and self.type in _ANSWERED

    @property
    def is_ready(self) -> bool:
        """Whether it is the server's ReadyForQuery."""
        return self.to == "client" and self.type == "Z"


@dataclass(frozen=True, slots=True)
class Rule:
    """Which messages are meant.

    Attributes:
        to: where they go: "server" means that the client has sent them.
        types: the letters of their types, such as "QP"; empty: any. The two directions use the same letters for
            different things.
        contains: bytes that are in their bodies, with the case that they have there.
    """

    to: To
    types: str = ""
    contains: bytes = b""

    def matches(self, message: Message) -> bool:
        """Whether `message` is one of them."""
        return (
            message.to == self.to
            and (not self.types or message.type in self.types)
            and (not self.contains or self.contains in message.raw[5:])
        )


COMMIT: Final = Rule("server", "QP", b"COMMIT")
"""A client's COMMIT, as a simple query (asyncpg, psycopg) or in the extended protocol (psycopg's pipelines). An append that is
one statement has none: the server commits it at Sync; ``Rule("server", "B", b"append")`` or the like finds it."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The first message that says what a connection is for.

    Attributes:
        raw: all its bytes.
        application_name: of a session; empty where it gave none.
        cancels: the process whose statement is to be cancelled; None: it is a session.
    """

    raw: bytes
    application_name: str = ""
    cancels: int | None = None


async def read_opening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Opening:
    """Read a new connection up to its opening. Requests for encryption are answered with a no.

    Raises:
        OSError, IncompleteReadError: the client is gone.
    """
    while True:
        head = await reader.readexactly(8)
        length, code = struct.unpack("!ii", head)
        raw = head + await reader.readexactly(length - 8)
        if code == _CANCEL:
            return Opening(raw, cancels=struct.unpack_from("!i", raw, 8)[0])
        if code not in _ENCRYPT:
            words = raw[8:].split(b"\0")
            given = dict(zip(words[::2], words[1::2], strict=False))
            return Opening(raw, given.get(b"application_name", b"").decode(errors="replace"))
        writer.write(b"N")
        await writer.drain()


async def read_message(reader: asyncio.StreamReader, to: To) -> Message | None:
    """Read one message; None: the sender has hung up, politely or not, perhaps amid a message."""
    try:
        head = await reader.readexactly(5)
        body = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
    except (OSError, asyncio.IncompleteReadError):
        return None
    return Message(to, chr(head[0]), head + body)
