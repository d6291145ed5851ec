"""The worker, acting: carries out what its core decides, and turns what happens into the core's events."""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from xinfer import plugins
from xinfer.devices import Device, DeviceUse, Grant
from xinfer.errors import describe
from xinfer.protocol import Assignment, LaunchOrder, ReplicaStatus
from xinfer.settings import Settings
from xinfer.worker.affinity import keep_to_cores, share_of_cpu
from xinfer.worker.cgroups import Cgroups, limits
from xinfer.worker.core import WorkerCore
from xinfer.worker.devices import CPU, DeviceWatch, Look, Tenant, watch_devices
from xinfer.worker.enforce.base import grant
from xinfer.worker.enforce.hami_core import own_region, remove_region
from xinfer.worker.environments.builds import Builds
from xinfer.worker.environments.here import Environments
from xinfer.worker.environments.pythons import HeldPython, ReplicaPythons
from xinfer.worker.events import (
    Adopted,
    Command,
    End,
    Ended,
    Event,
    Instruct,
    Kill,
    Leave,
    Prepared,
    Report,
    Spawn,
    Started,
    Tick,
)
from xinfer.worker.folders import ReplicaFolders
from xinfer.worker.leases import LeaseBook
from xinfer.worker.offers import Offers, watch_offers
from xinfer.worker.oversight import Oversight, Running
from xinfer.worker.preparations import Preparations
from xinfer.worker.processes import ReplicaProcess, watch
from xinfer.worker.seats import gang_environment, taken_seat
from xinfer.worker.sockets import make_sockets, remove_sockets
from xinfer.worker.weights.held import HeldWeights
from xinfer.worker.weights.keeper import WeightKeeper

log = logging.getLogger(__name__)


