"""Database URLs as people write them, with the async driver that SQLAlchemy needs."""

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from xinfer.errors import StoreFailed

ASYNC_DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "postgres": "asyncpg", "mysql": "aiomysql"}
"""By dialect; a URL that names a driver itself keeps it."""


def async_url(text: str) -> URL:
    """The URL with an async driver.

    Raises:
        StoreFailed: it is no database URL.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        # The text may hold a password, so it is not repeated.
        raise StoreFailed(
            "XINFER_DATABASE_URL is no database URL; it looks like sqlite:////var/lib/xinfer/store.sqlite or "
            "postgresql://user:password@host/database"
        ) from None
    dialect, _, driver = url.drivername.partition("+")
    if driver or dialect not in ASYNC_DRIVERS:
        return url
    name = "postgresql" if dialect == "postgres" else dialect
    return url.set(drivername=f"{name}+{ASYNC_DRIVERS[dialect]}")
