"""For tests of code that uses an event store, and for our own."""

from .link import Link
from .proxy import Proxy
from .schedule import Schedule, Session, Step, Stepper
from .wire import COMMIT, Message, Rule
from .wire_faults import Strike

__all__ = ["COMMIT", "Link", "Message", "Proxy", "Rule", "Schedule", "Session", "Step", "Stepper", "Strike"]
