"""Locks on files that several processes share, or one has alone."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self


class FileLock:
    """The lock of one file, not yet taken. It dies with its last holder, and child processes that inherit it hold it.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, mode: int = 0o600) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)

    def try_shared(self) -> bool:
        """Take part in using what it guards, unless somebody has it alone."""
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Have it alone, unless anybody holds it."""
        return self._try(fcntl.LOCK_EX)

    def drop(self) -> None:
        """Let go for now; it can be taken again."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go; processes that inherited it still hold it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


class Held:
    """Something that is sure to stay while its lock is held; without one, it stays anyway."""

    def __init__(self, lock: FileLock | None) -> None:
        self._lock = lock

    def release(self) -> None:
        """Nobody needs it to stay."""
        if self._lock is not None:
            self._lock.close()

    @contextlib.contextmanager
    def handed_over(self) -> Iterator[tuple[int, ...]]:
        """The file descriptors with which a process started in this block holds it in our place."""
        try:
            yield () if self._lock is None else (self._lock.descriptor,)
        finally:
            self.release()
