"""Refusals that depend on who is on a device already, or on what became of it: each with its exact error."""

import msgspec
import pytest

from xinfer.devices import Device, DeviceSlice
from xinfer.errors import NoCapacity
from xinfer.ops import Kind
from xinfer.protocol import EngineOffer, LaunchRequest, ReplicaStatus, WorkerHello, WorkerReport
from xinfer.spec import Deployment, Format, ModelSpec, ReplicaState
from xinfer.supervisor import admission
from xinfer.supervisor.cluster import Cluster, Patience
from xinfer.supervisor.events import DeploymentSet, WorkerJoined
from xinfer.supervisor.placement.spread import POLICY
from xinfer.supervisor.resources import resources
from xinfer.worker.leases import LeaseBook

CARDS = tuple(
    Device(device_id=f"gpu-{number}", kind="cuda", index=number, uuid=f"GPU-{number}", memory_mib=1000, cores=100)
    for number in range(2)
)
HELLO = WorkerHello(
    worker_id="a",
    incarnation="1",
    name="a",
    address="a:1",
    host_id="a",
    version="0",
    devices=CARDS,
    engines={"echo": EngineOffer(True)},
)


class Host:
    """One worker, and launches in a user's words."""

    def __init__(self, *cards):
        self.hello = msgspec.structs.replace(HELLO, devices=cards)
        self.cluster = Cluster(epoch=1, policy=POLICY, patience=Patience(), now=0.0)
        self.statuses = ()
        self.say_hello()

    def say_hello(self):
        report = WorkerReport(worker_id="a", incarnation="1", sequence=1, replicas=self.statuses)
        self.cluster.handle(WorkerJoined(self.hello, report, 0.0))

    def launch(self, uid, **words):
        request = LaunchRequest(model_name="echo", **words)
        wanted = Deployment(
            model_uid=uid,
            spec=ModelSpec(name="echo", kind=Kind.LLM, source="", format=Format.NONE),
            engine="echo",
            request=resources(request, [self.hello]),
        )
        self.cluster.handle(DeploymentSet(admission.launched(self.cluster, wanted), 0.0))
        return self.cluster.models[uid].replicas[f"{uid}-0"]


def refused(host, **words):
    with pytest.raises(NoCapacity) as error:
        host.launch("m", **words)
    body = error.value.body()["error"]
    assert (error.value.status, body["type"], body["param"], body["code"]) == (
        409,
        "conflict_error",
        None,
        "insufficient_capacity",
    )
    return body["message"], body["details"]["reasons"]


def test_a_device_with_tenants_cannot_be_had_alone():
    host = Host(CARDS[0])
    host.launch("tenant", gpumem=100)
    message, reasons = refused(host, gpumem=100, gpucores=100)
    assert message == (
        "a replica of 'm' needs 100 MiB and 100 % of the cores on one device: "
        "a: device gpu-0 has 1 tenants already, it cannot be had alone; it would fit with 99 % of the cores"
    )
    assert reasons == {"ExclusiveConflict": 1}


def test_nobody_joins_who_has_a_device_alone():
    host = Host(CARDS[0])
    assert host.launch("alone", gpumem=100, gpucores=100).leader.slices[0].exclusive
    assert refused(host, gpumem=100) == (
        "a replica of 'm' needs 100 MiB on one device: a: device gpu-0 belongs to one replica alone",
        {"ExclusiveConflict": 1},
    )


def test_an_unknown_uuid_is_named():
    message, reasons = refused(Host(*CARDS), gpumem=100, gpuuuid=("GPU-9",))
    assert message == (
        "a replica of 'm' needs 100 MiB on one device: "
        "a: device gpu-0 has the UUID GPU-0, which the request rules out, "
        "device gpu-1 has the UUID GPU-1, which the request rules out; no device has the UUID GPU-9"
    )
    assert reasons == {"UuidMismatch": 2}


@pytest.mark.parametrize("gone", [False, True], ids=["is not healthy", "is not there"])
def test_a_device_that_is_lost_between_placement_and_launch(gone):
    host = Host(*CARDS)
    place = host.launch("m", gpumem=100).leader
    assert place.slices == (DeviceSlice(device_id="gpu-0", memory_mib=100),)

    lost = msgspec.structs.replace(CARDS[0], healthy=False, health_reason="it is not there any more")
    left = CARDS[1:] if gone else (lost, CARDS[1])
    with pytest.raises(NoCapacity) as error:
        LeaseBook(left).book("m-0", place.generation, place.slices)
    said = (
        "there is no device 'gpu-0', or not any more"
        if gone
        else "device gpu-0 is not healthy: it is not there any more"
    )
    assert error.value.message == f"no room for m-0: {said}"
    assert error.value.details["reasons"] == {"UnknownDevice" if gone else "Unhealthy": 1}

    host.hello = msgspec.structs.replace(host.hello, devices=left)
    failed = ReplicaStatus(
        replica_id="m-0",
        model_uid="m",
        generation=place.generation,
        revision=0,
        state=ReplicaState.FAILED,
        reason=error.value.message,
        slices=place.slices,
    )
    host.statuses = (failed,)
    host.say_hello()
    again = host.cluster.models["m"].replicas["m-0"].leader
    assert again.generation > place.generation
    assert again.slices == (DeviceSlice(device_id="gpu-1", memory_mib=100),)
