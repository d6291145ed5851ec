"""What a launch says about devices, memory and cores, in the words of HAMi, and what it means."""

import pytest

from xinfer.devices import Device
from xinfer.errors import InvalidRequest, InvalidSliceRequest
from xinfer.protocol import LaunchRequest, WorkerHello
from xinfer.spec import Policy, ResourceRequest
from xinfer.supervisor.resources import resources

CPU = Device(device_id="cpu", kind="cpu", memory_mib=1000, cores=4)
GPUS = tuple(Device(device_id=f"gpu-{i}", kind="cuda", index=i, memory_mib=1000, cores=100) for i in range(2))


def asked(*, gpus: tuple[Device, ...] = (), **words) -> ResourceRequest:
    hello = WorkerHello(
        worker_id="w",
        incarnation="1",
        name="w",
        address="w:1",
        host_id="w",
        version="0",
        devices=(CPU, *gpus),
        engines={},
    )
    return resources(LaunchRequest(model_name="echo", **words), [hello])


def test_nothing_said_leaves_memory_to_the_estimate_and_cores_unlimited():
    found = asked()
    assert (found.devices, found.memory_mib, found.memory_percent, found.cores_percent) == (1, None, None, 0)
    assert asked(gpumem=0, gpumem_percentage=0, gpucores=0) == found


def test_a_slice_of_the_cpu_is_asked_for_without_gpu():
    found = asked(gpumem_percentage=10, gpucores=20)
    assert (found.memory_mib, found.memory_percent, found.cores_percent) == (None, 10, 20)
    assert found.device_kind == "any"


def test_mib_go_before_percent():
    found = asked(gpumem=300, gpumem_percentage=10)
    assert (found.memory_mib, found.memory_percent) == (300, None)
    assert asked(gpumem=0, gpumem_percentage=10).memory_percent == 10
    assert asked(memory_mib=300, gpumem=300).memory_mib == 300


def test_gpu_counts_devices_as_n_gpu_does():
    for words in ({"gpu": 2}, {"n_gpu": 2}, {"gpu": 2, "n_gpu": "2"}, {"gpu": 2, "n_gpu": "auto"}):
        found = asked(gpus=GPUS, **words)
        assert (found.devices, found.device_kind) == (2, "accelerator")
    assert asked(gpus=GPUS, gpu=0).device_kind == "cpu"


@pytest.mark.parametrize(
    ("word", "worker_policy", "device_policy"),
    [
        ("binpack", Policy.BINPACK, Policy.BINPACK),
        ("Spread", Policy.SPREAD, Policy.SPREAD),
        ("topology", None, Policy.TOPOLOGY),
        ("topology-aware", None, Policy.TOPOLOGY),
        (None, None, None),
    ],
)
def test_a_policy_is_for_workers_and_devices(word, worker_policy, device_policy):
    found = asked(policy=word)
    assert (found.worker_policy, found.device_policy) == (worker_policy, device_policy)


def test_devices_are_chosen_by_words_and_uuids():
    found = asked(gputype=("A100, H100", "L4"), nouse_gputype=("MIG",), gpuuuid=("GPU-a,GPU-b",), nouse_gpuuuid=("",))
    assert found.device_types == ("A100", "H100", "L4")
    assert (found.device_types_denied, found.device_uuids, found.device_uuids_denied) == (
        ("MIG",),
        ("GPU-a", "GPU-b"),
        (),
    )


@pytest.mark.parametrize(
    ("match", "param", "words"),
    [
        ("gpumem must be 0 or more, not -1", "gpumem", {"gpumem": -1}),
        ("gpumem_percentage must be between 0 and 100, not 101", "gpumem_percentage", {"gpumem_percentage": 101}),
        ("gpumem_percentage must be between 0 and 100, not -1", "gpumem_percentage", {"gpumem_percentage": -1}),
        ("gpucores must be between 0 and 100, not 101", "gpucores", {"gpucores": 101}),
        ("gpu must be 0 or more, not -1", "gpu", {"gpu": -1}),
        ("gpu is 2, but n_gpu is 1; choose one", "gpu", {"gpu": 2, "n_gpu": 1}),
        ("gpu is 1, but n_gpu is None; choose one", "gpu", {"gpu": 1, "n_gpu": None}),
        ("gpumem is 200 MiB, but memory_mib is 300", "gpumem", {"gpumem": 200, "memory_mib": 300}),
        ("no policy 'mutex'; there are: binpack, spread, topology", "policy", {"policy": "mutex"}),
    ],
)
def test_what_cannot_be_meant_is_named_as_it_was_written(match, param, words):
    with pytest.raises(InvalidSliceRequest, match=match) as error:
        asked(**words)
    assert (error.value.status, error.value.param) == (422, param)


@pytest.mark.parametrize(
    ("match", "param", "words"),
    [
        ("there is no GPU: .* launch without gpu", "gpu", {"gpu": 1}),
        ("gpu_idx names GPUs, but gpu asks for none", "gpu_idx", {"gpu": 0, "gpu_idx": (0,)}),
        ("needs 3 GPUs on one worker, the most there are is 2", "gpu", {"gpu": 3, "gpus": GPUS}),
    ],
)
def test_devices_that_are_not_there_are_refused(match, param, words):
    with pytest.raises(InvalidRequest, match=match) as error:
        asked(**words)
    assert (error.value.status, error.value.param) == (400, param)
