"""The placement policies of the supervisor, what a deployment asks for, and the explanation of a launch."""

import msgspec
import pytest

from xinfer import plugins
from xinfer.devices import Device, DeviceSlice
from xinfer.errors import InvalidSliceRequest, NoCapacity
from xinfer.ops import Kind
from xinfer.protocol import EngineOffer, WorkerHello, WorkerReport
from xinfer.slices.request import SliceRequest
from xinfer.slices.rooms import Rooms
from xinfer.spec import Deployment, Format, ModelSpec, Policy, ResourceRequest, Weights
from xinfer.supervisor import admission, sizing
from xinfer.supervisor.capacity import in_words, slice_request
from xinfer.supervisor.cluster import Cluster, Patience
from xinfer.supervisor.events import DeploymentSet, WorkerJoined

POLICIES = plugins.policies("xinfer.supervisor.placement")


def card(index, memory_mib=1000, **fields):
    return Device(device_id=f"gpu-{index}", kind="cuda", index=index, memory_mib=memory_mib, cores=100, **fields)


def room(name, *committed, memory_mib=1000):
    rooms = Rooms((card(index, memory_mib) for index in range(len(committed))), worker_id=name)
    for index, mib in enumerate(committed):
        rooms.take([DeviceSlice(device_id=f"gpu-{index}", memory_mib=mib)])
    return rooms


def chosen(policy, request, *workers):
    placement = POLICIES[policy].place(request, workers)
    return placement and (placement.worker_id, [piece.device_id for piece in placement.slices])


def test_the_policies_are_found_by_their_names():
    assert sorted(POLICIES) == ["binpack", "spread", "topology"]
    assert all(policy.name == name for name, policy in POLICIES.items())


def test_spread_takes_the_smaller_committed_share_not_the_smaller_number():
    big, small = room("big", 2000, memory_mib=10_000), room("small", 500)
    assert chosen("spread", SliceRequest(memory_mib=100), big, small) == ("big", ["gpu-0"])
    assert chosen("binpack", SliceRequest(memory_mib=100), big, small) == ("small", ["gpu-0"])


def test_equal_places_are_taken_by_name():
    assert chosen("spread", SliceRequest(memory_mib=100), room("b", 0), room("a", 0)) == ("a", ["gpu-0"])


def test_several_devices_come_from_one_worker():
    a = room("a", 100, 0, 0)
    assert chosen("spread", SliceRequest(count=2, memory_mib=100), room("b", 0), a) == ("a", ["gpu-1", "gpu-2"])
    assert chosen("spread", SliceRequest(count=4, memory_mib=100), room("b", 0), a) is None


def test_topology_takes_linked_devices():
    pair = {"gpu-1": 10, "gpu-2": 300}
    worker = Rooms([card(0, pair_scores=pair), card(1), card(2)], worker_id="w")
    request = SliceRequest(count=2, memory_mib=1)
    assert chosen("topology", request, worker) == ("w", ["gpu-0", "gpu-2"])
    assert chosen("spread", request, worker) == ("w", ["gpu-0", "gpu-1"])


def test_what_a_request_says_about_the_policy_goes_first():
    request = SliceRequest(memory_mib=100, worker_policy=Policy.BINPACK, device_policy=Policy.SPREAD)
    assert chosen("spread", request, room("a", 0, 0), room("b", 500, 100)) == ("b", ["gpu-1"])


def deployment(uid="m", *, replicas=1, **request):
    spec = ModelSpec(name="echo", kind=Kind.LLM, source="", format=Format.NONE)
    return Deployment(
        model_uid=uid, spec=spec, engine="echo", replicas=replicas, request=ResourceRequest(**request), created_at=1.0
    )


def test_a_deployment_asks_for_what_its_resources_say():
    wanted = deployment(
        devices=2,
        memory_percent=10,
        cores_percent=20,
        device_indices=(0, 1),
        device_types=("A100",),
        device_types_denied=("L4",),
        device_uuids=("GPU-a",),
        device_uuids_denied=("GPU-b",),
        numa_bind=True,
        worker_policy=Policy.BINPACK,
        device_policy=Policy.TOPOLOGY,
        weights=Weights(memory=3),
    )
    assert slice_request(wanted) == SliceRequest(
        count=2,
        memory_percent=10,
        cores=20,
        indices=(0, 1),
        types=("A100",),
        types_denied=("L4",),
        uuids=("GPU-a",),
        uuids_denied=("GPU-b",),
        numa_bind=True,
        worker_policy=Policy.BINPACK,
        device_policy=Policy.TOPOLOGY,
        weights=Weights(memory=3),
    )
    assert (
        in_words(slice_request(wanted)) == "10 % of the memory and 20 % of the cores on each of 2 devices of one worker"
    )
    assert in_words(slice_request(deployment(memory_mib=5, exclusive=True))) == "5 MiB and all cores on one device"
    assert slice_request(deployment()).memory_mib == sizing.BARE_PROCESS_MIB


def cluster(*devices, workers=("a",)):
    """A cluster of workers with the same devices."""
    found = Cluster(epoch=1, policy=POLICIES["spread"], patience=Patience(), now=0.0)
    for name in workers:
        hello = WorkerHello(
            worker_id=name,
            incarnation=name,
            name=name,
            address=f"{name}:1",
            host_id=name,
            version="0",
            devices=devices,
            engines={"echo": EngineOffer(True)},
        )
        report = WorkerReport(worker_id=name, incarnation=name, sequence=1)
        found.handle(WorkerJoined(hello, report, 0.0))
    return found


