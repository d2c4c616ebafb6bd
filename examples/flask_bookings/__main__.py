"""``python -m examples.flask_bookings``: gunicorn with two workers, forked from a process whose store is open, on PORT (8000)."""

import os
import runpy
import sys

bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
sys.argv[1:] = [
    "--preload",
    "--workers=2",
    "--threads=4",
    f"--bind={bind}",
    *sys.argv[1:],
    "examples.flask_bookings.wsgi:app",
]
runpy.run_module("gunicorn", run_name="__main__", alter_sys=True)
