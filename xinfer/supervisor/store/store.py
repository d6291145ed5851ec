"""What must survive the supervisor: Deployments, the workers it knew, what it observed, and two counters."""

import hashlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from sqlalchemy import Delete, Table, delete, event, insert, select, update
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from xinfer.catalog.registered import Registration
from xinfer.errors import StoreFailed
from xinfer.protocol import Cordon
from xinfer.spec import Deployment
from xinfer.supervisor.peaks import Peak
from xinfer.supervisor.store.schema import (
    SCHEMA_VERSION,
    cordons,
    deployments,
    meta,
    metadata,
    peaks,
    registrations,
    workers,
)
from xinfer.supervisor.store.urls import async_url

SQLITE_BUSY_MS = 5000

logger = logging.getLogger(__name__)


class Remembered(msgspec.Struct, frozen=True):
    """What the store knew when it was opened. ``epoch`` is the number of this start."""

    epoch: int
    last_revision: int
    deployments: tuple[Deployment, ...]
    worker_ids: tuple[str, ...]
    cordons: tuple[Cordon, ...] = ()
    peaks: tuple[Peak, ...] = ()
    registrations: tuple[Registration, ...] = ()


class Store:
    """The database of the supervisor. A method that has returned has written durably.

    Every method raises ``StoreFailed``, with what the database said, when it cannot be reached or is not readable.
    """

    def __init__(self, url: str) -> None:
        self._url = async_url(url)
        self._engine = _engine(self._url)

    async def open(self) -> Remembered:
        """Make the tables where they are missing, count this start, and read everything."""
        if self._url.get_backend_name() == "sqlite" and self._url.database not in (None, "", ":memory:"):
            self._make_file(Path(str(self._url.database)))
        async with self._transaction("opened") as connection:
            await connection.run_sync(metadata.create_all)
            await self._check_schema(connection)
            # A new store counts from the clock: gateways and workers that outlived a lost one know more than 1.
            epoch = await _number(connection, "epoch", int(time.time())) + 1
            await _put(connection, meta, {"key": "epoch"}, {"value": epoch})
            return Remembered(
                epoch=epoch,
                last_revision=await _number(connection, "revision"),
                deployments=await self._read_deployments(connection),
                worker_ids=tuple((await connection.execute(select(workers.c.worker_id))).scalars()),
                cordons=await _read_cordons(connection),
                peaks=await _read_peaks(connection),
                registrations=await _read_registrations(connection),
            )

    async def put(self, deployment: Deployment, now: float) -> None:
        """Write the desired state of a model. Its revision is never given out again, also not after ``remove``."""
        values = {
            "document": msgspec.json.encode(deployment).decode(),
            "revision": deployment.revision,
            "updated_at": now,
        }
        async with self._transaction("written") as connection:
            await _put(connection, deployments, {"model_uid": deployment.model_uid}, values)
            highest = max(deployment.revision, await _number(connection, "revision"))
            await _put(connection, meta, {"key": "revision"}, {"value": highest})

    async def remove(self, model_uid: str) -> None:
        """Forget a model."""
        async with self._transaction("written") as connection:
            await connection.execute(delete(deployments).where(deployments.c.model_uid == model_uid))

    async def remember_worker(self, worker_id: str, name: str, address: str, seen_at: float) -> None:
        """Wait for this worker at the next start."""
        values = {"name": name, "address": address, "last_seen": seen_at}
        async with self._transaction("written") as connection:
            await _put(connection, workers, {"worker_id": worker_id}, values)

    async def forget_worker(self, worker_id: str) -> None:
        """Do not wait for this worker at the next start."""
        async with self._transaction("written") as connection:
            await connection.execute(delete(workers).where(workers.c.worker_id == worker_id))

    async def put_cordon(self, cordon: Cordon) -> None:
        """Write that a worker or a device takes nothing new, in place of what was said of it before."""
        async with self._transaction("written") as connection:
            await connection.execute(_cordon_of(cordon.worker_id, cordon.device_id))
            await connection.execute(insert(cordons).values(**msgspec.structs.asdict(cordon)))

    async def remove_cordon(self, worker_id: str, device_id: str) -> None:
        """Forget a cordon; there is none: nothing to do."""
        async with self._transaction("written") as connection:
            await connection.execute(_cordon_of(worker_id, device_id))

    async def put_peak(self, peak: Peak, now: float) -> None:
        """Write what was observed, in place of what was before."""
        digest = hashlib.sha256(msgspec.json.encode(peak.key, order="deterministic")).hexdigest()
        values = {"document": msgspec.json.encode(peak).decode(), "updated_at": now}
        async with self._transaction("written") as connection:
            await _put(connection, peaks, {"digest": digest}, values)

    async def put_registration(self, registration: Registration) -> None:
        """Write a registered model, in place of what was registered under its name."""
        values = {
            "document": msgspec.json.encode(registration).decode(),
            "version": registration.version,
            "updated_at": registration.registered_at,
        }
        async with self._transaction("written") as connection:
            await _put(connection, registrations, {"name": registration.model.name}, values)

    async def remove_registration(self, name: str) -> None:
        """Forget a registered model; there is none: nothing to do."""
        async with self._transaction("written") as connection:
            await connection.execute(delete(registrations).where(registrations.c.name == name))

    async def close(self) -> None:
        """Give every connection back."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _transaction(self, what: str) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            cause = getattr(error, "orig", None) or error
            raise StoreFailed(
                f"the store at {self._url.render_as_string(hide_password=True)} cannot be {what}: {cause}"
            ) from error

    def _make_file(self, path: Path) -> None:
        """A file that only we read (environment variables of deployments are in it), and that can be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.open("ab").close()
        except OSError as error:
            raise StoreFailed(f"the store {path} cannot be written: {error.strerror}") from error

    async def _check_schema(self, connection: AsyncConnection) -> None:
        found = await _number(connection, "schema")
        if found > SCHEMA_VERSION:
            raise StoreFailed(
                f"the store at {self._url.render_as_string(hide_password=True)} was written by a newer xinfer "
                f"(schema {found}, this one knows {SCHEMA_VERSION}); upgrade xinfer or use another store"
            )
        await _put(connection, meta, {"key": "schema"}, {"value": SCHEMA_VERSION})

    async def _read_deployments(self, connection: AsyncConnection) -> tuple[Deployment, ...]:
        rows = await connection.execute(
            select(deployments.c.model_uid, deployments.c.document).order_by(deployments.c.model_uid)
        )
        return tuple(self._decode(model_uid, document) for model_uid, document in rows)

    def _decode(self, model_uid: str, document: str) -> Deployment:
        try:
            return msgspec.json.decode(document, type=Deployment)
        except msgspec.MsgspecError as error:
            raise StoreFailed(
                f"the stored deployment {model_uid!r} cannot be read ({error}); delete its row from the table "
                f"{deployments.name} of {self._url.render_as_string(hide_password=True)} and launch it again"
            ) from error


