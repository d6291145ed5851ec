"""The supervisor as an actor: messages in, answers out. What it knows is in ``cluster``, what it does in ``shell``."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

import msgspec
import xoscar as xo

import xinfer
from xinfer import catalog, plugins
from xinfer.catalog.roots import Roots
from xinfer.errors import LaunchCancelled, load_error
from xinfer.protocol import (
    SUPERVISOR_UID,
    Ack,
    ClusterInfo,
    LaunchRequest,
    ModelInstance,
    ModelProgress,
    WorkerHello,
    WorkerReport,
)
from xinfer.routes import RouteTable
from xinfer.settings import Settings
from xinfer.spec import Deployment
from xinfer.supervisor import admission, standing, views
from xinfer.supervisor.engines import ForEngines
from xinfer.supervisor.estimates import estimated
from xinfer.supervisor.events import WorkerJoined, WorkerLeft, WorkerReported
from xinfer.supervisor.looks import Looks
from xinfer.supervisor.models import ForModels, room_now
from xinfer.supervisor.operators import ForOperators
from xinfer.supervisor.registrations import Registrations
from xinfer.supervisor.registry import Choice, Registry
from xinfer.supervisor.running import ForRunningModels
from xinfer.supervisor.shell import Clock, Shell
from xinfer.supervisor.store import Store
from xinfer.supervisor.weights import ForWeights

MAX_POLL_S = 60.0
"""A long-poll is answered after so many seconds at the latest, so that none outlives its caller for long."""


class ForWorkersAndGateways:
    """What the other processes of a cluster say to the supervisor."""

    _shell: Shell

    async def join(self, hello: WorkerHello, report: WorkerReport) -> Ack:
        """A worker introduces its process and says what it runs."""
        shell = self._shell
        shell.apply(WorkerJoined(hello, report, shell.clock()), answering=hello.worker_id)
        return shell.cluster.ack(report, joining=True)

    async def report(self, report: WorkerReport) -> Ack:
        """A worker says what it runs now: with every change, and as its heartbeat."""
        shell = self._shell
        shell.apply(WorkerReported(report, shell.clock()), answering=report.worker_id)
        shell.learn(report)
        return shell.cluster.ack(report)

    async def leave(self, worker_id: str, incarnation: str) -> None:
        """A worker goes for good, and what it ran has to run elsewhere."""
        self._shell.apply(WorkerLeft(worker_id, incarnation, self._shell.clock()))

    async def routes(self, epoch: int, version: int, timeout_s: float, gateway: str = "") -> RouteTable | None:
        """The RouteTable, once it is newer than (epoch, version); None if it is not within ``timeout_s`` seconds.

        ``gateway`` names who asks; launches that are ready and models that are gone wait for those who follow so.
        """
        shell, known = self._shell, RouteTable(epoch=epoch, version=version)
        if gateway:
            shell.followers.has(gateway, (epoch, version))
            shell.followed.fire()
        deadline = _deadline(timeout_s)
        while not shell.closing:
            table = shell.cluster.table
            if table.version and table.newer_than(known):
                return table
            if not await shell.published.wait(_left(deadline)):
                return None
        return None


class ForClients:
    """What people ask for, through a gateway. Every method raises the ``xinfer.errors`` that say why it cannot be."""

    _shell: Shell
    _registry: Registry

    async def launch(self, request: LaunchRequest) -> ModelInstance:
        """Make a model desired; durable when this returns. ``wait`` follows it until it serves.

        Raises:
            InvalidRequest: the request cannot be meant; names the field.
            NotReady: no worker is there.
            Conflict: the model_uid is in use.
            NoCapacity: it does not fit; by how many MiB each device falls short.
        """
        shell = self._shell
        wanted, picked, warnings = await self._chosen(request)

        def admitted() -> Deployment:
            standing.require_free_names(shell.cluster, wanted)
            return admission.launched(shell.cluster, wanted)

        deployment = await shell.launch(admitted)
        return msgspec.structs.replace(self._instance(deployment.model_uid), picked=picked, warnings=warnings)

    async def explain(self, request: LaunchRequest) -> dict[str, Any]:
        """What would become of a launch, without making it: where its replicas would go, and every device's reason.

        Raises:
            InvalidRequest: the request cannot be meant; names the field.
            NotReady: no worker is there.
            Conflict: the model_uid is in use.
        """
        wanted, picked, warnings = await self._chosen(request)
        found = admission.explained(self._shell.cluster, wanted)
        return found | {"picked": picked, "warnings": list(warnings)}

    async def estimate(self, request: LaunchRequest) -> dict[str, Any]:
        """How much memory a replica of such a launch would need, by parts, and where it fits; nothing is launched.

        Raises:
            InvalidRequest: the request cannot be meant; names the field.
            NotReady: no worker is there.
        """
        await self._ready()
        resolve, workers, now = self._registry.resolve, self._shell.living_workers(), self._shell.clock()
        return estimated(self._shell.cluster, await asyncio.to_thread(resolve, request, workers, now))

    async def wait(self, model_uid: str, revision: int, timeout_s: float) -> ModelProgress:
        """How far a launch is, once that changes or it is done, at the latest after ``timeout_s`` seconds.

        Done means that every gateway routes to it, whichever of them a client asks next.

        Raises:
            LaunchCancelled: this revision was terminated or replaced.
            LoadFailed: no replica could load; the message has the engine's reason.
            InvalidRequest: likewise, where the reason is a word of the launch.
        """
        shell, deadline = self._shell, _deadline(timeout_s)
        first: ModelProgress | None = None
        while True:
            model = shell.cluster.models.get(model_uid)
            if model is None or model.deployment.revision != revision:
                raise LaunchCancelled(f"the launch of {model_uid!r} was cancelled", param="model_uid")
            progress = views.progress(model, shell.cluster.workers)
            if model.failed:
                raise load_error(f"{model_uid!r} could not be loaded: {progress.reason}", progress.refused)
            if progress.done:
                await shell.routed()
            if progress.done or shell.closing or first not in (None, progress):
                return progress
            first = progress
            if not await shell.changed.wait(_left(deadline)):
                return progress

    async def terminate(self, model_uid: str) -> None:
        """Stop wanting a model; its replicas drain and stop.

        Raises:
            UnknownModel: there is none.
        """
        shell = self._shell
        await shell.remove(model_uid, lambda: admission.find(shell.cluster, model_uid))
        await shell.routed()

    async def cancel(self, model_uid: str) -> None:
        """Terminate a model that is still being launched.

        Raises:
            UnknownModel: there is none.
            Conflict: it serves already.
        """
        shell = self._shell
        await shell.settled()
        await shell.remove(model_uid, lambda: admission.require_cancellable(shell.cluster, model_uid))
        await shell.routed()

    async def scale(self, model_uid: str, replicas: int) -> ModelInstance:
        """Change the number of replicas.

        Raises:
            UnknownModel: there is no such model.
            InvalidRequest: the number makes no sense.
            NoCapacity: the additional replicas do not fit.
        """
        shell = self._shell
        await shell.settled()
        await shell.change(lambda: admission.rescaled(shell.cluster, model_uid, replicas))
        return self._instance(model_uid)

    async def remove_replica(self, model_uid: str, replica_id: str) -> int:
        """Stop one replica for good; how many remain.

        Raises:
            UnknownModel: there is no such model.
            NotFound: it has no such replica.
            Conflict: it is the last one.
        """
        shell = self._shell
        await shell.settled()
        deployment = await shell.change(
            lambda: admission.without_replica(shell.cluster, model_uid, replica_id), drop=replica_id
        )
        return deployment.replicas

    async def _chosen(self, request: LaunchRequest) -> Choice:
        await self._ready()
        shell, choose = self._shell, self._registry.choose
        # In a thread, because a path is introspected from disk.
        found = await asyncio.to_thread(choose, request, shell.living_workers(), shell.clock(), room_now(shell))
        return found._replace(warnings=found.warnings + standing.missing_fallback(shell.cluster, found.deployment))

    async def _ready(self) -> None:
        await self._shell.settled()
        admission.require_workers(self._shell.cluster)

    def _instance(self, model_uid: str) -> ModelInstance:
        cluster = self._shell.cluster
        return views.instance(admission.find(cluster, model_uid), cluster.workers)


class SupervisorActor(
    ForWorkersAndGateways,
    ForClients,
    ForModels,
    ForRunningModels,
    ForOperators,
    ForEngines,
    ForWeights,
    xo.StatelessActor,  # type: ignore[misc]  # no types
):
    """The supervisor under ``SUPERVISOR_UID``. Stateless in xoscar's sense: its calls run side by side."""

    def __init__(self, shell: Shell, registry: Registry, registrations: Registrations, roots: Roots) -> None:
        super().__init__()
        self._shell = shell
        self._registry = registry
        self._registrations = registrations
        self._roots = roots

    async def progress(self, model_uid: str) -> ModelProgress:
        """How far a model is.

        Raises:
            UnknownModel: there is no such model.
        """
        cluster = self._shell.cluster
        return views.progress(admission.find(cluster, model_uid), cluster.workers)

    async def instances(self, model_name: str | None = None, model_uid: str | None = None) -> tuple[ModelInstance, ...]:
        """Every model beside its replicas, or those of a name or uid."""
        cluster = self._shell.cluster
        return tuple(
            views.instance(model, cluster.workers)
            for uid, model in sorted(cluster.models.items())
            if model_uid in (None, uid) and model_name in (None, model.deployment.spec.name)
        )

    async def info(self) -> ClusterInfo:
        """The whole cluster."""
        shell, now = self._shell, self._shell.clock()
        return ClusterInfo(
            epoch=shell.cluster.epoch,
            version=xinfer.__version__,
            address=self.address,
            uptime_s=max(0.0, now - shell.started_at),
            settling=shell.cluster.settling,
            workers=tuple(
                views.worker_info(worker, now, shell.cluster.cordons.values())
                for worker in sorted(shell.cluster.workers.values(), key=lambda worker: worker.hello.name)
            ),
            instances=await self.instances(),
            cordons=tuple(shell.cluster.cordons.values()),
            rejects=dict(shell.rejects),
        )


