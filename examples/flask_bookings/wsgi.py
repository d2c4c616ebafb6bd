"""What a WSGI server loads: ``gunicorn --preload examples.flask_bookings.wsgi:app``.

With ``--preload`` this runs once, before the workers are forked. Nothing has to be opened again in them: a worker's store makes
connections of its own, and SQLAlchemy is told to do the same.
"""

import atexit
import os

from sqlalchemy import create_engine

from eventstore.sync import EventStore

from .app import create_app
from .models import EVENTS

__all__ = ["app"]

store = EventStore(os.environ.get("EVENTSTORE_URL", "embedded:"), events=EVENTS, migrate=True).open()
atexit.register(store.close)
engine = create_engine(store.dsn.replace("postgresql:", "postgresql+psycopg:", 1))
os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))
app = create_app(store, engine)
