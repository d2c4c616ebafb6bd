"""The blocking twin: the same store, the same names, the same errors, for code without an event loop (Flask, Django, Celery).

::

    from eventstore.sync import EventStore

    with EventStore("postgresql://...") as store:
        store.append("account-42", AccountOpened(owner="Ada"), expect=0)
        for recorded in store.read_all(after=0):
            ...

One store a process, used from as many threads as you like. A process that forks after opening one needs to do nothing: the
child's store makes connections of its own. See docs/sync.md.
"""

from .boundary import Boundary, Decision
from .readers import LogReader, Subscription
from .store import EventStore
from .transaction import Transaction

__all__ = ["Boundary", "Decision", "EventStore", "LogReader", "Subscription", "Transaction"]
