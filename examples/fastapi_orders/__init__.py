"""Orders over HTTP: a row and an event in one transaction, with FastAPI, SQLAlchemy and asyncpg."""
