"""The environments of a home: what is there, who uses it, and its removal.

``environments/<name>/`` has the venv, the log of its building and, written last, ``environment.json``: without that
record nothing in the folder counts. While it is built again, the one that it replaces waits in ``.replaced/<name>``,
and comes back if that fails. ``environments/.locks/<name>`` is held shared by every process that runs in the
environment and exclusively by whoever builds or removes it. Such a lock is inherited by child processes and dies with
the last of them, so that neither a ``kill -9`` nor a restarted worker leaves a wrong one behind.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

import xinfer
from xinfer.errors import Conflict, NotFound
from xinfer.processes import read_record, write_record
from xinfer.worker.environments.plan import Machine
from xinfer.worker.locks import FileLock

MIB = 1024 * 1024
RECORD_FILE = "environment.json"
PROGRESS_FILE = "progress.json"
LOG_FILE = "build.log"
VENV = "venv"
REPLACED = ".replaced"


class EnvironmentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An environment that is ready. ``built_at``: epoch seconds."""

    name: str
    engine: str
    version: str
    """Of the engine's library, as it said in there."""
    machine: Machine
    """What it was made for."""
    packages: tuple[str, ...]
    """Everything that was installed, with its version."""
    imports: tuple[str, ...] = ()
    """Modules whose import shows that it works."""
    extra: tuple[str, ...] = ()
    """What was asked for beyond the engine's requirements."""
    size_mib: int = 0
    built_at: float = 0.0


class EnvironmentStore:
    """All environments below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        """Where an environment is, or will be."""
        return self.root / name

    def python(self, name: str) -> Path:
        """Its interpreter."""
        return self.folder(name) / VENV / "bin" / "python"

    def log(self, name: str) -> Path:
        """What the installer said while it was built."""
        return self.folder(name) / LOG_FILE

    def lock(self, name: str) -> FileLock:
        """Its lock, not yet taken.

        Raises:
            OSError: the home is not writable.
        """
        return FileLock(self.root / ".locks" / name)

    def built(self, name: str) -> EnvironmentRecord | None:
        """What was built under this name, also where something of it is gone since."""
        return record_in(self.folder(name))

    def find(self, name: str) -> EnvironmentRecord | None:
        """The environment, if it is ready."""
        record = self.built(name)
        return record if record is not None and self.python(name).exists() else None

    def ready(self) -> list[EnvironmentRecord]:
        """Every environment that is ready, the newest first."""
        found = [record for name in self.names() if (record := self.find(name)) is not None]
        return sorted(found, key=lambda record: record.built_at, reverse=True)

    def names(self) -> list[str]:
        """Every environment, also those of which only a part is there."""
        return sorted(name for name in _folders(self.root) if not name.startswith("."))

    def is_used(self, name: str) -> bool:
        """Whether a process runs in it, builds it or removes it; of a home that is not ours to write to: no."""
        with contextlib.suppress(OSError), self.lock(name) as lock:
            return not lock.try_exclusive()
        return False

    def remove(self, name: str) -> None:
        """Remove an environment, or what is left of an unfinished one.

        Raises:
            NotFound: there is none of that name.
            Conflict: replicas run in it, or it is being built.
        """
        if not self.folder(name).is_dir() or name not in self.names():
            raise NotFound(f"there is no environment {name!r} here; xinfer engine list shows what there is")
        with self.lock(name) as lock:
            if not lock.try_exclusive():
                what = "replicas run in it" if self.find(name) is not None else "it is being built"
                raise Conflict(f"the environment {name} cannot be removed: {what}")
            self.clear(name)
            shutil.rmtree(self._aside(name), ignore_errors=True)

    def clear(self, name: str) -> None:
        """Remove everything of an environment whose lock the caller holds; its record goes first."""
        folder = self.folder(name)
        (folder / RECORD_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def set_aside(self, name: str) -> None:
        """Keep an environment, whose lock the caller holds alone, out of the way until it is replaced."""
        aside = self._aside(name)
        aside.parent.mkdir(exist_ok=True)
        self.folder(name).rename(aside)

    def settle(self, name: str) -> None:
        """Let go of what was set aside if it is replaced by now, else bring it back. The caller has the lock alone."""
        aside = self._aside(name)
        if not aside.is_dir():
            return
        if self.find(name) is None:
            with contextlib.suppress(OSError):  # the log of the attempt to replace it says why that failed
                self.log(name).replace(aside / LOG_FILE)
            self.clear(name)
            aside.rename(self.folder(name))
        shutil.rmtree(aside, ignore_errors=True)

    def sweep(self) -> None:
        """Free the disk of builds that were killed; their packages stay in the installer's cache, and their logs."""
        for name in {*self.names(), *_folders(self.root / REPLACED)}:
            if self.find(name) is None or self._aside(name).is_dir():
                with self.lock(name) as lock:
                    if lock.try_exclusive():
                        self.settle(name)
                        if self.find(name) is None:
                            shutil.rmtree(self.folder(name) / VENV, ignore_errors=True)

    def own_code(self) -> Path:
        """A folder with nothing in it but this very xinfer: on the path of another Python, it brings nothing else in.

        Raises:
            OSError: the home is not writable.
        """
        package = Path(xinfer.__file__).resolve().parent
        folder = self.root / ".code" / hashlib.sha256(bytes(package)).hexdigest()[:12]
        link = folder / "xinfer"
        if not link.is_symlink():
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # another process was as quick
                link.symlink_to(package, target_is_directory=True)
        return folder

    def write(self, record: EnvironmentRecord) -> None:
        """From now on the environment is ready."""
        write_record(self.folder(record.name) / RECORD_FILE, record)

    def _aside(self, name: str) -> Path:
        return self.root / REPLACED / name


def record_in(folder: Path) -> EnvironmentRecord | None:
    """What was built in a folder; None: nothing that was finished."""
    return read_record(folder / RECORD_FILE, EnvironmentRecord)


def _folders(parent: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [path.name for path in parent.iterdir() if path.is_dir()]
    return []


def size_mib(folder: Path) -> int:
    """What a folder takes on disk. Files that uv shares with its cache by hard links count too."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for stat in _stats(folder):
        if (stat.st_dev, stat.st_ino) not in seen:
            seen.add((stat.st_dev, stat.st_ino))
            total += stat.st_blocks * 512
    return total // MIB


def _stats(folder: Path) -> Iterator[os.stat_result]:
    for parent, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                yield (Path(parent) / file).lstat()
