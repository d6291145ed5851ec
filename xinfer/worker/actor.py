"""The worker as others see it: its actor, and the function that starts everything behind it."""

import asyncio
import contextlib
import secrets
import socket

import msgspec
import xoscar as xo

import xinfer
from xinfer.actors import Unanswered, answer
from xinfer.processes import host_id
from xinfer.protocol import WORKER_UID, Assignments, EngineBuild, WorkerHello
from xinfer.settings import Settings
from xinfer.worker.cgroups import open_cgroups
from xinfer.worker.devices import DeviceWatch
from xinfer.worker.environments.here import Environments, machine
from xinfer.worker.events import Assigned
from xinfer.worker.folders import ReplicaFolders
from xinfer.worker.identity import Slot, claim_slot
from xinfer.worker.link import FindSupervisor, SupervisorLink
from xinfer.worker.offers import engine_offers
from xinfer.worker.runtime import WorkerRuntime
from xinfer.worker.weights.actor import ForWeights


class WorkerActor(ForWeights, xo.StatelessActor):  # type: ignore[misc]  # xoscar ships no types
    """What the supervisor can tell and ask a worker. A thin shell around ``WorkerRuntime``."""

    def __init__(self, hello: WorkerHello, runtime: WorkerRuntime) -> None:
        super().__init__()
        self._hello = hello
        self._runtime = runtime
        self._weights = runtime.weights

    async def assign(self, assignments: Assignments) -> None:
        """Run these replicas and no others. Older assignments than those it works by are ignored."""
        self._runtime.post(Assigned(assignments))

    async def identify(self) -> WorkerHello:
        """Who this is: another worker may have been started at the same address."""
        return msgspec.structs.replace(self._hello, devices=self._runtime.devices, engines=dict(self._runtime.offers))

    async def replica_log(self, replica_id: str, lines: int) -> str:
        """The last lines that the latest process of a replica wrote.

        Raises:
            NotFound: there is no log of such a replica here.
        """
        return self._runtime.log_of(replica_id, lines)

    async def install_engine(self, engine: str, packages: tuple[str, ...] = ()) -> EngineBuild:
        """Begin to build an environment for an engine, or say that it is there; ``engine_builds`` say how far it is.

        Raises:
            InvalidRequest: there is no such engine, or it cannot have an environment here.
        """
        return await self._runtime.builds.order(engine, packages)

    async def engine_builds(self) -> tuple[EngineBuild, ...]:
        """Every environment that this process builds or has built."""
        return self._runtime.builds.states

    async def cancel_engine_builds(self, engine: str) -> tuple[EngineBuild, ...]:
        """End the builds for an engine.

        Raises:
            NotFound: none is under way here.
        """
        return await self._runtime.builds.cancel(engine)


class WorkerHandle:
    """A started worker, for whoever started it."""

    def __init__(
        self,
        hello: WorkerHello,
        slot: Slot,
        runtime: WorkerRuntime,
        link: SupervisorLink,
        actor: xo.ActorRefType[WorkerActor],
    ) -> None:
        self.hello = hello
        self._slot = slot
        self._runtime = runtime
        self._link = link
        self._actor = actor
        self._talking = asyncio.create_task(link.run())

    async def joined(self) -> None:
        """Wait until the supervisor knows this worker."""
        await self._link.joined.wait()

    async def stop(self, *, drain: bool = True) -> None:
        """Leave the cluster and end every replica, letting each finish what it has begun if ``drain``."""
        await self._hang_up()
        await self._link.leave()
        await self._runtime.end_all(drain=drain)
        await self._close()

    async def detach(self) -> None:
        """End the worker and leave its replicas running, as a crash would; the next worker of this slot adopts them."""
        await self._hang_up()
        await self._close()

    async def _hang_up(self) -> None:
        self._talking.cancel()
        await asyncio.gather(self._talking, return_exceptions=True)

    async def _close(self) -> None:
        with contextlib.suppress(Unanswered):  # its pool is gone, and it with it
            await answer(xo.destroy_actor(self._actor))
        await self._runtime.detach()
        self._slot.release()


async def start_worker(
    settings: Settings,
    address: str,
    *,
    find_supervisor: FindSupervisor,
    name: str | None = None,
    host: str = "127.0.0.1",
) -> WorkerHandle:
    """Start a worker in the actor pool of this process at ``address``; it joins as soon as there is a supervisor.

    Replicas that an earlier worker of the same home left running are adopted. New ones bind ``host``.

    Raises:
        OSError: ``settings.home`` is not writable.
    """
    slot = claim_slot(settings.home)
    try:
        cgroups = open_cgroups() if settings.cgroups == "auto" else None
        devices = DeviceWatch(settings=settings, cgroups=cgroups is not None)
        look = await asyncio.to_thread(devices.look)
        environments = Environments(settings.home, machine(look.devices))
        await asyncio.to_thread(environments.store.sweep)
        offers = await asyncio.to_thread(engine_offers, environments)
        hello = WorkerHello(
            worker_id=slot.worker_id,
            incarnation=secrets.token_hex(8),
            name=name or (socket.gethostname() + (f"-{slot.number}" if slot.number else "")),
            address=address,
            host_id=host_id(),
            version=xinfer.__version__,
            devices=look.devices,
            engines=offers,
            node=settings.node_name or socket.gethostname(),
        )
        runtime = WorkerRuntime(
            settings, ReplicaFolders(slot.path / "replicas"), look, host, cgroups, environments=environments
        )
        runtime.offers = offers
        await runtime.adopt()
        actor = await xo.create_actor(WorkerActor, hello, runtime, address=address, uid=WORKER_UID)
    except BaseException:
        slot.release()
        raise
    runtime.watch(devices)
    link = SupervisorLink(hello, runtime, find_supervisor, settings.heartbeat_s)
    return WorkerHandle(hello, slot, runtime, link, actor)
