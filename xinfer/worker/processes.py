"""The processes of replicas: started or adopted, watched, ended, and asked afterwards what they died of."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import xoscar as xo

from xinfer.actors import CALL_TIMEOUT_S, Unanswered, answer
from xinfer.errors import NotFound
from xinfer.processes import ProcessId, first_error, group_of, kill_all, log_tail, read_record, spawn
from xinfer.protocol import (
    FAILURE_FILE,
    LOG_FILE,
    PROCESS_FILE,
    REPLICA_UID,
    FailureRecord,
    LaunchOrder,
    ProcessRecord,
    ReplicaView,
    StandingOrder,
)
from xinfer.settings import Settings, child_environment
from xinfer.spec import ReplicaState
from xinfer.worker.environments.blame import blame
from xinfer.worker.events import Ended, Event, Hung, Seen
from xinfer.worker.folders import remove_socket

POLL_LIMIT_S = 10.0
"""The longest long-poll; a shorter lease is claimed four times within it."""
LOOK_EVERY_S = 0.05
"""How often a process is looked at while it starts or ends: there is nothing to wait on."""
HUNG_AFTER_MISSES = 3
LOADING_PATIENCE = 10
"""Native code that loads weights may hold the interpreter for a while; such a process gets so many times longer."""
END_GRACE_S = 10.0
"""Beyond its time to drain, for closing the engine."""
CLEANING_S = 3.0
"""For what removes the shared memory of a dead process."""
INSTRUCT_AGAIN_S = 1.0
"""Until a process that could not be given an order is tried again."""
REASON_LINES = 20
REASON_BYTES = 8192
"""Of its log, in the reason: that travels with every report."""
SIGNAL_HINTS: dict[int, str] = {
    signal.SIGKILL: "; most often that is the kernel, out of memory: see its log (dmesg)",
    signal.SIGSEGV: "; that is a crash in native code",
    signal.SIGABRT: "; that is a failed check in native code",
}
SENT_BY_OTHERS = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
"""Exit statuses that say nothing about the process itself."""
DEBUGGABLE = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
"""So that the log of a process that crashes in native code is complete, and ends with where that was."""


class ReplicaProcess:
    """The process of one instance. ``ended`` is set once it is gone."""

    def __init__(self, folder: Path, order: LaunchOrder, process: ProcessId) -> None:
        self.folder = folder
        self.order = order
        self.process = process
        self.ending = False
        """We asked it to end."""
        self.ended = asyncio.Event()
        self._instruction: StandingOrder | None = None
        """What it has yet to be told."""

    @classmethod
    def start(
        cls, folder: Path, order: LaunchOrder, settings: Settings, inherits: Sequence[int] = ()
    ) -> "ReplicaProcess":
        """Start the process whose orders are in ``folder``. It keeps the file descriptors ``inherits`` until it ends.

        Raises:
            OSError: it could not be started.
        """
        env = child_environment(DEBUGGABLE | order.env | settings.environment())
        # -P: what lies in the directory where the worker was started must not shadow installed modules.
        argv = [order.python or sys.executable, "-P", "-m", "xinfer.replica", str(folder)]
        child = spawn(argv, env=env, log=folder / LOG_FILE, pass_fds=inherits)
        child.returncode = 0  # disowned: it may outlive us, and ``exit_status`` collects it, not Popen
        return cls(folder, order, ProcessId.of(child.pid) or ProcessId(child.pid, time.time()))

    @property
    def instance(self) -> str:
        """Names this one process."""
        return self.order.instance

    @property
    def address(self) -> str:
        """Of its actor pool; empty until that is up."""
        record = read_record(self.folder / PROCESS_FILE, ProcessRecord)
        return record.address if record is not None else ""

    async def peek(self) -> ReplicaView | None:
        """What it says of itself; None if it does not answer (yet)."""
        try:
            actor = await self.actor(CALL_TIMEOUT_S)
            view: ReplicaView = await answer(actor.peek(self.instance))
        except (Unanswered, NotFound):
            return None
        return view

    async def actor(self, timeout_s: float) -> Any:
        """The ReplicaActor in it.

        Raises:
            Unanswered: it is not up yet, or not any more.
        """
        address = self.address
        if not address:
            raise Unanswered("its actor pool is not up yet")
        return await answer(xo.actor_ref(REPLICA_UID, address=address), timeout_s)

    async def instruct(self, order: StandingOrder) -> None:
        """Give it an order; tries on until it has that, or a newer one, or is gone. Never two at once."""
        waiting, self._instruction = self._instruction is not None, order
        if waiting:
            return
        while (latest := self._instruction) is not None and not self.ended.is_set():
            try:
                actor = await self.actor(CALL_TIMEOUT_S)
                await answer(actor.follow(self.instance, latest))
            except (Unanswered, NotFound):
                await self.gone(INSTRUCT_AGAIN_S)
            else:
                self._instruction = None if self._instruction is latest else self._instruction

    async def end(self, drain_s: float) -> None:
        """Let it drain for ``drain_s`` seconds and end; kill it if it has not by then."""
        self.ending = True
        try:
            actor = await self.actor(CALL_TIMEOUT_S)
            await answer(actor.drain(self.instance, drain_s))
        except (Unanswered, NotFound):
            self.process.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(drain_s + END_GRACE_S):
                await self.ended.wait()
        except TimeoutError:
            self.kill()

    def kill(self) -> None:
        """End it and everything that it started, now."""
        if self._owns_its_group():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _owns_its_group(self) -> bool:
        """Whether its process group is still ours: that bears its pid, which nobody else gets while it has members."""
        owner = ProcessId.of(self.process.pid)
        return owner is None or abs(owner.started - self.process.started) < 1.0

    async def _clear_group(self) -> None:
        """End what it started and left behind; what removes shared memory gets a moment to do that."""
        if self._owns_its_group():
            members = [psutil.Process(pid) for pid in psutil.pids() if group_of(pid) == self.process.pid]
            left = kill_all(members)
            deadline = time.monotonic() + CLEANING_S
            while time.monotonic() < deadline and any(process.is_running() for process in left):  # noqa: ASYNC110  no event
                await asyncio.sleep(LOOK_EVERY_S)
        self.kill()

    async def gone(self, timeout_s: float) -> bool:
        """Wait until it is gone, at most ``timeout_s`` seconds; whether it is. Does not collect its exit status."""
        deadline = time.monotonic() + timeout_s
        while self.process.alive():
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(LOOK_EVERY_S)
        return True

    async def autopsy(self) -> Ended:
        """What it died of, for people. Also removes what it left behind: child processes, its unix socket."""
        await self._clear_group()
        remove_socket(self.folder)
        status = await _exit_status(self.process.pid)
        failure = read_record(self.folder / FAILURE_FILE, FailureRecord)
        reason = failure.reason if failure is not None else explain(status)
        cause = first_error(self.folder / LOG_FILE, failure.logged_well) if failure is not None else ""
        if cause and cause not in reason:
            reason = f"{reason}\nFirst error in its log: {cause}"
        tail = log_tail(self.folder / LOG_FILE, REASON_LINES, REASON_BYTES)
        ended_itself = failure is not None or (status not in (None, *SENT_BY_OTHERS) and not self.ending)
        if ended_itself and self.order.python:
            hint = await asyncio.to_thread(blame, Path(self.order.python), f"{reason}\n{tail}")
            reason = f"{reason}\n{hint}".rstrip()
        if tail:
            reason = f"{reason}\nLast lines of its log:\n{tail}"
        refused = failure.refused if failure is not None else ""
        return Ended(self.instance, reason, load_error=failure is not None, refused=refused)


async def _exit_status(pid: int) -> int | None:
    """Collect a child's exit status (negative: the signal that killed it); None for what is no child of ours.

    A process with many threads is a zombie before the last of them is gone and its memory is free; this waits for it.
    """
    deadline = time.monotonic() + END_GRACE_S
    while time.monotonic() < deadline:
        try:
            collected, status = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222  it returns at once
        except ChildProcessError:
            break
        if collected:
            return os.waitstatus_to_exitcode(status)
        await asyncio.sleep(LOOK_EVERY_S)
    return None


def explain(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "its process is gone; how it ended is not known, because this worker did not start it"
    if status >= 0:
        return f"its process exited with status {status} without being asked to"
    names = {int(number): number.name for number in signal.Signals}
    return f"its process was killed by {names.get(-status, f'signal {-status}')}{SIGNAL_HINTS.get(-status, '')}"


async def watch(process: ReplicaProcess, post: Callable[[Event], None]) -> None:
    """Follow a process to its end: post Seen at every change, Hung when it stays silent, and Ended at last.

    The long-poll is also the claim that renews its lease; and because a call in flight breaks the moment the other
    process dies, it is how death is noticed at once.
    """
    poll_s = min(POLL_LIMIT_S, process.order.lease_s / 4)
    limit_s = poll_s + min(CALL_TIMEOUT_S, poll_s)
    patience_s = HUNG_AFTER_MISSES * limit_s
    version, ready = 0, False
    heard_at = time.monotonic()
    while not await process.gone(0.0):
        try:
            actor = await process.actor(limit_s)
            view: ReplicaView = await answer(actor.watch(process.instance, version, poll_s), limit_s)
        except (Unanswered, NotFound):
            await process.gone(LOOK_EVERY_S)
        else:
            heard_at, ready = time.monotonic(), view.state in (ReplicaState.READY, ReplicaState.DRAINING)
            if view.version != version:
                version = view.version
                post(Seen(actor.address, view))
        silent_s = time.monotonic() - heard_at
        if silent_s > patience_s * (1 if ready else LOADING_PATIENCE):
            post(Hung(process.instance, round(silent_s, 1)))
            await process.gone(CALL_TIMEOUT_S)
    ended = await process.autopsy()
    process.ended.set()
    post(ended)
