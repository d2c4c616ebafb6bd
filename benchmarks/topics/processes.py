"""One event an append, from 1, 2 and 4 client processes at once, each with a store of its own and 32 callers.

The work is that of the topic `append`; pgbench has as many clients as all processes together have callers.
"""

import functools

from .. import pgbench, writer
from ..core import OURS, Contest, Contestant
from .append import raw

PROCESSES = (1, 2, 4)
CALLERS = 32


def contests(scale):
    """One contest for each number of processes."""
    for processes in PROCESSES:
        yield Contest(
            topic="processes",
            key=f"processes.{processes}",
            title=f"one event an append, {processes} process{'es' if processes > 1 else ''} of {CALLERS} callers",
            contestants=(
                Contestant(OURS, functools.partial(ours, processes=processes)),
                Contestant("pgbench", functools.partial(raw, clients=processes * CALLERS), pgbench.missing),
            ),
            size=scale.pick(4.0, 0.3),
            warmup=scale.pick(0.5, 0.1),
        )


async def ours(arena, seconds, processes):
    """`EventStore.append` in each process; what they did together."""
    return writer.summed(await writer.together(arena, "own", processes, CALLERS, seconds))
