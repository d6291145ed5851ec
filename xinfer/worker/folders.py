"""The folders of a worker's replicas, ``replicas/<replica_id>/<instance>/``: orders, identity and log of a process."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from xinfer.errors import NotFound
from xinfer.processes import ProcessId, log_tail, read_record, write_record
from xinfer.protocol import LAUNCH_FILE, LOG_FILE, PROCESS_FILE, LaunchOrder, ProcessRecord
from xinfer.worker.enforce.hami_core import remove_region
from xinfer.worker.sockets import remove_sockets

KEPT_FAILURES = 20
"""Folders of failed processes that a worker keeps, the latest ones, for their logs."""
LOG_BYTES_PER_LINE = 4096
"""A generous line: how far back a log is read for a number of lines."""


class ReplicaFolders:
    """All folders below one worker's ``replicas``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, order: LaunchOrder) -> Path:
        """A folder with the orders for a process that is about to start.

        Raises:
            OSError: the disk is full or not writable.
        """
        folder = self._of_replica(order.replica_id) / order.instance
        write_record(folder / LAUNCH_FILE, order)
        return folder

    def living(self) -> Iterator[tuple[Path, LaunchOrder, ProcessId]]:
        """Every process of an earlier worker that still runs. One that is just starting is told not to."""
        for folder in sorted(self._root.glob("*/*")):
            order = read_record(folder / LAUNCH_FILE, LaunchOrder)
            if not (folder / PROCESS_FILE).exists():
                # Its order is withdrawn first, then looked for a signature again: see xinfer.replica.__main__.
                (folder / LAUNCH_FILE).unlink(missing_ok=True)
            process = process_in(folder)
            if order is not None and process is not None and process.alive():
                yield folder, order, process
            else:
                remove_socket(folder)
                remove_region(folder.name)
                remove_sockets(folder.name)

    def bury(self, folder: Path, *, failed: bool) -> None:
        """A process is gone: remove its folder, or keep it if it failed, as the only one of its replica."""
        (folder / LAUNCH_FILE).unlink(missing_ok=True)
        if failed:
            dead = [other for other in folder.parent.iterdir() if other != folder and not _is_alive(other)]
        else:
            dead = [folder]
        for other in dead:
            _remove(other)
        self.prune()

    def prune(self) -> None:
        """Remove all but the latest folders of dead processes."""
        dead = [folder for folder in self._root.glob("*/*") if not _is_alive(folder)]
        dead.sort(key=_last_written)
        for folder in dead[:-KEPT_FAILURES]:
            _remove(folder)

    def log_of(self, replica_id: str, lines: int) -> str:
        """The last lines that the replica's latest process wrote.

        Raises:
            NotFound: nothing is left of such a replica here.
        """
        logs = sorted(self._of_replica(replica_id).glob(f"*/{LOG_FILE}"), key=_last_written)
        if not logs:
            raise NotFound(f"this worker has no log of a replica {replica_id!r}")
        return log_tail(logs[-1], lines, lines * LOG_BYTES_PER_LINE)

    def _of_replica(self, replica_id: str) -> Path:
        # Readable in a process listing, but never a path of its own: "..", "a/b".
        name = quote(replica_id, safe="")
        return self._root / (f"%2E{name[1:]}" if name.startswith(".") else name)


def process_in(folder: Path) -> ProcessId | None:
    """The process that signed for the orders in a folder."""
    record = read_record(folder / PROCESS_FILE, ProcessRecord)
    return None if record is None else ProcessId(record.pid, record.started)


def remove_socket(folder: Path) -> None:
    """Remove the unix socket that a dead process served on."""
    record = read_record(folder / PROCESS_FILE, ProcessRecord)
    if record is not None and record.socket:
        Path(record.socket).unlink(missing_ok=True)


def _is_alive(folder: Path) -> bool:
    """Whether its process runs, or may be about to: orders that nobody has signed for yet."""
    process = process_in(folder)
    return (folder / LAUNCH_FILE).exists() if process is None else process.alive()


def _last_written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # other processes of the replica have folders beside it
        folder.parent.rmdir()
