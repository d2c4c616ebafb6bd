"""A network that a test breaks: a proxy between clients and PostgreSQL that knows where a message begins and ends.

::

    async with Proxy(dsn) as proxy, EventStore(proxy.url) as store:
        proxy.drop("A", name="listen")  # notifications get lost; the rest goes on
        strike = proxy.cut_when(COMMIT, forward=True)  # the server commits, the client is not told
        ...
        proxy.heal()

A fault holds for connections whose application_name contains `name` (empty: for all), those that are open and those to come, until
`heal`. Nothing is left to chance: what is cut, and when, is decided message by message, and a test waits for what the
proxy has counted, never for time to pass.

**Authority.** The faults; each link asks them before it passes a message on. **Tasks.** One a link, with two pumps; all end with
the context. **Failure.** A side that hangs up ends its link; the other side is told, unless a black hole lies between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import PurePosixPath
from types import TracebackType
from typing import Final, Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from .._drivers import urls
from .link import Link, Side, close
from .wire import Opening, Rule, To, read_opening
from .wire_faults import Faults, Strike

__all__ = ["Proxy"]

LIMIT: Final = 2**16
"""Bytes that a link holds in each direction before the sender has to wait; a longer message is held as a whole."""

_UPSTREAM: Final = ("host", "hostaddr", "port", "gssencmode", "requiressl", "channel_binding", "target_session_attrs")


class Proxy:
    """A proxy in front of one server, as an async context manager.

    Args:
        dsn: a libpq URL with one host: a name, an address or the folder of a unix socket (default: localhost). The
            server is spoken to without encryption.

    Attributes:
        url: for clients: the same user, password, database and options, on a port of 127.0.0.1, without encryption.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = urls.to_libpq(dsn)
        self._faults = Faults()
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: Exception | None = None
        self._listener: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Proxy:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=LIMIT)
        self.url = _client_url(self._dsn, self._listener.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.wait_closed()
        if self._failed is not None and error is None:
            raise self._failed

    def drop(self, types: str, *, to: To = "client", name: str = "") -> None:
        """Swallow messages of these types: "A" to the client are notifications. Nothing else is touched."""
        self._faults.drops.append((name, Rule(to, types)))

    def black_hole(self, name: str = "", *, to: To | Literal["both"] = "both") -> None:
        """Swallow everything, in one direction or both, and close nothing: a half-open connection.

        Whoever hangs up is not heard on the other side. A connection that has lost a message stays lost in that direction
        after `heal`; one that was silent meanwhile comes back. New connections get no answer.
        """
        ways: tuple[To, ...] = ("client", "server") if to == "both" else (to,)
        self._faults.holes.extend((name, way) for way in ways)

    def refuse(self, name: str = "") -> None:
        """Close new connections at once. With a name they are closed when they have said theirs."""
        self._faults.refused.append(name)

    def cut(self, name: str = "") -> int:
        """Reset the connections that are open now; return how many they were. Both sides find theirs aborted."""
        links = self.links(name)
        for link in links:
            link.cut()
            self._links.discard(link)
        return len(links)

    def cut_when(self, rule: Rule, *, forward: bool, name: str = "", once: bool = True) -> Strike:
        """Reset a connection when a message comes by.

        Args:
            rule: which message.
            forward: False: the message is not delivered. True: it is. If it goes to the server, then so is all that the client
                sends with it, and the cut comes when the server has answered to the end (ReadyForQuery), of which
                nothing is delivered. So a COMMIT has taken effect and the client has not heard of it. Answers owed to
                earlier requests are delivered.
            name: only of these connections.
            once: only the first time.

        Returns:
            What to wait for.

        A COPY FROM by the extended protocol, which sends one Sync too many, is miscounted on its connection.
        """
        strike = Strike(rule, forward, name, once)
        self._faults.strikes.append(strike)
        return strike

    def slow(self, seconds: float, *, name: str = "") -> None:
        """Hold up each message for so long, one after the other: a row is a message too."""
        self._faults.delays.append((name, seconds))

    def chunk(self, size: int, *, name: str = "") -> None:
        """Send at most `size` bytes at once. A byte takes some 10 us."""
        self._faults.pieces.append((name, size))

    def heal(self) -> None:
        """End all faults, cuts that have not come yet included. What was lost stays lost (`black_hole`)."""
        self._faults.heal()

    def links(self, name: str = "") -> list[Link]:
        """The sessions that are open, whether or not the server has let them in."""
        return [link for link in self._links if name in link.application_name]

    def dropped(self, types: str, *, to: To = "client") -> int:
        """How many messages of these types `drop` has swallowed, ever."""
        return sum(self._faults.dropped[to, letter] for letter in types)

    async def wait_until(self, condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
        """Return once `condition`, of what the proxy counts, is true.

        Raises:
            TimeoutError: it does not become so.
        """
        async with asyncio.timeout(seconds):
            while not condition():
                await self._faults.changed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve((reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: Side) -> None:
        server: Side | None = None
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if self._faults.refuses(""):
                    return
                opening = await read_opening(*client)
                if self._faults.refuses(opening.application_name):
                    return
                server = await self._dial()
                if opening.cancels:
                    await self._cancel(opening, server)
                else:
                    await self._run(Link(opening, client, server, self._faults))
        except Exception as error:  # ours: what a network does is an OSError
            self._failed = self._failed or error
        finally:
            await asyncio.gather(*(close(side[1]) for side in (client, server) if side is not None))

    async def _run(self, link: Link) -> None:
        self._links.add(link)
        self._faults.note()
        try:
            await link.run()
        finally:
            self._links.discard(link)
            self._faults.note()

    async def _cancel(self, opening: Opening, server: Side) -> None:
        """Forward a cancel request; it goes the way of the session that it is about."""
        name = next((link.application_name for link in self._links if link.pid == opening.cancels), "")
        if self._faults.swallows(name, "server"):
            await asyncio.Event().wait()
        server[1].write(opening.raw)
        await server[0].read()  # until the server hangs up: that is its answer

    async def _dial(self) -> Side:
        parts = urlsplit(self._dsn)
        query = dict(parse_qsl(parts.query))
        host = query.get("host") or parts.hostname or "localhost"
        port = int(query.get("port") or parts.port or 5432)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(PurePosixPath(host) / f".s.PGSQL.{port}", limit=LIMIT)
        return await asyncio.open_connection(host, port, limit=LIMIT)


def _client_url(dsn: str, port: int) -> str:
    parts = urlsplit(dsn)
    credentials, at, _ = parts.netloc.rpartition("@")
    query = [(key, value) for key, value in parse_qsl(parts.query) if key not in _UPSTREAM and not key.startswith("ssl")]
    text = urlencode([*query, ("sslmode", "disable")], safe="/", quote_via=quote)
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{port}", query=text))
