"""The sets of weights that are complete on this machine, and who uses them.

``models/sets/<name>.json`` is written last: without it a download does not count. ``models/.locks/<name>`` is held
shared by every process that reads the weights and exclusively by whoever removes them; it dies with the last of them.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from xinfer.catalog.hub_cache import cache_root, size_of, unfinished_repositories
from xinfer.catalog.repository import RemoteFile
from xinfer.catalog.sources import REPOSITORY, Hub, HubSource, hub_source
from xinfer.catalog.weight_sets import CachedWeights, WeightSet
from xinfer.errors import Conflict, NotFound
from xinfer.processes import read_record, write_record
from xinfer.protocol import LAUNCH_FILE, LaunchOrder
from xinfer.settings import Settings
from xinfer.spec import Format
from xinfer.worker.folders import process_in
from xinfer.worker.locks import FileLock
from xinfer.worker.weights.cache import RepositoryCache


class WeightsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A set that is complete. ``downloaded_at``: epoch seconds."""

    name: str
    source: str
    format: Format
    commit: str
    snapshot: str
    """Its folder."""
    files: tuple[RemoteFile, ...]
    downloaded_at: float

    @property
    def folder(self) -> Path:
        """The snapshot."""
        return Path(self.snapshot)

    @property
    def path(self) -> Path:
        """What an engine is given: the folder, or the (first) GGUF file."""
        return self.folder / self.files[0].path if self.format is Format.GGUF else self.folder

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)

    @property
    def is_whole(self) -> bool:
        """Whether every file is there with its size."""
        return all(size_of(self.folder / file.path) == file.size for file in self.files)


class WeightStore:
    """All sets of a home, on this machine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = settings.home / "models"

    def cache(self, source: HubSource) -> RepositoryCache:
        """The folder of a repository."""
        return RepositoryCache(cache_root(self._settings, source.hub), source)

    def lock(self, name: str) -> FileLock:
        """Of a set.

        Raises:
            OSError: the home is not writable.
        """
        return FileLock(self._root / ".locks" / name)

    def find(self, wanted: WeightSet) -> WeightsRecord | None:
        """The set, if all of it is there."""
        record = self._read(wanted.name)
        return record if record is not None and record.is_whole else None

    def records(self) -> list[WeightsRecord]:
        """Every set, also damaged ones, by name."""
        names = sorted(path.stem for path in (self._root / "sets").glob("*.json"))
        return [record for name in names if (record := self._read(name)) is not None]

    def cached(self) -> tuple[CachedWeights, ...]:
        """Everything that is here, also what is damaged, and downloads that were begun and not finished."""
        return (*map(self._described, self.records()), *self._unfinished())

    def write(self, wanted: WeightSet, commit: str, files: Iterable[RemoteFile]) -> WeightsRecord:
        """From now on the set is complete.

        Raises:
            OSError: the home is not writable.
        """
        record = WeightsRecord(
            name=wanted.name,
            source=str(wanted.source),
            format=wanted.format,
            commit=commit,
            snapshot=str(self.cache(wanted.source).snapshot(commit)),
            files=tuple(files),
            downloaded_at=time.time(),
        )
        write_record(self._file(wanted.name), record)
        return record

    def users(self, record: WeightsRecord) -> list[str]:
        """The replicas that run with a set, of whichever worker of this home."""
        folders = sorted((self._settings.home / "workers").glob("*/replicas/*/*"))
        orders = [(folder, read_record(folder / LAUNCH_FILE, LaunchOrder)) for folder in folders]
        return [
            order.replica_id
            for folder, order in orders
            if order is not None
            and order.weights == str(record.path)
            and (process := process_in(folder))
            and process.alive()
        ]

    def remove(self, name: str) -> int:
        """Remove a set, except for files that others of the same repository have too; how many bytes became free.

        ``name`` may also be the source of a download that was not finished.

        Raises:
            NotFound: there is none of that name.
            Conflict: replicas use it.
        """
        record = self._read(name)
        if record is None:
            return self._remove_unfinished(name)
        if users := self.users(record):
            raise Conflict(f"{record.source} cannot be removed: {', '.join(users)} run{'s' * (len(users) == 1)} on it")
        with self.lock(name) as lock:
            if not lock.try_exclusive():
                raise Conflict(f"{record.source} cannot be removed: it is being used, or downloaded")
            self._file(name).unlink(missing_ok=True)
            return self._free(record)

    def _described(self, record: WeightsRecord) -> CachedWeights:
        return CachedWeights(
            name=record.name,
            source=record.source,
            format=record.format,
            size=record.size,
            complete=record.is_whole,
            used_by=tuple(self.users(record)),
            downloaded_at=record.downloaded_at,
            path=str(record.path),
        )

    def _unfinished(self) -> Iterator[CachedWeights]:
        for hub in Hub:
            for repository in filter(REPOSITORY.fullmatch, unfinished_repositories(cache_root(self._settings, hub))):
                source = HubSource(hub, repository)
                parts = list(_seen(self.cache(source).unfinished()))
                if not parts:
                    continue  # they became whole while we looked
                size, latest = sum(part.st_size for part in parts), max(part.st_mtime for part in parts)
                yield CachedWeights(
                    name=str(source), source=str(source), size=size, complete=False, downloaded_at=latest
                )

    def _remove_unfinished(self, name: str) -> int:
        if not any(name == one.name for one in self._unfinished()):
            raise NotFound(f"there are no weights {name!r} here; xinfer models cached shows what there is")
        source = hub_source(name)
        assert source is not None
        cache = self.cache(source)
        freed = cache.remove_unfinished()
        if cache.unfinished():
            raise Conflict(f"{name} is being downloaded: cancel that first (xinfer models pull, terminate)")
        return freed

    def _free(self, record: WeightsRecord) -> int:
        source = hub_source(record.source)
        assert source is not None
        cache = self.cache(source)
        others = [other for other in self.records() if other.folder.parent == record.folder.parent]
        linked = {file.path for other in others if other.folder == record.folder for file in other.files}
        kept = {file.blob for other in others for file in other.files}
        freed = 0
        for file in record.files:
            if file.path not in linked:
                (record.folder / file.path).unlink(missing_ok=True)
            if file.blob not in kept:
                freed += max(0, size_of(cache.blob(file)))
                cache.blob(file).unlink(missing_ok=True)
        _remove_empty(record.folder)
        return freed

    def _read(self, name: str) -> WeightsRecord | None:
        return read_record(self._file(name), WeightsRecord)

    def _file(self, name: str) -> Path:
        return self._root / "sets" / f"{name}.json"


def _seen(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    """Of files that others are working on: those that are still there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield path.stat()


def _remove_empty(folder: Path) -> None:
    for path in sorted(_folders(folder), key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError):  # it is not empty
            path.rmdir()


def _folders(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (path for path in folder.rglob("*") if path.is_dir())
