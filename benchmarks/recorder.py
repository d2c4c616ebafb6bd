"""The PostgreSQL recorder of the package eventsourcing, which may not be installed."""

import importlib.util

from psycopg.conninfo import conninfo_to_dict


def missing():
    """Why it cannot take part; empty: it can."""
    if importlib.util.find_spec("eventsourcing"):
        return ""
    return "the package eventsourcing is not installed (`make bench` installs it)"


class Recorder:
    """Its `PostgresApplicationRecorder`, on tables of its own in the same database, with its defaults.

    That is the one which orders its log, as ours is ordered: each insert locks the table and sends a NOTIFY. The events have
    the same JSON as ours; id, version, topic and those bytes are what its table holds.

    Args:
        dsn: of the database.
        connections: in its pool, opened before anything is measured.
    """

    def __init__(self, dsn, connections):
        from eventsourcing.persistence import StoredEvent  # noqa: PLC0415 - may not be installed
        from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore  # noqa: PLC0415 - as above

        address = conninfo_to_dict(dsn)
        self._datastore = PostgresDatastore(
            address["dbname"],
            address.get("host", ""),
            address.get("port", "5432"),
            address.get("user", ""),
            address.get("password", ""),
            pool_size=connections,
        )
        self._recorder = PostgresApplicationRecorder(self._datastore)
        self._recorder.create_table()
        self._datastore.pool.wait()
        self._stored_event = StoredEvent

    def insert(self, stream_id, version, data):
        """Insert one event, in a transaction of its own."""
        self._recorder.insert_events([self._stored_event(stream_id, version, "sample:Deposited", data.encode())])

    def close(self):
        """Close its connections."""
        self._datastore.close()
