"""A cluster core with a clock that only tests move, and workers that do at once what they are told."""

import msgspec
import pytest

from xinfer.devices import Device
from xinfer.ops import Kind
from xinfer.protocol import Cordon, EngineOffer, ReplicaStatus, WorkerHello, WorkerReport
from xinfer.routes import Endpoint
from xinfer.spec import Deployment, Format, ModelSpec, ReplicaState, ResourceRequest
from xinfer.supervisor.cluster import Cluster, Patience
from xinfer.supervisor.events import (
    Cordoned,
    DeploymentSet,
    Tick,
    Uncordoned,
    WorkerJoined,
    WorkerLeft,
    WorkerReported,
)
from xinfer.supervisor.placement.spread import POLICY

TIMEOUT_S = 10.0


def deployment(uid="m", *, replicas=1, revision=1, memory_mib=100, worker=None, workers=1, created_at=0.0):
    return Deployment(
        model_uid=uid,
        spec=ModelSpec(name="echo", kind=Kind.LLM, source="", format=Format.NONE),
        engine="echo",
        replicas=replicas,
        request=ResourceRequest(memory_mib=memory_mib, worker=worker, workers=workers),
        revision=revision,
        created_at=created_at,
    )


class FakeWorker:
    """Does at once what it is told, and keeps its replicas over restarts as a real one does."""

    def __init__(self, world, name, memory_mib=1000, engines=("echo",), devices=()):
        self.world = world
        self.hello = WorkerHello(
            worker_id=name,
            incarnation=f"{name}/1",
            name=name,
            address=f"{name}:1",
            host_id=name,
            version="0",
            devices=tuple(devices) or (Device(device_id="cpu0", kind="cpu", memory_mib=memory_mib, cores=4),),
            engines={engine: EngineOffer(True) for engine in engines},
        )
        self.sequence = 0
        self.statuses = {}
        self.uses = ()

    def join(self):
        return self.world.handle(WorkerJoined(self.hello, self._report(), self.world.now))

    def restart(self):
        self.hello = msgspec.structs.replace(self.hello, incarnation=self.hello.incarnation + "+")
        return self.join()

    def report(self):
        return self.world.handle(WorkerReported(self._report(), self.world.now))

    def obey(self, state=ReplicaState.READY, **fields):
        """Run what is assigned, everything in this state."""
        old, self.statuses = self.statuses, {}
        for item in self.world.cluster.workers[self.hello.worker_id].assignments.items:
            known = old.get(item.replica_id)
            if known and known.generation == item.generation and known.state is state:
                self.statuses[item.replica_id] = known
            else:
                self.statuses[item.replica_id] = status_of(item, state, **fields)
        return self.report()

    def leave(self):
        return self.world.handle(WorkerLeft(self.hello.worker_id, self.hello.incarnation, self.world.now))

    def _report(self):
        self.sequence += 1
        return WorkerReport(
            worker_id=self.hello.worker_id,
            incarnation=self.hello.incarnation,
            sequence=self.sequence,
            replicas=tuple(self.statuses.values()),
            uses=self.uses,
        )

    def see(self, *uses):
        """Report this of the devices."""
        self.uses = uses
        return self.report()

    def become(self, device_id, **fields):
        """Say hello again with one device that is different now."""
        devices = tuple(
            msgspec.structs.replace(device, **fields) if device.device_id == device_id else device
            for device in self.hello.devices
        )
        self.hello = msgspec.structs.replace(self.hello, devices=devices)
        return self.join()

    def lose(self, device_id, reason="it is not there any more"):
        return self.become(device_id, healthy=False, health_reason=reason)


def gpu(number, memory_mib=1000):
    return Device(
        device_id=f"gpu-{number}",
        kind="cuda",
        index=number,
        uuid=f"GPU-{number}",
        memory_mib=memory_mib,
        cores=100,
    )


def status_of(item, state, **fields):
    instance = f"{item.replica_id}@{item.generation}"
    ready, seat = state is ReplicaState.READY, item.seat
    if seat is not None and seat.leads and state is not ReplicaState.PENDING:
        seat = msgspec.structs.replace(seat, rendezvous="h:9")
    return ReplicaStatus(
        replica_id=item.replica_id,
        model_uid=item.deployment.model_uid,
        generation=item.generation,
        revision=item.deployment.revision,
        state=state,
        endpoint=Endpoint(item.replica_id, instance, "tcp://h:1") if ready and (not seat or seat.leads) else None,
        control_address="h:2" if ready else "",
        slices=item.slices,
        instance="" if state in (ReplicaState.PENDING, ReplicaState.FAILED) else instance,
        seat=seat,
        **fields,
    )


class World:
    """A cluster core with a clock that only tests move."""

    def __init__(self, *, epoch=1, deployments=(), known=(), cordons=(), now=1000.0):
        self.now = now
        self.cluster = Cluster(
            epoch=epoch,
            policy=POLICY,
            patience=Patience(TIMEOUT_S, settle_s=5.0),
            now=now,
            deployments=deployments,
            known_workers=known,
            cordons=cordons,
        )

    def handle(self, event):
        return self.cluster.handle(event)

    def worker(self, name, **fields):
        worker = FakeWorker(self, name, **fields)
        worker.join()
        return worker

    def set(self, wanted, drop=""):
        return self.handle(DeploymentSet(wanted, self.now, drop))

    def cordon(self, worker_id, device_id="", *, drain=False):
        cordon = Cordon(worker_id=worker_id, device_id=device_id, drain=drain, since=self.now)
        return self.handle(Cordoned(cordon, self.now))

    def uncordon(self, worker_id, device_id=""):
        return self.handle(Uncordoned((worker_id, device_id), self.now))

    def pass_time(self, seconds, step=1.0, reporting=()):
        commands = []
        end = self.now + seconds
        while self.now < end:
            self.now += step
            for worker in reporting:
                worker.report()
            commands += self.handle(Tick(self.now))
        return commands

    def places(self, uid="m"):
        return {
            r.replica_id: (r.leader.worker_id, r.leader.generation) for r in self.cluster.models[uid].replicas.values()
        }

    def route(self, uid="m"):
        return self.cluster.table.models[uid]

    def instances_routed(self, uid="m"):
        return [endpoint.replica_id for endpoint in self.route(uid).endpoints]


def of(kind, commands):
    return [command for command in commands if isinstance(command, kind)]


def restarted(old, *, known=("a", "b")):
    """The world after a restart of its supervisor, with the same store."""
    models = [model.deployment for model in old.cluster.models.values()]
    cordons = old.cluster.cordons.values()
    return World(epoch=old.cluster.epoch + 1, deployments=models, known=known, cordons=cordons, now=old.now)


@pytest.fixture
def world():
    """A cluster that has just been started for the first time."""
    return World()


@pytest.fixture
def new_world():
    return World


@pytest.fixture
def new_worker():
    return FakeWorker


@pytest.fixture(name="deployment")
def deployment_maker():
    return deployment


@pytest.fixture(name="restarted")
def restart():
    return restarted


@pytest.fixture(name="gpu")
def gpu_maker():
    return gpu


@pytest.fixture(name="of")
def only_of():
    return of
