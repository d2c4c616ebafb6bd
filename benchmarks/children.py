"""Processes of the benchmark's own: a module of it, run with a task as a line of JSON on standard input.

The task comes that way since it holds the database's address, and with it maybe a password.
"""

import asyncio
import contextlib
import json
import sys

PIPE_BYTES = 2**24
"""Of one line: a million latencies or so."""


@contextlib.asynccontextmanager
async def child(module, task, *arguments):
    """Run one; it is waited for, and must end well when its standard input ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=PIPE_BYTES,
    )
    process.stdin.write(json.dumps(task).encode() + b"\n")
    await process.stdin.drain()
    try:
        yield process
    finally:
        process.stdin.close()
        if await process.wait():
            raise RuntimeError(f"{module} {' '.join(arguments)} failed: see above")
