"""Who a worker is: a slot under ``$XINFER_HOME/workers``, held by a lock, with an id that survives restarts."""

import contextlib
import itertools
import secrets
from dataclasses import dataclass
from pathlib import Path

from xinfer.processes import claimed, write_atomically

ID_FILE = "worker_id"
LOCK_FILE = "lock"


@dataclass
class Slot:
    """One worker's folder. Its lock is held until ``release`` or the end of the process."""

    path: Path
    worker_id: str
    _lock: contextlib.ExitStack

    @property
    def number(self) -> int:
        """0 for the first worker of a home, 1 for the second one beside it, ..."""
        return int(self.path.name)

    def release(self) -> None:
        """Let another worker take the slot, and with it what runs there."""
        self._lock.close()


def claim_slot(home: Path) -> Slot:
    """The first slot that no living worker holds: a restarted worker gets its old one and finds its replicas there.

    Raises:
        OSError: ``home`` is not writable.
    """
    for number in itertools.count():
        path = home / "workers" / str(number)
        with contextlib.ExitStack() as lock:
            if lock.enter_context(claimed(path / LOCK_FILE)):
                return Slot(path, _worker_id(path / ID_FILE), lock.pop_all())
    raise AssertionError("unreachable: there is always a next number")


def _worker_id(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        known = path.read_text().strip()
        if known:
            return known
    fresh = f"worker-{secrets.token_hex(6)}"
    write_atomically(path, f"{fresh}\n".encode())
    return fresh
