"""From what the supervisor tells to the devices' metrics."""

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from xinfer.api.cluster_view import cluster_sample
from xinfer.devices import Device, DeviceSlice, DeviceUse
from xinfer.protocol import ClusterInfo, Cordon, ReplicaStatus, WorkerHello, WorkerInfo
from xinfer.slices.tally import fragmentation, tallies
from xinfer.spec import ReplicaState
from xinfer.telemetry.metrics import GatewayMetrics

MIB = 2**20
CPU = Device(device_id="cpu", kind="cpu", name="EPYC", memory_mib=1000, reserve_mib=100, cores=8)


def card(number, memory_mib=1000, **fields):
    identity = {"uuid": f"GPU-{number}", "name": "NVIDIA L4"} | fields
    return Device(device_id=f"gpu-{number}", kind="cuda", index=number, memory_mib=memory_mib, cores=100, **identity)


def replica(name, state, *slices):
    return ReplicaStatus(replica_id=f"{name}-0", model_uid=name, generation=1, revision=1, state=state, slices=slices)


def on(number, memory_mib, cores_percent=0):
    return DeviceSlice(device_id=f"gpu-{number}", memory_mib=memory_mib, cores_percent=cores_percent)


def worker(*devices, replicas=(), uses=(), cordons=(), name="pod-1", alive=True):
    hello = WorkerHello(
        worker_id=name,
        incarnation="1",
        name=name,
        address="h:1",
        host_id="h",
        version="0",
        devices=devices,
        engines={},
        node="machine-7",
    )
    return WorkerInfo(hello=hello, alive=alive, last_seen_s_ago=0.0, replicas=replicas, uses=uses, cordons=cordons)


def info(*workers, **fields):
    return ClusterInfo(
        epoch=1, version="0", address="a:1", uptime_s=1.0, settling=False, workers=workers, instances=(), **fields
    )


