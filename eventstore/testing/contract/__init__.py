"""What any event store must do, as tests that run on yours.

::

    from eventstore.testing.contract import EVENTS, StoreContract

    class TestMyStore(StoreContract):
        @pytest.fixture
        async def store(self):
            async with MyStore(..., events=EVENTS) as store:
                yield store

The tests are async methods that take `store`: pytest with pytest-asyncio runs them (in its mode "auto", or with
``pytestmark = pytest.mark.asyncio``); nothing here imports either. They need no empty database: each uses streams of
its own and reads the log from where it found it. They want it for themselves, though: nobody else may append meanwhile.
Let pytest rewrite their assertions in your conftest.py, before anything imports them::

    pytest.register_assert_rewrite("eventstore.testing.contract")

What a store offers is said by what its test class inherits. `StoreContract` is what every store must do: appends
(`AppendContract`), reads (`ReadContract`), races (`RaceContract`) and transactions (`CommitContract`,
`TransactionReadContract`). Beyond it: `RepeatContract` and `RepeatInTransactionContract` (a request that comes again),
`CallOrderContract` (appends of one stream keep the order of their calls), `DecideContract` and `DecideInTransactionContract`
(tags, and decisions over a boundary). Whoever joins transactions of a caller's own inherits `TransactionReadContract` alone
and overrides `begin`.
"""

from .appending import AppendContract
from .deciding import DecideContract, DecideInTransactionContract
from .kit import EVENTS, Deposited, Enrolled, Everything, Noted, Opened, Store, Tx
from .racing import CallOrderContract, RaceContract
from .reading import ReadContract
from .repeating import RepeatContract, RepeatInTransactionContract
from .transactions import CommitContract, TransactionContract, TransactionReadContract

__all__ = [
    "EVENTS",
    "AppendContract",
    "CallOrderContract",
    "CommitContract",
    "DecideContract",
    "DecideInTransactionContract",
    "Deposited",
    "Enrolled",
    "Everything",
    "Noted",
    "Opened",
    "RaceContract",
    "ReadContract",
    "RepeatContract",
    "RepeatInTransactionContract",
    "Store",
    "StoreContract",
    "TransactionContract",
    "TransactionReadContract",
    "Tx",
]


class StoreContract(AppendContract, ReadContract, RaceContract, CommitContract, TransactionReadContract):
    """What every store must do. Needs a fixture `store`: open, and knowing `EVENTS`."""
