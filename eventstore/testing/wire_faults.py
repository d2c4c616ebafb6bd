"""What is wrong with a proxied network at the moment. `Proxy` keeps one `Faults`; its links ask it message by message."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from .wire import Message, Rule, To

__all__ = ["Faults", "Strike"]


@dataclass(slots=True)
class Strike:
    """A cut that waits for its message.

    Attributes:
        rule: the message.
        forward: whether the server gets it, and answers, before the cut.
        name: only connections whose application_name contains this.
        once: whether the first such message is the only one.
        count: how often it has struck.
    """

    rule: Rule
    forward: bool
    name: str = ""
    once: bool = True
    count: int = 0
    _struck: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def wait(self, *, seconds: float = 20.0) -> None:
        """Return once it has struck.

        Raises:
            TimeoutError: no connection sent such a message, or the server did not answer it.
        """
        await asyncio.wait_for(self._struck.wait(), seconds)

    def hit(self) -> None:
        """Count a cut; the proxy's links call it."""
        self.count += 1
        self._struck.set()


@dataclass(slots=True)
class Faults:
    """The faults in force, each with the text that the application_name of its connections contains (empty: all).

    Attributes:
        drops: messages that are swallowed.
        holes: directions in which everything is swallowed.
        refused: new connections that are closed at once.
        delays: seconds a message.
        pieces: bytes a write.
        strikes: cuts that wait for their message.
        dropped: how many messages of a direction and type were swallowed by `drops`, ever.
    """

    drops: list[tuple[str, Rule]] = field(default_factory=list)
    holes: list[tuple[str, To]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    delays: list[tuple[str, float]] = field(default_factory=list)
    pieces: list[tuple[str, int]] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    dropped: Counter[tuple[To, str]] = field(default_factory=Counter)
    _moved: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def note(self) -> None:
        """Wake whoever waits for something to be counted."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def changed(self) -> None:
        """Return when something has been counted since."""
        await self._moved.wait()

    def heal(self) -> None:
        """End all of them; the counters stay."""
        for kind in (self.drops, self.holes, self.refused, self.delays, self.pieces, self.strikes):
            kind.clear()

    def drop(self, name: str, message: Message) -> bool:
        """Whether this message is to be swallowed; if so it is counted."""
        if not any(part in name and rule.matches(message) for part, rule in self.drops):
            return False
        self.dropped[message.to, message.type] += 1
        self.note()
        return True

    def swallows(self, name: str, to: To) -> bool:
        """Whether a connection is a black hole in this direction."""
        return any(part in name and way == to for part, way in self.holes)

    def refuses(self, name: str) -> bool:
        """Whether a new connection is to be closed."""
        return any(part in name for part in self.refused)

    def delay(self, name: str) -> float:
        """How many seconds each message of a connection takes."""
        return max((seconds for part, seconds in self.delays if part in name), default=0.0)

    def piece(self, name: str) -> int | None:
        """How many bytes of a connection go out at once; None: as they come."""
        return min((size for part, size in self.pieces if part in name), default=None)

    def strike(self, name: str, message: Message) -> Strike | None:
        """The cut that this message triggers. One that strikes once is used up by it."""
        for strike in self.strikes:
            if strike.name in name and strike.rule.matches(message):
                if strike.once:
                    self.strikes.remove(strike)
                return strike
        return None
