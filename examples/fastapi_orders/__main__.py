"""``python -m examples.fastapi_orders``: serve on PORT (8000)."""

import os

import uvicorn

from .app import create_app

uvicorn.run(create_app(), port=int(os.environ.get("PORT", "8000")))
