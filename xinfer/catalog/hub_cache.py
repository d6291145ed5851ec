"""What was downloaded of the repositories of hubs to this machine, in the layout of Hugging Face's library.

``blobs/<hash>`` are the contents, ``snapshots/<commit>/<path>`` links to them, ``refs/<revision>`` names a commit. A
blob that is not complete is ``blobs/<hash>.incomplete``. Workers fill it (``worker/weights``); here it is read.
"""

from pathlib import Path

from xinfer.catalog.repository import RemoteFile, index_of, indexed_weights, needed
from xinfer.catalog.sources import Hub, HubSource
from xinfer.settings import Settings
from xinfer.spec import Format

SHA256_DIGITS = 64
UNFINISHED = ".incomplete"
"""The end of the name of a blob of which bytes are missing."""
PREFIX = "models--"


def cache_root(settings: Settings, hub: Hub) -> Path:
    """Where the repositories of a hub are."""
    if hub is Hub.MODELSCOPE or not settings.hf_cache:
        return settings.home / "models" / ("modelscope" if hub is Hub.MODELSCOPE else "huggingface")
    return Path(settings.hf_cache).expanduser().absolute()


class CachedRepository:
    """What is here of one repository."""

    def __init__(self, root: Path, source: HubSource) -> None:
        self.name = PREFIX + source.repository.replace("/", "--")
        self.folder = root / self.name
        self.revision = source.revision or ("main" if source.hub is Hub.HUGGINGFACE else "master")

    def blob(self, file: RemoteFile) -> Path:
        """Where its content is, once it is complete."""
        return self.folder / "blobs" / file.blob

    def part(self, file: RemoteFile) -> Path:
        """Where it is until then."""
        return self.folder / "blobs" / f"{file.blob}{UNFINISHED}"

    def has(self, file: RemoteFile) -> bool:
        """Whether its content is complete, by its size."""
        return size_of(self.blob(file)) == file.size

    def so_far(self, file: RemoteFile) -> int:
        """How many of its bytes are here."""
        return file.size if self.has(file) else max(0, size_of(self.part(file)))

    def unfinished(self) -> list[Path]:
        """The parts of all its blobs that are not complete."""
        return sorted((self.folder / "blobs").glob(f"*{UNFINISHED}"))

    def snapshot(self, commit: str) -> Path:
        """The folder with the files of a commit."""
        return self.folder / "snapshots" / commit

    def found(self) -> tuple[str, list[RemoteFile]]:
        """The commit that the revision named last, and its files that are here, whoever brought them."""
        commit = self._current()
        snapshot = self.snapshot(commit)
        links = [path for path in snapshot.rglob("*") if path.is_symlink() and path.exists()] if commit else []
        return commit, [_linked(path, snapshot) for path in sorted(links)]

    def complete(self, weights_format: Format, pattern: str = "") -> tuple[str, list[RemoteFile]]:
        """The commit that the revision named last, and the files of such weights, all of which are here.

        Raises:
            InvalidRequest: some of them are not.
        """
        commit, files = self.found()
        index = None if pattern else index_of(files, weights_format)
        return commit, needed(files, weights_format, pattern, indexed_weights(self.snapshot(commit), index))

    def _current(self) -> str:
        """The commit that the revision named last; empty: it is not known here."""
        try:
            return (self.folder / "refs" / self.revision).read_text().strip()
        except OSError:
            return ""


def unfinished_repositories(root: Path) -> list[str]:
    """The ids of those in a cache of which a download was begun and not finished."""
    folders = {path.parent.parent.name for path in root.glob(f"{PREFIX}*/blobs/*{UNFINISHED}")}
    return sorted(name.removeprefix(PREFIX).replace("--", "/", 1) for name in folders)


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
