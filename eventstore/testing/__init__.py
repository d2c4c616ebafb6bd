"""For tests of code that uses an event store, and for our own."""

from .schedule import Schedule, Session, Step, Stepper

__all__ = ["Schedule", "Session", "Step", "Stepper"]