def steady_clock() -> Callable[[], float]:
    """Epoch seconds that never jump: the clock of the machine may be set while backoffs run."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


class WorkerRuntime:
    """Owns the processes of a worker. ``changed`` is set whenever there is something new to report."""

    def __init__(
        self,
        settings: Settings,
        folders: ReplicaFolders,
        look: Look,
        host: str,
        cgroups: Cgroups | None = None,
        *,
        environments: Environments,
    ) -> None:
        self.changed = asyncio.Event()
        self._settings = settings
        self._folders = folders
        self._look = look
        self._host = host
        self._clock = steady_clock()
        self._book = LeaseBook(look.devices)
        self._cgroups = cgroups
        self._oversight = Oversight(settings, cgroups)
        self._core = WorkerCore(
            self._book,
            drain_s=settings.drain_timeout_s,
            new_instance=lambda: secrets.token_hex(6),
            profiles_memory=_profiles_memory,
        )
        self.builds = Builds(environments)
        """The environments of engines that are being built here."""
        self.offers: Offers = {}
        """What this worker can run now."""
        self._environments = environments
        self.weights = WeightKeeper(settings)
        """What comes from hubs, and is downloaded here."""
        self._preparations = Preparations(
            ReplicaPythons(environments, self.builds), self.weights.of_replicas, self.post
        )
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
        """Take over the processes that an earlier worker of this slot left running. Before all else."""
        self._judge(self._look)
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
                seat=order.seat,
            )
            log.info("adopted replica %s, process %d", order.replica_id, process.process.pid)
            self._follow(process)
            self.post(Adopted(process.instance, assignment, process.process.pid, process.address, view))

    def watch(self, devices: DeviceWatch) -> None:
        """Look at the devices from time to time, until ``detach``."""
        self._run(watch_devices(devices, self._settings.device_period_s, self._tenants, self._take))
        self._run(watch_offers(self._environments, self._settings.device_period_s, self.offers, self._offer))

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
        await self._preparations.close()
        await self.builds.close()
        await self.weights.close()

    def log_of(self, replica_id: str, lines: int) -> str:
        """The last lines of a replica's log. Raises NotFound."""
        return self._folders.log_of(replica_id, lines)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Spawn():
                self._spawn(command)
            case End(instance) if self._preparations.cancel(instance):
                pass
            case End(instance, drain_s):
                log.info("ending replica %s", self._processes[instance].order.replica_id)
                self._run(self._processes[instance].end(drain_s))
            case Kill(instance, why):
                log.warning("killing replica %s: %s", self._processes[instance].order.replica_id, why)
                self._processes[instance].kill()
            case Instruct(instance, order) if self._preparations.instruct(instance, order):
                pass
            case Instruct(instance, order):
                self._run(self._processes[instance].instruct(order))
            case Report():
                self.changed.set()

    def _spawn(self, command: Spawn) -> None:
        deployment, seat = command.assignment.deployment, command.assignment.seat

        def start(python: HeldPython, weights: HeldWeights) -> None:
            if seat is None or not seat.waits:
                self._start(command, python, weights)
                return
            python.release()
            weights.release()
            self.post(Prepared(command.instance))

        self._preparations.begin(command.instance, deployment, start)

    def _start(self, command: Spawn, python: HeldPython, weights: HeldWeights) -> None:
        assignment = command.assignment
        devices = {device.device_id: device for device in self.devices}
        gone = [piece.device_id for piece in command.lease.slices if piece.device_id not in devices]
        if gone:  # it was adopted, and the device did not outlive the worker that had it
            self.post(Ended(command.instance, f"there is no device {gone[0]} here any more", load_error=True))
            return
        granted = grant(command.lease, assignment.deployment, devices, self._look.means, command.instance)
        try:
            order = self._order(command, granted, python, weights)
            self._prepare(command.instance, limits(command.lease, devices))
            with python.handed_over() as for_python, weights.handed_over() as for_weights:
                inherits = (*for_python, *for_weights)
                process = ReplicaProcess.start(self._folders.create(order), order, self._settings, inherits)
        except OSError as error:
            remove_sockets(command.instance)
            self.post(Ended(command.instance, f"its process could not be started: {describe(error)}"))
            return
        log.info("started replica %s, process %d", order.replica_id, process.process.pid)
        self._oversight.started(order.replica_id)
        self.post(Started(command.instance, process.process.pid, order.seat.rendezvous if order.seat else ""))
        self._follow(process)
        self._confine(process)
        if self._settings.cpu_affinity == "auto":
            others = [other.process.pid for other in self._processes.values()]
            keep_to_cores(process.process.pid, share_of_cpu(command.lease, devices), others)

    def _order(self, command: Spawn, granted: Grant, python: HeldPython, weights: HeldWeights) -> LaunchOrder:
        """What the process starts from. Raises OSError."""
        assignment = command.assignment
        return LaunchOrder(
            replica_id=assignment.replica_id,
            instance=command.instance,
            generation=assignment.generation,
            deployment=assignment.deployment,
            slices=assignment.slices,
            threads=granted.threads,
            host=self._host,
            lease_s=self._settings.replica_lease_s,
            env=self._environment(command) | granted.env | python.variables,
            budgets=granted.budgets,
            python=python.path,
            weights=str(weights.path or ""),
            seat=taken_seat(assignment.seat, self._host),
        )

    def _environment(self, command: Spawn) -> dict[str, str]:
        """The variables that the engine wants set for this one process. Raises OSError."""
        assignment = command.assignment
        sockets = make_sockets(assignment.deployment.engine, command.instance)
        return gang_environment(assignment, self._host) | sockets

    def _prepare(self, instance: str, limits: Mapping[str, str]) -> None:
        """Make what holds a process before there is one. Raises OSError."""
        remove_region(instance)
        if self._cgroups is not None and limits:
            self._cgroups.create(instance, limits)

    def _confine(self, process: ReplicaProcess) -> None:
        """Put a process that has just started where it is held; one that stays outside must not run."""
        if self._cgroups is None or not self._cgroups.has(process.instance):
            return
        try:
            self._cgroups.enter(process.instance, process.process.pid)
        except OSError as error:
            why = describe(error)
            log.error("killing replica %s: it cannot enter its cgroup: %s", process.order.replica_id, why)  # noqa: TRY400  where this is in our code says nothing
            process.kill()

    def _follow(self, process: ReplicaProcess) -> None:
        self._processes[process.instance] = process
        self._idle.clear()
        self._run(watch(process, self._on_news))

    def _on_news(self, event: Event) -> None:
        if isinstance(event, Ended):
            process = self._processes.pop(event.instance)
            event = self._clear_up(process, event)
            why = "as asked" if process.ending else event.reason.partition("\n")[0]
            log.info("replica %s ended: %s", process.order.replica_id, why)
            self._folders.bury(process.folder, failed=not process.ending)
            if not self._processes:
                self._idle.set()
        self.post(event)

    def _clear_up(self, process: ReplicaProcess, ended: Ended) -> Ended:
        """Remove what held a process; its end, in better words where that is what ended it."""
        remove_region(process.instance)
        remove_sockets(process.instance)
        if self._cgroups is None:
            return ended
        killed = self._cgroups.was_killed(process.instance)
        self._cgroups.remove(process.instance)
        if not killed:
            return ended
        mib = sum(piece.memory_mib for piece in process.order.slices if piece.device_id == CPU)
        reason = f"it needed more than its {mib} MiB of main memory, and the kernel ended it; give it more (--gpumem)"
        return replace(ended, reason=f"{reason}\n{ended.reason}")

    def _offer(self, offers: Offers) -> None:
        self.offers = offers
        self.changed.set()

    def _tenants(self) -> list[Tenant]:
        return [
            Tenant(
                process.order.replica_id,
                process.process.pid,
                process.order.slices,
                own_region(process.order.env, process.instance),
            )
            for process in self._processes.values()
        ]

    def _take(self, look: Look) -> None:
        if look.devices != self.devices:
            self._book.update(look.devices)
            self.changed.set()
        self._book.observe(look.uses)
        self._judge(look)  # also, what waited for room may have it now

    def _judge(self, look: Look) -> None:
        running = {
            process.order.replica_id: Running(process.instance, process.process.pid)
            for process in self._processes.values()
        }
        self._look, looked = self._oversight.take(look, self._book.leases, running, self._clock())
        self.post(looked)

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


def _profiles_memory(engine: str) -> bool:
    return bool(getattr(plugins.engines().get(engine), "profiles_memory", False))


def _age(process: ReplicaProcess) -> tuple[int, float]:
    return (process.order.generation, process.process.started)
