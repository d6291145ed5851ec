"""What survives the supervisor, in any SQL database that SQLAlchemy speaks to."""

from xinfer.supervisor.store.store import Remembered, Store

__all__ = ["Remembered", "Store"]
