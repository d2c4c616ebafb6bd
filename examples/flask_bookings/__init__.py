"""Bookings of rooms over HTTP, without an event loop: Flask, SQLAlchemy and psycopg, under servers that fork."""
