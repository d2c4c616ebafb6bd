"""One proxied connection: two pumps, each carrying whole messages one way, and what they do to them.

**States.** Live; a black hole in one direction or both, for ever once it has swallowed a message there, since a stream with a gap is
none; ended, when a side hung up (nobody hears that through a black hole) or the link was cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

from .wire import Message, Opening, To, read_message
from .wire_faults import Faults, Strike

__all__ = ["Link", "Side", "close"]

Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]

FLUSH_SECONDS: Final = 2.0
"""How long a side may take to read its last bytes once the other has hung up."""

FINE: Final = 256
"""How many pieces of a message are handed over one by one; after that the reader is let in every so many."""


class Link:
    """A session between a client and the server. Made by `Proxy`, found by `Proxy.links`."""

    def __init__(self, opening: Opening, client: Side, server: Side, faults: Faults) -> None:
        self._opening = opening
        self._sides: dict[To, Side] = {"client": client, "server": server}
        self._faults = faults
        self._pid: int | None = None
        self._asked = 1  # ReadyForQuery that are owed in all; the first follows the start-up
        self._answered = 0
        self._withheld: tuple[Strike, int] | None = None  # answers from this one on are not delivered
        self._lost: set[To] = set()
        self._hung_up: set[To] = set()

    @property
    def application_name(self) -> str:
        """As the client gave it when it connected."""
        return self._opening.application_name

    @property
    def pid(self) -> int | None:
        """The server process; None: the server has not said so yet."""
        return self._pid

    async def run(self) -> None:
        """Carry messages until a side hangs up or the link is cut."""
        pumps = [asyncio.ensure_future(self._pump("server", self._opening.raw)), asyncio.ensure_future(self._pump("client"))]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def cut(self) -> None:
        """Reset both connections; what was on its way is lost."""
        for _, writer in self._sides.values():
            if not writer.is_closing():
                _reset(writer)

    async def _pump(self, to: To, opening: bytes = b"") -> None:
        """Carry messages one way. Returns when the link is to end."""
        sender: To = "client" if to == "server" else "server"
        with contextlib.suppress(OSError):
            if opening and not self._is_lost(to):
                await self._send(to, opening)
            while (message := await read_message(self._sides[sender][0], to)) is not None:
                if not await self._pass(message):
                    return
        self._hung_up.add(sender)
        if (to in self._lost or self._faults.swallows(self.application_name, to)) and len(self._hung_up) == 1:
            await asyncio.Event().wait()  # through a black hole nobody hears it; the other pump ends the link

    async def _pass(self, message: Message) -> bool:
        """Do to one message what is to be done; return whether the link goes on."""
        name = self.application_name
        if seconds := self._faults.delay(name):
            await asyncio.sleep(seconds)
        if self._is_lost(message.to):
            return True
        if message.to == "client" and self._withheld is not None and self._answered + 1 >= self._withheld[1]:
            return not (message.is_ready and self._struck(self._withheld[0]))
        if self._faults.drop(name, message):
            self._answered += message.is_ready
            return True
        strike = self._faults.strike(name, message)
        if strike is not None and not strike.forward:
            return not self._struck(strike)
        if strike is not None and message.to == "server":
            self._withheld = strike, self._asked + 1
        self._count(message)
        await self._send(message.to, message.raw)
        return strike is None or message.to == "server" or not self._struck(strike)

    def _is_lost(self, to: To) -> bool:
        if self._faults.swallows(self.application_name, to):
            self._lost.add(to)
        return to in self._lost

    def _struck(self, strike: Strike) -> bool:
        if strike.forward:
            self._sides["client"][1].close()  # a reset would take back what the client has not read yet
        self.cut()
        strike.hit()
        return True

    def _count(self, message: Message) -> None:
        self._asked += message.is_request
        self._answered += message.is_ready
        if message.to == "client" and message.type == "K":
            self._pid = int.from_bytes(message.body[:4], "big")

    async def _send(self, to: To, raw: bytes) -> None:
        writer = self._sides[to][1]
        size = self._faults.piece(self.application_name) or len(raw)
        for n, start in enumerate(range(0, len(raw), size)):
            writer.write(raw[start : start + size])
            await writer.drain()
            if size < len(raw) and (n < FINE or n % FINE == 0):
                await asyncio.sleep(0)  # so that a client in this process sees the pieces


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, giving the peer a moment to read the rest."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), FLUSH_SECONDS)
    writer.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    if found is not None and found.family == socket.AF_INET and found.fileno() >= 0:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with RST
    writer.transport.abort()
