"""Followers of the log: whatever keeps a durable cursor. Projections write read models, exactly once."""

from .daemon import Daemon
from .errors import BatchFailed, HandlerFailed, InvalidProjection, LeaseLost, RowMissing, TableMissing
from .projection import Projection, on
from .rows import Rows
from .runner import Tx
from .status import FollowerStatus, followers

__all__ = [
    "BatchFailed",
    "Daemon",
    "FollowerStatus",
    "HandlerFailed",
    "InvalidProjection",
    "LeaseLost",
    "Projection",
    "RowMissing",
    "Rows",
    "TableMissing",
    "Tx",
    "followers",
    "on",
]
