"""For tests of code that uses an event store, and for our own."""

from .faults import Strike
from .link import Link
from .proxy import Proxy
from .schedule import Schedule, Session, Step, Stepper
from .wire import COMMIT, Message, Rule

__all__ = ["COMMIT", "Link", "Message", "Proxy", "Rule", "Schedule", "Session", "Step", "Stepper", "Strike"]
