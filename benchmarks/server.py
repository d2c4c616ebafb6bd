"""The server that everything runs on, and a fresh database for each round of each contest."""

import asyncio
import contextlib
import gc
import shutil
import tempfile
import uuid
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from eventstore import embedded, schema
from eventstore._drivers import urls

from .meter import Meter, parent_of

FILLERS = 2
"""Connections that fill a template: as many as the smallest machine has cores."""


class Server:
    """A PostgreSQL server: a private one with fsync on, or the one at `url` (of a role that may create databases).

    Attributes:
        dsn: of a database on it, for administration.
        owned: whether it is private: then it can be started again with other settings.
        folder: where the private server's data lie; None for another's.
    """

    def __init__(self, url=""):
        self.dsn = url
        self.owned = not url
        self.folder = None
        self.notes = []
        self._embedded = None
        self._settings = {}
        self._template = ""
        self._templates = []

    def __enter__(self):
        """Start the private server."""
        if self.owned:
            self.folder = Path(tempfile.mkdtemp(prefix="pges-bench-"))
            self.folder.chmod(0o711)  # for root: the server runs as somebody else, who must get through
            self._start()
        return self

    def __exit__(self, *_):
        """Stop it and remove its data; leave nothing on another's."""
        if self._templates and not self.owned:
            asyncio.run(self._drop_templates())
        if self._embedded is not None:
            self._embedded.stop()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def restart_with(self, setting, value):
        """Start the private server again with a setting changed."""
        self._settings[setting] = value
        await asyncio.to_thread(self._embedded.stop)
        await asyncio.to_thread(self._start)

    async def execute(self, sql):
        """Run a statement on the administration's database."""
        connection = await connect(self.dsn)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def arena(self, template=""):
        """A fresh, migrated database; or a clone of a template, file by file."""
        name = await self._create(await self._like(template))
        bare = await connect(self._on(name))
        try:
            yield Arena(self, self._on(name), bare, await _postmaster(bare, name))
        finally:
            await bare.close()
            await self._drop(name)

    async def template(self, fill, base=""):
        """Keep a migrated database to clone, or a clone of another template, which `fill` has filled; its name.

        `fill` is given connections to it.
        """
        name = await self._create(await self._like(base))
        self._templates.append(name)
        connections = [await connect(self._on(name)) for _ in range(FILLERS)]
        try:
            await fill(connections)
        finally:
            for connection in connections:
                await connection.close()
        return name

    def too_small(self, needed):
        """Why the private server's disk would not hold so many bytes; empty: it would, or nothing is known of another's."""
        free = shutil.disk_usage(self.folder).free if self.folder else needed
        return f"{needed / 2**30:.1f} GiB of disk are needed, {free / 2**30:.1f} are free" if free < needed else ""

    def note(self, text):
        """Remember, once, what the report must say."""
        if text not in self.notes:
            self.notes.append(text)

    def _start(self):
        self._embedded = embedded.start(self.folder, settings=self._settings)
        self.dsn = self._embedded.dsn

    async def _like(self, template):
        if template:
            return f"template {template} strategy file_copy"  # else every page would be written ahead
        if not self._template:
            self._template = await self._create("")
            self._templates.append(self._template)
            await asyncio.to_thread(schema.migrate, self._on(self._template))
        return f"template {self._template}"

    async def _create(self, how):
        name = f"bench_{uuid.uuid4().hex[:12]}"
        await self.execute(f"create database {name} {how}")
        return name

    async def _drop(self, name):
        await self.execute(f"drop database if exists {name} with (force)")

    async def _drop_templates(self):
        for name in self._templates:
            await self._drop(name)

    def _on(self, name):
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{name}"))


class Arena:
    """One round's database of one contest.

    Attributes:
        dsn: of the database.
        bare: a connection to it, for floors and preparations.
        server: where it is.
        postmaster: process id of the server's first process; None where it cannot be seen.
    """

    def __init__(self, server, dsn, bare, postmaster):
        self.server, self.dsn, self.bare = server, dsn, bare
        self.postmaster = postmaster

    async def settle(self):
        """Before each measurement: write out what earlier ones have left, on both sides."""
        gc.collect()
        try:
            await self.bare.execute("checkpoint")
        except asyncpg.InsufficientPrivilegeError:
            self.server.note("no CHECKPOINT before the measurements: the role may not")

    def meter(self):
        """A meter that has begun."""
        return Meter(self.postmaster)

    def token(self):
        """Text that no other measurement has used, for stream ids."""
        return uuid.uuid4().hex[:8]

    async def connect(self):
        """Another bare connection."""
        return await connect(self.dsn)


async def connect(dsn):
    """A bare connection; no TLS handshake on this machine."""
    return await asyncpg.connect(dsn, ssl=False) if urls.is_local(dsn) else await asyncpg.connect(dsn)


async def _postmaster(connection, database):
    """The server's first process, if it runs on this machine and its processes can be seen: the parent of our backend."""
    backend = await connection.fetchval("select pg_backend_pid()")
    return await asyncio.to_thread(_parent_if_backend, backend, database)


def _parent_if_backend(backend, database):
    try:
        title = Path(f"/proc/{backend}/cmdline").read_text()
    except OSError:
        return None
    return parent_of(backend) if database in title else None
