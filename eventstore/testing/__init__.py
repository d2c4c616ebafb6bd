"""For tests of code that uses an event store, and for our own."""

from .blocking import Awaitable
from .link import Link
from .memory import MemoryStore, MemoryTransaction
from .proxy import Proxy
from .schedule import Schedule, Session, Step, Stepper
from .wire import COMMIT, Message, Rule
from .wire_faults import Strike

__all__ = [
    "COMMIT",
    "Awaitable",
    "Link",
    "MemoryStore",
    "MemoryTransaction",
    "Message",
    "Proxy",
    "Rule",
    "Schedule",
    "Session",
    "Step",
    "Stepper",
    "Strike",
]