@dataclass(frozen=True)
class SupervisorHandle:
    """A supervisor that was started here. ``actor`` is its reference."""

    actor: "xo.ActorRefType[SupervisorActor]"
    shell: Shell

    async def stop(self) -> None:
        """End it cleanly: what was begun is written, those who wait are answered, the store is closed."""
        await self.shell.close()
        await xo.destroy_actor(self.actor)


async def start_supervisor(settings: Settings, address: str, clock: Clock = time.time) -> SupervisorHandle:
    """Start the supervisor in the actor pool that runs in this process at ``address``.

    Raises:
        StoreFailed: the store cannot be opened; says why.
    """
    store = Store(settings.store_url)
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(store.close)
        remembered, roots = await store.open(), Roots.of(settings)
        shell = Shell(settings, store, remembered, clock)
        registrations = Registrations(catalog.builtin(), store, remembered.registrations, clock)
        allowed = settings.trust_remote_code
        looks = Looks(settings, shell)
        registry = Registry(
            registrations, plugins.engines(), shell.peaks.estimates, roots, remote_code=allowed, elsewhere=looks
        )
        actor = await xo.create_actor(
            SupervisorActor, shell, registry, registrations, roots, address=address, uid=SUPERVISOR_UID
        )
        shell.start()
        undo.pop_all()
    return SupervisorHandle(actor, shell)


def _deadline(timeout_s: float) -> float:
    return asyncio.get_running_loop().time() + min(max(timeout_s, 0.0), MAX_POLL_S)


def _left(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())
