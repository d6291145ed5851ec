"""The folder of one repository, in the layout of Hugging Face's library, which finds its files there too.

``blobs/<hash>`` are the contents, ``snapshots/<commit>/<path>`` links to them, ``refs/<revision>`` names a commit. A
blob that is not complete is ``blobs/<hash>.incomplete``; whoever fills it holds ``.locks/<repository>/<hash>.lock``.
"""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from xinfer.catalog.repository import RemoteFile
from xinfer.catalog.sources import Hub, HubSource
from xinfer.processes import write_atomically
from xinfer.settings import Settings
from xinfer.worker.locks import FileLock

SHA256_DIGITS = 64


def cache_root(settings: Settings, hub: Hub) -> Path:
    """Where the repositories of a hub are."""
    if hub is Hub.MODELSCOPE or not settings.hf_cache:
        return settings.home / "models" / ("modelscope" if hub is Hub.MODELSCOPE else "huggingface")
    return Path(settings.hf_cache).expanduser().absolute()


class RepositoryCache:
    """What is here of one repository."""

    def __init__(self, root: Path, source: HubSource) -> None:
        name = f"models--{source.repository.replace('/', '--')}"
        self.folder = root / name
        self._locks = root / ".locks" / name
        self._revision = source.revision or ("main" if source.hub is Hub.HUGGINGFACE else "master")

    def blob(self, file: RemoteFile) -> Path:
        """Where its content is, once it is complete."""
        return self.folder / "blobs" / file.blob

    def part(self, file: RemoteFile) -> Path:
        """Where it is until then."""
        return self.folder / "blobs" / f"{file.blob}.incomplete"

    def lock(self, file: RemoteFile) -> FileLock:
        """For whoever fills it. Hugging Face's library takes the same one.

        Raises:
            OSError: the cache is not writable.
        """
        return FileLock(self._locks / f"{file.blob}.lock", mode=0o666)  # users may share a cache

    def has(self, file: RemoteFile) -> bool:
        """Whether its content is complete, by its size."""
        return size_of(self.blob(file)) == file.size

    def so_far(self, file: RemoteFile) -> int:
        """How many of its bytes are here."""
        return file.size if self.has(file) else max(0, size_of(self.part(file)))

    def snapshot(self, commit: str) -> Path:
        """The folder with the files of a commit."""
        return self.folder / "snapshots" / commit

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
        write_atomically(self.folder / "refs" / self._revision, commit.encode(), mode=0o644)

    def found(self) -> tuple[str, list[RemoteFile]]:
        """The commit that the revision named last, and its files that are here, whoever brought them."""
        commit = self._current()
        snapshot = self.snapshot(commit)
        links = [path for path in snapshot.rglob("*") if path.is_symlink() and path.exists()] if commit else []
        return commit, [_linked(path, snapshot) for path in sorted(links)]

    def _current(self) -> str:
        """The commit that the revision named last; empty: it is not known here."""
        try:
            return (self.folder / "refs" / self._revision).read_text().strip()
        except OSError:
            return ""


def _linked(path: Path, snapshot: Path) -> RemoteFile:
    blob = path.readlink().name
    names = {"sha256": blob} if len(blob) == SHA256_DIGITS else {"git_sha1": blob}
    return RemoteFile(path.relative_to(snapshot).as_posix(), path.stat().st_size, **names)


def size_of(path: Path) -> int:
    """Bytes of a file; -1: there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
