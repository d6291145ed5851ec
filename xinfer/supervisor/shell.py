"""The shell around the cluster core: feeds it events, carries its commands out, and keeps the store in step.

A change of what is desired is decided by the core, written to the store, and only then applied and published; one at
a time, and to its end even if the caller goes away.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import xoscar as xo

from xinfer import plugins
from xinfer.actors import Unanswered, answer
from xinfer.errors import NoCapacity, XinferError, describe
from xinfer.protocol import REPLICA_UID, WORKER_UID, Cordon, ReplicaStatus, ReplicaView, WorkerHello, WorkerReport
from xinfer.settings import Settings
from xinfer.spec import Deployment
from xinfer.supervisor.cluster import Cluster, Patience
from xinfer.supervisor.events import (
    Command,
    Cordoned,
    DeploymentRemoved,
    DeploymentSet,
    Event,
    ForgetWorker,
    ProbeReplicas,
    PublishRoutes,
    RememberWorker,
    ReplicasProbed,
    SendAssignments,
    Target,
    Tick,
    Uncordoned,
)
from xinfer.supervisor.followers import Followers
from xinfer.supervisor.peaks import Peak, Peaks, memory_of_engines
from xinfer.supervisor.signal import Signal
from xinfer.supervisor.store import Remembered, Store

CATCH_UP_S = 2.0
"""A living gateway has a new table within milliseconds, a busy one within this time."""
NO_WORKER = "NoWorker"
"""The reason of a refusal where no living worker may run the replica, so that no device was looked at."""
PLACEMENT = "spread"
"""The placement policy of a launch that names none."""

T = TypeVar("T")
Clock = Callable[[], float]
"""Epoch seconds."""

logger = logging.getLogger(__name__)


class Shell:
    """A running supervisor, without its actor."""

    def __init__(self, settings: Settings, store: Store, remembered: Remembered, clock: Clock) -> None:
        self.clock = clock
        self.started_at = clock()
        self.cluster = Cluster(
            epoch=remembered.epoch,
            policy=plugins.policies("xinfer.supervisor.placement")[PLACEMENT],
            patience=Patience(settings.worker_timeout_s, settings.settle_s),
            now=self.started_at,
            deployments=remembered.deployments,
            known_workers=remembered.worker_ids,
            cordons=remembered.cordons,
        )
        self.changed = Signal()
        """Fires after every event."""
        self.published = Signal()
        """Fires with every new RouteTable."""
        self.followers = Followers()
        self.followed = Signal()
        """Fires when a gateway says which table it has."""
        self.peaks = Peaks(remembered.peaks, memory_of_engines(plugins.engines()))
        """What replicas were seen to use, for those that are launched next."""
        self.closing = False
        self.rejects: Counter[str] = Counter()
        """How many changes were refused for lack of room, by reason; one may have several."""
        self._settings = settings
        self._store = store
        self._last_revision = remembered.last_revision
        self._mutation = asyncio.Lock()
        self._note_order = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outgoing: dict[str, SendAssignments] = {}

    def start(self) -> None:
        """Begin to look at the clock."""
        self._task(self._tick())

    async def close(self) -> None:
        """End every task, and let everybody who waits go."""
        self.closing = True
        self.changed.fire()
        self.published.fire()
        async with self._mutation, self._note_order:  # what is being written now is written to its end
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._store.close()

    def apply(self, event: Event, answering: str = "") -> None:
        """Hand an event to the core and start what follows.

        ``answering`` is a worker that gets its assignments as the answer to its call, and is not called for them.
        """
        for command in self.cluster.handle(event):
            self._carry_out(command, answering)
        self.changed.fire()

    def learn(self, report: WorkerReport) -> None:
        """Remember what the replicas of a worker were seen to use, where that is more than ever before."""
        worker, models = self.cluster.workers.get(report.worker_id), self.cluster.models
        if worker is None:
            return
        deployments = {uid: model.deployment for uid, model in models.items()}
        for peak in self.peaks.learn(worker.hello, report, deployments):
            self._background(f"observed peak of {peak.key.model}", self._remember(peak))

    async def settled(self) -> None:
        """Wait until the core has heard enough to decide anything."""
        while self.cluster.settling and not self.closing:
            await self.changed.wait(self._settings.settle_s)

    async def routed(self) -> None:
        """Wait until every gateway has the table of now, or for those that died meanwhile CATCH_UP_S seconds."""
        table = self.cluster.table
        deadline = asyncio.get_running_loop().time() + CATCH_UP_S
        while table.version and (behind := self.followers.behind(table)) and not self.closing:
            if not await self.followed.wait(deadline - asyncio.get_running_loop().time()):
                self.followers.forget(behind & self.followers.behind(table))
                return

    def living_workers(self) -> list[WorkerHello]:
        """Who could run something now."""
        return [worker.hello for worker in self.cluster.workers.values() if worker.alive]

    # What is desired.

    async def launch(self, decide: Callable[[], Deployment]) -> Deployment:
        """Store and apply a new Deployment under a revision that was never used."""

        def with_revision() -> Deployment:
            deployment = decide()
            self._last_revision += 1
            return msgspec.structs.replace(deployment, revision=self._last_revision)

        return await self.change(with_revision)

    async def change(self, decide: Callable[[], Deployment], drop: str = "") -> Deployment:
        """Decide, store, apply. ``decide`` may refuse by raising; then nothing has happened."""
        return await asyncio.shield(self._task(self._change(decide, drop)))

    async def remove(self, model_uid: str, check: Callable[[], object]) -> None:
        """Remove a model from the store and the cluster, unless ``check`` refuses by raising."""
        await asyncio.shield(self._task(self._remove(model_uid, check)))

    async def cordon(self, decide: Callable[[], Cordon]) -> Cordon:
        """Let a worker or a device take nothing new. ``decide`` may refuse by raising."""
        return await asyncio.shield(self._task(self._cordon(decide)))

    async def uncordon(self, decide: Callable[[], Target]) -> Target:
        """Undo ``cordon``; no cordon is there: nothing happens. ``decide`` may refuse by raising."""
        return await asyncio.shield(self._task(self._uncordon(decide)))

    async def _cordon(self, decide: Callable[[], Cordon]) -> Cordon:
        async with self._mutation:
            cordon = decide()
            await self._store.put_cordon(cordon)
            self.apply(Cordoned(cordon, self.clock()))
            return cordon

    async def _uncordon(self, decide: Callable[[], Target]) -> Target:
        async with self._mutation:
            target = decide()
            await self._store.remove_cordon(*target)
            self.apply(Uncordoned(target, self.clock()))
            return target

    async def _change(self, decide: Callable[[], Deployment], drop: str) -> Deployment:
        async with self._mutation:
            try:
                deployment = decide()
            except NoCapacity as refused:
                self.rejects.update(refused.details.get("reasons") or {NO_WORKER: 1})
                raise
            await self._store.put(deployment, self.clock())
            self.apply(DeploymentSet(deployment, self.clock(), drop))
            return deployment

    async def _remove(self, model_uid: str, check: Callable[[], object]) -> None:
        async with self._mutation:
            check()
            await self._store.remove(model_uid)
            self.apply(DeploymentRemoved(model_uid, self.clock()))

    # Commands.

    def _carry_out(self, command: Command, answering: str) -> None:
        match command:
            case SendAssignments(worker_id=worker_id):
                if worker_id != answering:
                    sending = worker_id in self._outgoing
                    self._outgoing[worker_id] = command
                    if not sending:
                        self._background(f"assignments for worker {worker_id}", self._send(worker_id))
            case PublishRoutes():
                self.published.fire()
            case ProbeReplicas():
                self._background(f"probe of worker {command.worker_id}", self._probe(command))
            case RememberWorker() | ForgetWorker():
                self._background(f"note on worker {command.worker_id}", self._note(command))

    async def _send(self, worker_id: str) -> None:
        """Send a worker its latest assignments, until none are newer. Its next report repairs what gets lost."""
        sent: SendAssignments | None = None
        try:
            while (command := self._outgoing[worker_id]) is not sent:
                sent = command
                await answer(_assign(command))
        finally:
            del self._outgoing[worker_id]

    async def _probe(self, command: ProbeReplicas) -> None:
        """Ask replicas themselves. One that is silent for as long as a lost worker counts as dead."""
        timeout_s = self._settings.worker_timeout_s
        views = await asyncio.gather(
            *(answer(_peek(status), timeout_s) for status in command.statuses), return_exceptions=True
        )
        alive: dict[str, ReplicaView] = {}
        dead: set[tuple[str, int]] = set()
        for status, view in zip(command.statuses, views, strict=True):
            if isinstance(view, BaseException):
                logger.warning("replica %s of a lost worker is dead: %s", status.replica_id, describe(view))
                dead.add((status.replica_id, status.generation))
            else:
                alive[status.replica_id] = view
        self.apply(ReplicasProbed(command.worker_id, alive, frozenset(dead), self.clock()))

    async def _note(self, command: RememberWorker | ForgetWorker) -> None:
        async with self._note_order:
            match command:
                case RememberWorker(worker_id=worker_id, name=name, address=address, seen_at=seen_at):
                    await self._store.remember_worker(worker_id, name, address, seen_at)
                case ForgetWorker(worker_id=worker_id):
                    await self._store.forget_worker(worker_id)

    async def _remember(self, peak: Peak) -> None:
        async with self._note_order:
            await self._store.put_peak(peak, self.clock())

    async def _tick(self) -> None:
        period_s = min(self._settings.heartbeat_s, self._settings.worker_timeout_s / 4)
        while True:
            await asyncio.sleep(period_s)
            await _reported("tick", self._look_at_clock())

    async def _look_at_clock(self) -> None:
        self.apply(Tick(self.clock()))

    # Tasks.

    def _task(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _background(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        self._task(_reported(what, work))


async def _assign(command: SendAssignments) -> None:
    worker = await xo.actor_ref(uid=WORKER_UID, address=command.address)
    await worker.assign(command.assignments)


async def _peek(status: ReplicaStatus) -> ReplicaView:
    instance = status.endpoint.instance if status.endpoint else status.instance
    replica = await xo.actor_ref(uid=REPLICA_UID, address=status.control_address)
    view: ReplicaView = await replica.peek(instance)
    return view


async def _reported(what: str, work: Coroutine[Any, Any, None]) -> None:
    """Nobody awaits a background task, so its failure is logged here."""
    try:
        await work
    except (Unanswered, XinferError) as error:
        logger.warning("%s: %s", what, describe(error))
    except Exception:
        logger.exception("%s failed", what)
