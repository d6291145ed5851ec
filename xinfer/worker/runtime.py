"""The worker, acting: carries out what its core decides, and turns what happens into the core's events."""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from xinfer.devices import Device, DeviceUse
from xinfer.errors import describe
from xinfer.protocol import Assignment, LaunchOrder, ReplicaStatus
from xinfer.settings import Settings
from xinfer.worker.core import WorkerCore
from xinfer.worker.devices import DeviceWatch, Look, Tenant, watch_devices
from xinfer.worker.enforce.base import grant
from xinfer.worker.events import Adopted, Command, End, Ended, Event, Kill, Leave, Report, Spawn, Started, Tick
from xinfer.worker.folders import ReplicaFolders
from xinfer.worker.leases import LeaseBook
from xinfer.worker.processes import ReplicaProcess, watch

log = logging.getLogger(__name__)


def steady_clock() -> Callable[[], float]:
    """Epoch seconds that never jump: the clock of the machine may be set while backoffs run."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


class WorkerRuntime:
    """Owns the processes of a worker. ``changed`` is set whenever there is something new to report."""

    def __init__(self, settings: Settings, folders: ReplicaFolders, look: Look, host: str) -> None:
        self.changed = asyncio.Event()
        self._settings = settings
        self._folders = folders
        self._look = look
        self._host = host
        self._clock = steady_clock()
        self._book = LeaseBook(look.devices)
        self._core = WorkerCore(self._book, drain_s=settings.drain_timeout_s, new_instance=lambda: secrets.token_hex(6))
        self._processes: dict[str, ReplicaProcess] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._events: deque[Event] = deque()
        self._handling = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._tick: asyncio.TimerHandle | None = None

    @property
    def assignments_version(self) -> tuple[int, int]:
        """(epoch, version) of the Assignments it works by."""
        return self._core.assignments_version

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device as it is known now; a lost one is not healthy."""
        return self._look.devices

    @property
    def uses(self) -> tuple[DeviceUse, ...]:
        """What the devices reported last."""
        return self._look.uses

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        """Every replica as it is now."""
        return self._core.statuses()

    async def adopt(self) -> None:
        """Take over the processes that an earlier worker of this slot left running."""
        newest: dict[str, ReplicaProcess] = {}
        for folder, order, process_id in self._folders.living():
            process = ReplicaProcess(folder, order, process_id)
            rival = newest.get(order.replica_id)
            if rival is not None:
                older, process = sorted((rival, process), key=_age)
                log.warning("replica %s runs twice; ending process %d", order.replica_id, older.process.pid)
                older.kill()
            newest[order.replica_id] = process
        self._folders.prune()
        views = await asyncio.gather(*(process.peek() for process in newest.values()))
        for process, view in zip(newest.values(), views, strict=True):
            order = process.order
            assignment = Assignment(
                replica_id=order.replica_id,
                generation=order.generation,
                deployment=order.deployment,
                slices=order.slices,
            )
            log.info("adopted replica %s, process %d", order.replica_id, process.process.pid)
            self._follow(process)
            self.post(Adopted(process.instance, assignment, process.process.pid, process.address, view))

    def watch(self, devices: DeviceWatch) -> None:
        """Look at the devices from time to time, until ``detach``."""
        self._run(watch_devices(devices, self._settings.device_period_s, self._tenants, self._take))

    def post(self, event: Event) -> None:
        """Let the core handle an event, and carry out what it says."""
        self._events.append(event)
        if self._handling:
            return  # commands of one event are carried out before the next event is looked at
        self._handling = True
        try:
            while self._events:
                for command in self._core.handle(self._events.popleft(), self._clock()):
                    self._carry_out(command)
        finally:
            self._handling = False
        self._schedule_tick()

    async def end_all(self, *, drain: bool) -> None:
        """End every replica, letting each finish what it has begun if ``drain``; nothing new is started."""
        self.post(Leave(self._settings.drain_timeout_s if drain else 0.0))
        await self._idle.wait()

    async def detach(self) -> None:
        """Stop acting and leave the processes running, for the next worker of this slot."""
        if self._tick is not None:
            self._tick.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def log_of(self, replica_id: str, lines: int) -> str:
        """The last lines of a replica's log. Raises NotFound."""
        return self._folders.log_of(replica_id, lines)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Spawn():
                self._spawn(command)
            case End(instance, drain_s):
                log.info("ending replica %s", self._processes[instance].order.replica_id)
                self._run(self._processes[instance].end(drain_s))
            case Kill(instance):
                log.warning("killing replica %s, which hangs", self._processes[instance].order.replica_id)
                self._processes[instance].kill()
            case Report():
                self.changed.set()

    def _spawn(self, command: Spawn) -> None:
        assignment = command.assignment
        devices = {device.device_id: device for device in self.devices}
        gone = [piece.device_id for piece in command.lease.slices if piece.device_id not in devices]
        if gone:  # it was adopted, and the device did not outlive the worker that had it
            self.post(Ended(command.instance, f"there is no device {gone[0]} here any more", load_error=True))
            return
        granted = grant(command.lease, assignment.deployment, devices, self._look.means)
        order = LaunchOrder(
            replica_id=assignment.replica_id,
            instance=command.instance,
            generation=assignment.generation,
            deployment=assignment.deployment,
            slices=assignment.slices,
            threads=granted.threads,
            host=self._host,
            lease_s=self._settings.replica_lease_s,
            env=granted.env,
            budgets=granted.budgets,
        )
        try:
            process = ReplicaProcess.start(self._folders.create(order), order, self._settings)
        except OSError as error:
            self.post(Ended(command.instance, f"its process could not be started: {describe(error)}"))
            return
        log.info("started replica %s, process %d", order.replica_id, process.process.pid)
        self.post(Started(command.instance, process.process.pid))
        self._follow(process)

    def _follow(self, process: ReplicaProcess) -> None:
        self._processes[process.instance] = process
        self._idle.clear()
        self._run(watch(process, self._on_news))

    def _on_news(self, event: Event) -> None:
        if isinstance(event, Ended):
            process = self._processes.pop(event.instance)
            why = "as asked" if process.ending else event.reason.partition("\n")[0]
            log.info("replica %s ended: %s", process.order.replica_id, why)
            self._folders.bury(process.folder, failed=not process.ending)
            if not self._processes:
                self._idle.set()
        self.post(event)

    def _tenants(self) -> list[Tenant]:
        return [
            Tenant(process.order.replica_id, process.process.pid, process.order.slices)
            for process in self._processes.values()
        ]

    def _take(self, look: Look) -> None:
        before, self._look = self._look, look
        if look.devices != before.devices:
            self._book.update(look.devices)
            self.changed.set()
        self._book.observe(look.uses)
        self.post(Tick())  # what waited for room may have it now

    def _schedule_tick(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        at = self._core.next_tick
        if at is not None:
            delay = max(0.0, at - self._clock())
            self._tick = asyncio.get_running_loop().call_later(delay, self.post, Tick())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of the worker failed", exc_info=task.exception())


def _age(process: ReplicaProcess) -> tuple[int, float]:
    return (process.order.generation, process.process.started)
