"""Is the server, the schema and the way to them what the promises rest on? ``eventstore doctor`` prints it.

::

    report = await examine(EventStore(url))
    if report.level >= Level.WARNING:
        ...

Every finding comes with its cure. Other packages add checks by the entry point group ``eventstore.doctor``.
"""

from .checkup import examine
from .examination import Check, Examination
from .findings import Finding, Level, Report
from .objects import objects_check
from .rights import Need, right_check, roles_check

__all__ = [
    "Check",
    "Examination",
    "Finding",
    "Level",
    "Need",
    "Report",
    "examine",
    "objects_check",
    "right_check",
    "roles_check",
]