def launch(found, wanted):
    found.handle(DeploymentSet(admission.launched(found, wanted), 0.0))
    return [
        (r.leader.worker_id, [p.device_id for p in r.leader.slices])
        for r in found.models[wanted.model_uid].replicas.values()
    ]


def test_replicas_that_keep_apart_share_no_card():
    halves = (card(0, uuid="MIG-1", parent_uuid="GPU-a"), card(1, uuid="MIG-2", parent_uuid="GPU-a"))
    found = cluster(*halves, card(2, uuid="GPU-b"))
    apart = deployment(replicas=2, memory_mib=10, anti_affinity=True)
    cards = {found.workers["a"].hello.devices[int(ids[0][-1])].parent_uuid for _, ids in launch(found, apart)}
    assert len(cards) == 2
    with pytest.raises(NoCapacity, match="is on a card that another replica of the model runs on"):
        admission.rescaled(found, "m", 3)
    assert launch(found, deployment("n", memory_mib=10, anti_affinity=True))


def test_an_exclusive_replica_takes_an_idle_device_and_keeps_it():
    found = cluster(card(0), card(1))
    assert launch(found, deployment("shared", memory_mib=10)) == [("a", ["gpu-0"])]
    assert launch(found, deployment("alone", memory_mib=10, exclusive=True)) == [("a", ["gpu-1"])]
    assert launch(found, deployment("more", memory_mib=10)) == [("a", ["gpu-0"])]
    with pytest.raises(NoCapacity, match="gpu-1 belongs to one replica alone"):
        admission.launched(found, deployment("again", memory_mib=985))


def test_accelerators_are_used_where_there_are_some_and_the_cpu_where_it_is_asked_for():
    cpu = Device(device_id="cpu", kind="cpu", memory_mib=9000, cores=8)
    found = cluster(cpu, card(0))
    assert launch(found, deployment("any", memory_mib=10)) == [("a", ["gpu-0"])]
    assert launch(found, deployment("cpu", memory_mib=10, device_kind="cpu")) == [("a", ["cpu"])]


def test_a_refusal_has_numbers_for_people_and_for_programs():
    found = cluster(card(0, 300), card(1, 200))
    with pytest.raises(NoCapacity) as refused:
        admission.launched(found, deployment(memory_mib=400))
    assert refused.value.message == (
        "a replica of 'm' needs 400 MiB on one device: "
        "a: device gpu-0 falls short by 100 MiB (300 of 300 MiB free), "
        "device gpu-1 falls short by 200 MiB (200 of 200 MiB free); "
        "500 MiB are free in all, but at most 300 MiB in one piece; it would fit with 300 MiB"
    )
    details = refused.value.details
    assert (details["fragmented"], details["nearest"]) == (True, {"memory_mib": 300})
    assert [device["missing_mib"] for device in details["devices"]] == [100, 200]


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"memory_mib": 10, "memory_percent": 10}, "memory_percent"),
        ({"memory_percent": 101}, "memory_percent"),
        ({"memory_mib": -1}, "memory_mib"),
        ({"memory_mib": 10, "cores_percent": 101}, "cores"),
        ({"memory_mib": 10, "devices": 0}, "count"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_changes(request_, param):
    found = cluster(card(0))
    with pytest.raises(InvalidSliceRequest) as refused:
        admission.launched(found, deployment(**request_))
    assert refused.value.param == param
    assert found.models == {}


def test_a_launch_is_explained_without_being_made():
    found = cluster(card(0), card(1, 100), workers=("a", "b"))
    wanted = deployment(replicas=2, memory_mib=400)
    answer = admission.explained(found, wanted)
    assert found.models == {}
    assert (answer["fits"], answer["message"]) == (True, "2 of 2 replicas fit")
    assert [place["worker_id"] for place in answer["placements"]] == ["a", "b"]
    assert [(d["worker"], d["device_id"], d.get("reason")) for d in answer["explanation"]["devices"]] == [
        ("a", "gpu-0", None),
        ("a", "gpu-1", "InsufficientMemory"),
        ("b", "gpu-0", None),
        ("b", "gpu-1", "InsufficientMemory"),
    ]
    assert msgspec.json.decode(msgspec.json.encode(answer)).keys() == answer.keys()


def test_of_a_launch_that_fits_in_part_the_first_replica_that_does_not_is_explained():
    answer = admission.explained(cluster(card(0)), deployment(replicas=3, memory_mib=400))
    assert (answer["fits"], len(answer["placements"])) == (False, 2)
    assert answer["message"].startswith("a replica of 'm' needs 400 MiB on one device (2 of 3 replicas fit): a: device")
    assert answer["explanation"]["nearest"] == {"memory_mib": 200}


def test_a_launch_that_no_worker_may_run_is_explained_too():
    found = cluster(card(0))
    answer = admission.explained(found, msgspec.structs.replace(deployment(memory_mib=1), engine="vllm"))
    assert (answer["fits"], len(answer["explanation"]["devices"])) == (False, 0)
    assert "no worker offers the engine 'vllm'" in answer["message"]


def sized(format_, weights_mib=0, **request):
    spec = ModelSpec(name="x", kind=Kind.LLM, source="", format=format_, weights_mib=weights_mib)
    return sizing.memory_mib(Deployment(model_uid="x", spec=spec, engine="any", request=ResourceRequest(**request)))


def test_memory_is_what_was_asked_for_else_an_estimate():
    assert sized(Format.SAFETENSORS, 10_000, memory_mib=5) == 5
    assert sized(Format.SAFETENSORS, 10_000) == 12_000 + sizing.PROCESS_MIB
    assert sized(Format.SAFETENSORS, 10_000, devices=2) == 6_000 + sizing.PROCESS_MIB
    assert sized(Format.NONE) == sizing.BARE_PROCESS_MIB
