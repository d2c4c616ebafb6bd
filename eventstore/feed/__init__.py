"""The feed: everything in the log, in order, without ever passing an event that may still become visible."""

from .frontier import Frontier
from .readers import Batch, LogReader, Subscription
from .wakeups import WakeUps

__all__ = ["Batch", "Frontier", "LogReader", "Subscription", "WakeUps"]
