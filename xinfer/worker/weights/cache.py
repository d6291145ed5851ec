"""The folder of one repository, as whoever fills it sees it; ``catalog/hub_cache.py`` says what is where.

Whoever fills a blob holds ``.locks/<repository>/<hash>.lock``, as Hugging Face's library does.
"""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from xinfer.catalog.hub_cache import UNFINISHED, CachedRepository, size_of
from xinfer.catalog.repository import RemoteFile
from xinfer.catalog.sources import HubSource
from xinfer.processes import write_atomically
from xinfer.worker.locks import FileLock


class RepositoryCache(CachedRepository):
    """What is here of one repository, and is to be."""

    def __init__(self, root: Path, source: HubSource) -> None:
        super().__init__(root, source)
        self._locks = root / ".locks" / self.name

    def lock(self, file: RemoteFile) -> FileLock:
        """For whoever fills it. Hugging Face's library takes the same one.

        Raises:
            OSError: the cache is not writable.
        """
        return self._lock(file.blob)

    def publish(self, commit: str, files: Iterable[RemoteFile]) -> None:
        """Link complete files into the snapshot, and let the revision name it.

        Raises:
            OSError: the cache is not writable.
        """
        for file in files:
            link = self.snapshot(commit) / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            target = os.path.relpath(self.blob(file), link.parent)
            if not link.is_symlink() or str(link.readlink()) != target:
                fresh = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
                fresh.symlink_to(target)
                fresh.replace(link)
        write_atomically(self.folder / "refs" / self.revision, commit.encode(), mode=0o644)

    def remove_unfinished(self) -> int:
        """Remove what came of downloads that nobody goes on with; how many bytes became free.

        Raises:
            OSError: the cache is not writable.
        """
        freed = 0
        for part in self.unfinished():
            with self._lock(part.name.removesuffix(UNFINISHED)) as lock:
                if lock.try_exclusive():
                    freed += max(0, size_of(part))  # it may have become whole before we held it
                    part.unlink(missing_ok=True)
        return freed

    def _lock(self, blob: str) -> FileLock:
        return FileLock(self._locks / f"{blob}.lock", mode=0o666)  # users may share a cache