def labelled(**labels):
    return " ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def scraped(found, age_s=0.0):
    """(name, labels) -> value; the labels as one string, sorted."""
    text = GatewayMetrics().exposition([], cluster_sample(found, age_s)).decode()
    return {
        (sample.name, labelled(**sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


GPU_0 = {
    "worker": "pod-1",
    "node": "machine-7",
    "device_uuid": "GPU-0",
    "device_index": "0",
    "device_type": "NVIDIA L4",
    "device_id": "gpu-0",
}


def test_a_device_has_the_labels_that_join_it_with_hami():
    replicas = (
        replica("a", ReplicaState.READY, on(0, 300, 20)),
        replica("b", ReplicaState.STARTING, on(0, 200, 10)),
        replica("c", ReplicaState.FAILED, on(0, 100)),
    )
    use = DeviceUse(device_id="gpu-0", used_mib=450, free_mib=550, by_replica={"a-0": 250, "b-0": 100})
    found = scraped(info(worker(card(0), replicas=replicas, uses=(use,))))
    assert {name: value for (name, labels), value in found.items() if labels == labelled(**GPU_0)} == {
        "xinfer_device_memory_limit_bytes": 1000 * MIB,
        "xinfer_device_memory_allocated_bytes": 500 * MIB,
        "xinfer_device_memory_used_bytes": 450 * MIB,
        "xinfer_device_memory_foreign_bytes": 100 * MIB,
        "xinfer_device_cores_allocated_ratio": 30,
        "xinfer_device_shared_count": 2,
        "xinfer_device_healthy": 1,
        "xinfer_device_cordoned": 0,
    }
    assert {
        name: value for (name, labels), value in found.items() if labels == labelled(model="a", replica="a-0", **GPU_0)
    } == {
        "xinfer_slice_memory_allocated_bytes": 300 * MIB,
        "xinfer_slice_memory_used_bytes": 250 * MIB,
        "xinfer_slice_cores_allocated_ratio": 20,
    }


def test_what_nobody_can_tell_has_no_sample():
    replicas = (replica("a", ReplicaState.READY, on(0, 300)),)
    found = scraped(info(worker(card(0), replicas=replicas)))
    names = {name for name, _ in found}
    assert "xinfer_device_memory_allocated_bytes" in names
    assert not names & {
        "xinfer_device_memory_used_bytes",
        "xinfer_device_memory_foreign_bytes",
        "xinfer_slice_memory_used_bytes",
    }


def test_a_mig_instance_has_the_uuid_of_its_card_and_an_id_of_its_own():
    found = scraped(info(worker(card(0, uuid="MIG-1", parent_uuid="GPU-p"))))
    (labels,) = [labels for name, labels in found if name == "xinfer_device_healthy"]
    assert "device_uuid=GPU-p" in labels
    assert "device_id=gpu-0" in labels


def test_a_lost_device_and_a_cordoned_worker_show():
    lost = card(0, healthy=False, health_reason="lost")
    cordon = Cordon(worker_id="pod-1")
    found = scraped(info(worker(lost, cordons=(cordon,)), cordons=(cordon,)))
    assert found["xinfer_device_healthy", labelled(**GPU_0)] == 0
    assert found["xinfer_device_cordoned", labelled(**GPU_0)] == 1


def test_rejects_are_counted_and_age_is_told():
    found = scraped(info(rejects={"InsufficientMemory": 2, "NoWorker": 1}), age_s=12.5)
    assert found["xinfer_placement_rejects_total", "reason=InsufficientMemory"] == 2
    assert found["xinfer_placement_rejects_total", "reason=NoWorker"] == 1
    assert found["xinfer_supervisor_age_seconds", ""] == 12.5


# Fragmentation.


def taken(*free_mib, **fields):
    """Cards of 1000 MiB of which so much is free."""
    replicas = tuple(
        replica(f"m{number}", ReplicaState.READY, on(number, 1000 - mib)) for number, mib in enumerate(free_mib)
    )
    return worker(*(card(number) for number in range(len(free_mib))), replicas=replicas, **fields)


@pytest.mark.parametrize(
    ("free_mib", "ratio"), [((1000,), 0.0), ((500, 500), 0.5), ((600, 200, 200), 0.4), ((0, 0), 0.0), ((), 0.0)]
)
def test_fragmentation_is_what_is_not_in_the_largest_piece(free_mib, ratio):
    assert fragmentation(tallies(taken(*free_mib))) == pytest.approx(ratio)


def test_what_takes_nothing_new_is_not_free():
    one = taken(500, 500, cordons=(Cordon(worker_id="pod-1", device_id="gpu-1"),))
    assert fragmentation(tallies(one)) == 0.0


def test_fragmentation_is_told_by_worker_and_for_the_cluster_by_kind_of_device():
    one, other = taken(1000, 0), taken(500, 500, name="pod-2")
    with_cpu = msgspec.structs.replace(one, hello=msgspec.structs.replace(one.hello, devices=(CPU, *one.hello.devices)))
    found = scraped(info(with_cpu, other))
    name = "xinfer_worker_memory_fragmentation_ratio"
    assert found[name, labelled(worker="pod-1", node="machine-7", device_kind="accelerator")] == 0
    assert found[name, labelled(worker="pod-1", node="machine-7", device_kind="cpu")] == 0
    assert found[name, labelled(worker="pod-2", node="machine-7", device_kind="accelerator")] == 0.5
    assert found["xinfer_cluster_memory_fragmentation_ratio", "device_kind=accelerator"] == 0.5
    assert found["xinfer_cluster_memory_fragmentation_ratio", "device_kind=cpu"] == 0


# Tallies.


def test_others_are_known_where_our_own_use_is():
    def others(*replicas, **use):
        (tally,) = tallies(worker(card(0), replicas=replicas, uses=(DeviceUse(device_id="gpu-0", **use),)))
        return tally.others_mib

    ours = replica("a", ReplicaState.READY, on(0, 300))
    assert others(used_mib=700) == 700
    assert others(ours, used_mib=700) is None
    assert others(ours, used_mib=700, by_replica={"a-0": 200}) == 500
    assert others(ours, used_mib=100, by_replica={"a-0": 200}) == 0
    assert others() is None
