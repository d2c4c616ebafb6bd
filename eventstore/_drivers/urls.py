"""Database addresses in all the shapes that users have, as one: a libpq URL."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from ..errors import InvalidUrl

__all__ = ["cache_size", "is_local", "redacted", "to_libpq", "to_sqlalchemy"]

_SCHEMES: Final = ("postgresql", "postgres")
_CACHE_SIZE: Final = "statement_cache_size"
_SQLALCHEMY_ONLY: Final = ("prepared_statement_cache_size", "prepared_statement_name_func", "async_fallback")


def to_libpq(url: object) -> str:
    """Return a ``postgresql://`` URL that libpq, asyncpg and psycopg understand.

    Args:
        url: such a URL, one with SQLAlchemy's ``+driver``, a SQLAlchemy ``URL``, or a (sync or async) ``Engine``.

    Raises:
        InvalidUrl: anything else; a password in it is not repeated.
    """
    text = _text_of(url)
    scheme, separator, _rest = text.partition("://")
    if not separator or scheme.partition("+")[0] not in _SCHEMES:
        found = f"one that begins with {scheme}://" if separator else "none with a scheme"
        raise InvalidUrl(
            f"expected a URL like postgresql://user:password@host:5432/database or embedded:./folder, got {found}"
        )
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise InvalidUrl(f"the URL's host or port cannot be understood: {error}") from None
    query = [("sslmode" if name == "ssl" else name, value) for name, value in parse_qsl(parts.query)]
    query = [(name, value) for name, value in query if name not in (*_SQLALCHEMY_ONLY, _CACHE_SIZE)]
    return urlunsplit(("postgresql", parts.netloc, parts.path or "/", urlencode(query, safe="/", quote_via=quote), ""))


def cache_size(url: object) -> int | None:
    """Return what the URL, in any shape that `to_libpq` takes, says about prepared statements: ``statement_cache_size=0`` keeps
    none, for a pooler; None: nothing.

    Raises:
        InvalidUrl: another number than 0.
    """
    query = parse_qsl(urlsplit(_text_of(url)).query, keep_blank_values=True)
    given = [value for name, value in query if name == _CACHE_SIZE]
    if given and given[-1] != "0":
        raise InvalidUrl(f"statement_cache_size in a URL must be 0 (behind a pooler such as PgBouncer), got {given[-1]!r}")
    return 0 if given else None


def _text_of(url: Any) -> str:  # whatever the user passed
    if isinstance(url, str):
        return url
    url = getattr(url, "url", url)  # an Engine or AsyncEngine
    if hasattr(url, "render_as_string"):  # sqlalchemy.URL, recognised without importing SQLAlchemy
        return str(url.render_as_string(hide_password=False))
    raise InvalidUrl(f"expected a database URL, a sqlalchemy URL or engine, or an asyncpg pool, got {type(url).__name__}")


def to_sqlalchemy(dsn: str) -> str:
    """Return the libpq URL `dsn` for SQLAlchemy with psycopg."""
    return "postgresql+psycopg://" + dsn.removeprefix("postgresql://")


def redacted(url: str) -> str:
    """Return `url` without its password, for messages and logs."""
    parts = urlsplit(url)
    secret = [(name, "***" if name in ("password", "sslpassword") else value) for name, value in parse_qsl(parts.query)]
    parts = parts._replace(query=urlencode(secret, safe="/*", quote_via=quote))
    if "@" not in parts.netloc:
        return urlunsplit(parts)
    credentials, _, host = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    return urlunsplit(parts._replace(netloc=f"{user}{':***' if colon else ''}@{host}"))


def is_local(dsn: str) -> bool:
    """Whether `dsn` leads to this machine without asking for TLS: no handshake is worth its time there."""
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query))
    host = query.get("host") or parts.hostname or ""
    return "sslmode" not in query and (host.startswith("/") or host in ("", "localhost", "127.0.0.1", "::1"))
