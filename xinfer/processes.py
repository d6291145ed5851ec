"""Processes that outlive the one that started them: durable identity, spawn, adopt, end.

A pid alone is no identity (pids are reused), so a process is named by pid **and** start time. Whoever starts replicas
or gateways writes such a name to disk and finds the living process again after its own death.
"""

import asyncio
import contextlib
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

if sys.platform != "win32":
    import fcntl
    import termios

T = TypeVar("T")


class ProcessId(msgspec.Struct, frozen=True):
    """A process that cannot be mistaken for a later one with the same pid. ``started`` is epoch seconds."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """The identity of a running process; None if there is none."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    @classmethod
    def own(cls) -> "ProcessId":
        """This process."""
        return cls(os.getpid(), psutil.Process().create_time())

    def alive(self) -> bool:
        """Whether exactly this process still runs (a zombie does not)."""
        try:
            process = psutil.Process(self.pid)
            # create_time is derived from boot time and may differ by clock steps of a few hundredths.
            same = abs(float(process.create_time()) - self.started) < 1.0
            return same and str(process.status()) != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def send(self, number: int) -> None:
        """Signal exactly this process, if it still runs."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def end(self, grace_s: float) -> None:
        """SIGTERM, and after ``grace_s`` seconds SIGKILL to it and all its descendants. Returns once it is gone."""
        if not self.alive():
            return
        family = self._descendants()
        self.send(signal.SIGTERM)
        if not await self.gone(grace_s):
            family |= self._descendants()  # it may have started more while it was ending
            self.send(signal.SIGKILL)
            await self.gone(5.0)
        for child in family:
            with contextlib.suppress(psutil.Error):
                child.kill()

    def _descendants(self) -> set[psutil.Process]:
        try:
            return set(psutil.Process(self.pid).children(recursive=True))
        except psutil.Error:
            return set()

    async def gone(self, timeout_s: float) -> bool:
        """Wait until it has ended, at most ``timeout_s`` seconds; whether it has."""
        deadline = time.monotonic() + timeout_s
        while self.alive():
            _reap(self.pid)
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True


def _reap(pid: int) -> None:
    """Collect a dead child so that it is no zombie; not our child: nothing to do."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str], log: Path, cwd: Path | None = None, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own (signals to our group do not reach it), output appended to ``log``.

    Of our file descriptors it inherits ``pass_fds`` and no other. It stays in our session, because Linux shares the
    processors between sessions first (docs/adr/0008): if it is to outlive our terminal, it calls ``leave_terminal``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        return subprocess.Popen(  # noqa: S603  argv is ours, no shell
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            process_group=0,
            close_fds=True,
            pass_fds=pass_fds,
        )


def leave_terminal() -> None:
    """Have no controlling terminal from now on, nor have the processes that this one starts.

    Else what asks at the terminal (for a password, say) would be stopped for ever, as the system does with a group that
    is not in the foreground. For the leader of a session it does nothing: that would end others in the session.
    """
    if sys.platform == "win32" or os.getsid(0) == os.getpid():
        return
    with contextlib.suppress(OSError):  # there is none
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        try:
            fcntl.ioctl(terminal, termios.TIOCNOTTY)
        finally:
            os.close(terminal)


def group_of(pid: int) -> int | None:
    """The process group of a process; None: there is no such process."""
    try:
        return os.getpgid(pid)
    except OSError:
        return None


RESOURCE_TRACKER = "multiprocessing.resource_tracker"


def kill_all(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Kill processes, but for those in which Python keeps a list of what others must not leave behind.

    Such a resource tracker removes the shared memory of the dead, which would stay until the machine is rebooted, and
    ends by itself once the last of them is gone. Those that were spared are returned.
    """
    spared = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if any(RESOURCE_TRACKER in word for word in process.cmdline()):
                spared.append(process)
            else:
                process.kill()
    return spared


_LOGGED_ERROR = re.compile(r"\bERROR\b.*?\s((?:\w+\.)*\w*(?:Error|Exception): \S.*)")


def log_tail(path: Path, lines: int = 20, limit: int = 64 * 1024) -> str:
    """The last lines of a log, for error messages; empty if there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - limit))
            return "\n".join(log.read().decode(errors="replace").rstrip().splitlines()[-lines:])
    except OSError:
        return ""


def first_error(path: Path, since: int = 0, limit: int = 256 * 1024) -> str:
    """The first exception that a log has at the level ERROR, in its last ``limit`` bytes; empty if there is none.

    Where several processes fail one after the other, the first one says why. The first ``since`` bytes do not count.
    """
    with contextlib.suppress(OSError):
        limit = min(limit, max(0, path.stat().st_size - since))
    found = _LOGGED_ERROR.search(log_tail(path, limit, limit))
    return found[1] if found else ""


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Readers see the old content or the new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def write_record(path: Path, record: msgspec.Struct) -> None:
    """A struct as a JSON file, atomically."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record)))


def read_record(path: Path, kind: type[T]) -> T | None:
    """The struct of a JSON file; None if it is missing or not readable as one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a file's lock while the block runs; yields whether we got it. The lock dies with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


LASTING_PORTS = range(20_000, 32_000)
"""Below those that systems give to connections (from 32768 on Linux): nobody gets one of them by chance."""
LASTING_PORTS_TRIED = 32


def free_port(host: str, port: int = 0) -> int:
    """A port that was free a moment ago: any, or this one.

    Raises:
        OSError: it is not free.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def lasting_port(host: str) -> int:
    """A port that is free, and likely still is minutes later, when the process that it is for has started.

    Raises:
        OSError: nothing can be bound on this host.
    """
    for port in random.sample(LASTING_PORTS, LASTING_PORTS_TRIED):
        with contextlib.suppress(OSError):
            return free_port(host, port)
    return free_port(host)


def host_id() -> str:
    """Names this machine (and boot): two processes with the same one can share unix sockets."""
    for source in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        with contextlib.suppress(OSError):
            return f"{socket.gethostname()}-{Path(source).read_text().strip()}"
    return f"{socket.gethostname()}-{uuid.getnode():x}"


def runtime_directory() -> Path:
    """Where unix sockets live: short (their paths are limited to about 100 bytes) and only for this user."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    path = base / f"xinfer-{os.getuid() if hasattr(os, 'getuid') else 0}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
