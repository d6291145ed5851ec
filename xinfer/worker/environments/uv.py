"""Running uv: its output goes into the log, becomes steps of a progress, and at the end the reason of a failure."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from uv import find_uv_bin

from xinfer.errors import EnvironmentFailed
from xinfer.processes import log_tail
from xinfer.settings import child_environment

LINE_LIMIT = 1024 * 1024
REASON_LINES = 15
REASON_BYTES = 4096
END_GRACE_S = 5.0
DISK_FULL = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")
"""What the operating system's errors look like when they come from a program's output."""

NO_NETWORK = ("error sending request", "Failed to fetch", "dns error", "Network is unreachable")
OFFLINE = (
    "The index of packages does not answer. Another one is taken from pip's configuration, UV_DEFAULT_INDEX and "
    "HTTPS_PROXY; a folder of wheels does without: xinfer engine install ENGINE --find-links FOLDER --no-index"
)

Show = Callable[[str, float], None]
"""Told what is being done, and how far it is, 0..1."""


def cache_folder(env: Mapping[str, str]) -> Path:
    """Where uv keeps what it downloaded, by the variables that it is started with."""
    return Path(env.get("UV_CACHE_DIR") or Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv")


class OutOfDisk(EnvironmentFailed):
    """There was too little room on the disk, or on that of the installer's cache."""


class Uv:
    """Runs uv, with its output in ``log``. It inherits ``lock``, so what it writes to is locked until it has ended."""

    def __init__(self, log: Path, variables: Mapping[str, str], lock: int) -> None:
        self._log = log
        # Progress bars are for terminals, and a Python that uv downloads is not the one that this worker runs on.
        quiet = {"UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1", "VIRTUAL_ENV": ""}
        self._env = child_environment(quiet | dict(variables))
        self._lock = lock

    async def run(self, *arguments: str, hear: Callable[[str], None] = lambda _: None) -> None:
        """Run ``uv ARGUMENTS`` and tell ``hear`` every line that it says. Cancelled, it ends uv first.

        Raises:
            EnvironmentFailed: uv failed; ends with its last words.
            OutOfDisk: for lack of room.
        """
        with self._log.open("ab") as log:
            log.write(f"$ uv {' '.join(arguments)}\n".encode())
            log.flush()
            process = await asyncio.create_subprocess_exec(
                find_uv_bin(),
                *arguments,
                env=self._env,
                cwd=self._log.parent,  # a project file in the worker's directory has no say
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self._lock,),
                limit=LINE_LIMIT,
            )
            try:
                assert process.stdout is not None
                last_words: list[str] = []
                async for raw in process.stdout:
                    line = raw.decode(errors="replace").rstrip()
                    last_words = [*last_words[1 - REASON_LINES :], line]
                    hear(line)
                    with contextlib.suppress(OSError):  # a full disk: that uv could not go on is what counts
                        log.write(raw)
                        log.flush()
                status = await process.wait()
            finally:
                await end_group(process)
        if status:
            raise failure(f"uv {arguments[0]} failed", status, "\n".join(last_words))


async def run_python(argv: list[str], env: Mapping[str, str], log: Path, lock: int) -> None:
    """Run a Python of an environment with its output in the log.

    Raises:
        EnvironmentFailed: it exits with another status than 0; ends with its last words.
    """
    with log.open("ab") as sink:
        before = sink.seek(0, os.SEEK_END)
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=dict(env),
            cwd=log.parent,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sink,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )
        try:
            status = await process.wait()
        finally:
            await end_group(process)
    if status:
        said = log_tail(log, REASON_LINES, min(REASON_BYTES, log.stat().st_size - before))
        raise failure("it was built, but does not work", status, said)


def failure(what: str, status: int, last_words: str) -> EnvironmentFailed:
    """The error for a process that failed, by its exit status and what it said."""
    if any(mark in last_words for mark in DISK_FULL):
        return OutOfDisk("the disk is full")
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    hint = f"\n{OFFLINE}" if any(mark in last_words for mark in NO_NETWORK) else ""
    return EnvironmentFailed(f"{what} ({how}):\n{last_words}".rstrip() + hint)


async def end_group(process: asyncio.subprocess.Process) -> None:
    """Make sure that it, and whatever it started, has ended."""
    if process.returncode is None:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_GRACE_S)
    if process.returncode is None:
        _signal(process.pid, signal.SIGKILL)
        await process.wait()


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


SIZES = {"B": 1 / 1024 / 1024, "KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0}
STARTED = re.compile(r"^\s*Downloading (?P<name>\S+) \((?P<size>[\d.]+) ?(?P<unit>[KMG]?i?B)\)")
COMPILING = re.compile(r"^\s*Building (?P<name>[^\s=@]+)")
FINISHED = re.compile(r"^\s*(?:Downloaded|Built) (?P<name>\S+)")
PREPARED = re.compile(r"^\s*Prepared (?P<count>\d+) packages?")
INSTALLED = re.compile(r"^\s*Installed (?P<count>\d+) packages?")


class InstallProgress:
    """Follows what ``uv pip install`` says: larger downloads one by one, then all packages at once."""

    DOWNLOADED = 0.8
    """Of the whole, once everything is downloaded and unpacked."""

    def __init__(self, packages: int, show: Show) -> None:
        self._packages = packages
        self._show = show
        self._sizes: dict[str, float] = {}
        self._done: set[str] = set()
        self._fraction = 0.0

    def hear(self, line: str) -> None:
        """A line of uv's output."""
        if started := STARTED.match(line):
            self._sizes[started["name"]] = float(started["size"]) * SIZES.get(started["unit"], 0.0)
            self._downloading()
        elif compiling := COMPILING.match(line):
            self._tell(f"compiling {compiling['name']}, which may take minutes", self._fraction)
        elif (finished := FINISHED.match(line)) and finished["name"] in self._sizes:
            self._done.add(finished["name"])
            self._downloading()
        elif PREPARED.match(line):
            self._tell(f"installing {self._packages} packages", self.DOWNLOADED)
        elif installed := INSTALLED.match(line):
            self._tell(f"installed {installed['count']} packages", 1.0)

    def _downloading(self) -> None:
        done = sum(self._sizes[name] for name in self._done)
        total = sum(self._sizes.values())
        left = len(self._sizes) - len(self._done)
        # The first downloads are all that is known of the total; the bar never goes back.
        share = self.DOWNLOADED * done / total if total else 0.0
        self._tell(f"downloading, {done:.0f} of {total:.0f} MiB, {left} large packages to go", share)

    def _tell(self, stage: str, fraction: float) -> None:
        self._fraction = max(self._fraction, fraction)
        self._show(stage, self._fraction)