async def _read_cordons(connection: AsyncConnection) -> tuple[Cordon, ...]:
    rows = await connection.execute(select(cordons).order_by(cordons.c.worker_id, cordons.c.device_id))
    return tuple(Cordon(**row) for row in rows.mappings())


def _cordon_of(worker_id: str, device_id: str) -> Delete:
    return delete(cordons).where(cordons.c.worker_id == worker_id, cordons.c.device_id == device_id)


async def _read_peaks(connection: AsyncConnection) -> tuple[Peak, ...]:
    """All that can be read: a peak that cannot is observed again, and is no reason not to start."""
    found = []
    for digest, document in await connection.execute(select(peaks.c.digest, peaks.c.document)):
        try:
            found.append(msgspec.json.decode(document, type=Peak))
        except msgspec.MsgspecError as error:
            logger.warning("the stored peak %s cannot be read and is not used: %s", digest, error)
    return tuple(found)


async def _read_registrations(connection: AsyncConnection) -> tuple[Registration, ...]:
    """All that can be read: what was launched from the others carries what it needs."""
    found = []
    for name, document in await connection.execute(
        select(registrations.c.name, registrations.c.document).order_by(registrations.c.updated_at)
    ):
        try:
            found.append(msgspec.json.decode(document, type=Registration))
        except msgspec.MsgspecError as error:
            logger.warning("the registered model %s cannot be read; register it again: %s", name, error)
    return tuple(found)


def _engine(url: URL) -> AsyncEngine:
    try:
        engine = create_async_engine(url)
    except ModuleNotFoundError as error:
        raise StoreFailed(f"the driver of {url.drivername} is not installed: pip install {error.name}") from error
    except SQLAlchemyError as error:
        raise StoreFailed(f"XINFER_DATABASE_URL: {error}") from error
    if url.get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", _tune_sqlite)
    return engine


def _tune_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Write-ahead log: a commit is one fsync, and nobody who reads the file blocks us."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_MS}")
    cursor.close()


async def _number(connection: AsyncConnection, key: str, default: int = 0) -> int:
    found = (await connection.execute(select(meta.c.value).where(meta.c.key == key))).scalar_one_or_none()
    return default if found is None else int(found)


async def _put(
    connection: AsyncConnection, table: Table, key: Mapping[str, object], values: Mapping[str, object]
) -> None:
    """Update the row or insert it, in words that every database understands."""
    ((name, value),) = key.items()
    updated = await connection.execute(update(table).where(table.c[name] == value).values(**values))
    if updated.rowcount == 0:
        await connection.execute(insert(table).values(**key, **values))
