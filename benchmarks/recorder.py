"""The PostgreSQL recorders of the package eventsourcing, which may not be installed."""

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
        from eventsourcing.postgres import PostgresApplicationRecorder  # noqa: PLC0415 - as above

        self._datastore = _datastore(dsn, connections)
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


class TaggedRecorder:
    """Its `PostgresDCBRecorderTT`, with its defaults: decisions over tags, as its documentation makes them.

    A decision reads the events that match a query, and the head; it appends on condition that none of them has appeared behind
    that head. The append locks the table, looks, inserts and sends a NOTIFY, in one statement.

    Args:
        dsn: of the database.
        connections: in its pool, opened before anything is measured.
    """

    def __init__(self, dsn, connections):
        from eventsourcing.dcb import api  # noqa: PLC0415 - may not be installed
        from eventsourcing.dcb.postgres_tt import PostgresDCBRecorderTT  # noqa: PLC0415 - as above
        from eventsourcing.persistence import IntegrityError  # noqa: PLC0415 - as above

        self._api, self._conflict = api, IntegrityError
        self._datastore = _datastore(dsn, connections)
        self._recorder = PostgresDCBRecorderTT(self._datastore)
        self._recorder.create_table()
        self._datastore.pool.wait()

    def decide(self, tags, decide):
        """Read the events that have one of the tags; append what `decide` makes of their data; again after a conflict.

        Args:
            tags: of the query, joined by OR.
            decide: is given the data of the events; returns type, data and tags of one event.
        """
        query = self._api.DCBQuery([self._api.DCBQueryItem(tags=[tag]) for tag in tags])
        while True:
            found = self._recorder.read(query)
            event = self._api.DCBEvent(*decide([one.event.data for one in found]))
            try:
                self._recorder.append([event], self._api.DCBAppendCondition(query, after=found.head))
            except self._conflict:
                continue
            return

    def close(self):
        """Close its connections."""
        self._datastore.close()


def _datastore(dsn, connections):
    from eventsourcing.postgres import PostgresDatastore  # noqa: PLC0415 - may not be installed

    address = conninfo_to_dict(dsn)
    return PostgresDatastore(
        address["dbname"],
        address.get("host", ""),
        address.get("port", "5432"),
        address.get("user", ""),
        address.get("password", ""),
        pool_size=connections,
    )
