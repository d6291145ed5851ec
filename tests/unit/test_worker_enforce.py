from pathlib import Path
from typing import Any

import pytest

from xinfer.devices import Device, DeviceSlice, Hold, Lease
from xinfer.ops import Kind
from xinfer.spec import Deployment, Format, ModelSpec
from xinfer.worker.enforce.base import grant, held
from xinfer.worker.enforce.cpu import granted_threads
from xinfer.worker.enforce.means import ALLOCATOR, NOTHING, Means


def devices(cores: int) -> dict[str, Device]:
    return {
        "cpu": Device(device_id="cpu", kind="cpu", memory_mib=1000, cores=cores),
        "gpu-0": Device(device_id="gpu-0", kind="cuda", memory_mib=1000, cores=100),
    }


def lease(*slices: DeviceSlice) -> Lease:
    return Lease(replica_id="r", generation=1, slices=slices)


def on(device_id: str, cores_percent: int = 0) -> DeviceSlice:
    return DeviceSlice(device_id=device_id, memory_mib=1, cores_percent=cores_percent)


def deployment(source: str = "", **fields: Any) -> Deployment:
    spec = ModelSpec(name="m", kind=Kind.LLM, source=source, format=Format.SAFETENSORS)
    return Deployment(**{"model_uid": "m", "spec": spec, "engine": "echo", **fields})


@pytest.mark.parametrize(
    ("cores", "percent", "threads"),
    [(1, 0, 1), (2, 0, 1), (4, 0, 2), (64, 0, 4), (2, 100, 2), (8, 25, 2), (8, 1, 1), (64, 50, 32)],
)
def test_threads(cores: int, percent: int, threads: int) -> None:
    assert granted_threads(lease(on("cpu", percent)), devices(cores)) == threads


def test_cores_of_an_accelerator_are_no_threads() -> None:
    assert granted_threads(lease(on("gpu-0", 100)), devices(4)) == 2


def test_the_environment_of_a_replica_on_the_cpu(tmp_path: Path) -> None:
    granted = grant(lease(on("cpu", 50)), deployment(str(tmp_path)), devices(4), NOTHING)
    assert granted.threads == 2
    assert granted.env["OMP_NUM_THREADS"] == granted.env["MKL_NUM_THREADS"] == "2"
    assert granted.env["TOKENIZERS_PARALLELISM"] == "false"
    assert granted.env["CUDA_VISIBLE_DEVICES"] == ""
    assert granted.env["HF_HUB_OFFLINE"] == "1"


def test_the_network_is_only_forbidden_for_weights_on_disk() -> None:
    without = deployment(spec=ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE))
    assert "HF_HUB_OFFLINE" not in grant(lease(), without, devices(4), NOTHING).env


def test_the_variables_of_the_deployment_win() -> None:
    granted = grant(lease(on("cpu")), deployment(envs={"OMP_NUM_THREADS": "9", "MY": "x"}), devices(4), NOTHING)
    assert (granted.env["OMP_NUM_THREADS"], granted.env["MY"]) == ("9", "x")


TORCH = Means(torch=(2, 13))


def card(number: int, total: int = 16000, **fields: Any) -> Device:
    uuid = f"GPU-{number}"
    return Device(device_id=uuid, kind="cuda", index=number, uuid=uuid, memory_mib=total, cores=100, **fields)


def piece(number: int, memory_mib: int, cores_percent: int = 0) -> DeviceSlice:
    return DeviceSlice(device_id=f"GPU-{number}", memory_mib=memory_mib, cores_percent=cores_percent)


def environment(*slices: DeviceSlice, means: Means = NOTHING, envs: dict[str, str] | None = None, **fields: Any) -> Any:
    cards = [card(number, **fields) for number in range(4)]
    known = {device.device_id: device for device in cards} | devices(4)
    return grant(lease(*slices), deployment(envs=envs or {}), known, means).env


def test_a_replica_sees_the_cards_that_it_has_slices_of_in_their_order() -> None:
    env = environment(piece(3, 1), piece(1, 1))
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("GPU-3,GPU-1", "PCI_BUS_ID")
    assert "OMP_NUM_THREADS" in env
    assert environment(on("cpu"))["CUDA_VISIBLE_DEVICES"] == ""


def test_under_hami_cards_are_named_by_index() -> None:
    """HAMi-core reads a UUID as index 0."""
    env = environment(piece(3, 1), piece(1, 1), source="hami")
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("3,1", "PCI_BUS_ID")


@pytest.mark.parametrize(
    ("memory_mib", "fields", "fraction"),
    [
        (4000, {}, "0.25"),
        (3333, {}, "0.2083"),  # rounded down
        (1, {}, "0.0001"),  # never 0: torch could not start
        (16000, {}, "1.0"),
        (99999, {}, "1.0"),
        (2000, {"total": 8000, "view_mib": 16000}, "0.125"),  # of what the process sees
    ],
)
def test_torch_gets_its_share_of_what_it_sees(memory_mib: int, fields: dict[str, int], fraction: str) -> None:
    env = environment(piece(0, memory_mib), means=TORCH, **fields)
    assert env[ALLOCATOR] == f"per_process_memory_fraction:{fraction}"


def test_torch_has_one_share_for_all_cards_and_slices_of_one_card_add_up() -> None:
    env = environment(piece(0, 1600), piece(1, 4000), piece(1, 4000), means=TORCH)
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-1"
    assert env[ALLOCATOR] == "per_process_memory_fraction:0.5"


@pytest.mark.parametrize("version", [(0, 0), (1, 13), (2, 9)])
def test_a_torch_that_may_not_know_the_option_does_not_get_it(version: tuple[int, int]) -> None:
    assert ALLOCATOR not in environment(piece(0, 4000), means=Means(torch=version))


def test_other_options_of_the_allocator_stay_and_the_users_come_last() -> None:
    means = Means(torch=(2, 13), allocator="expandable_segments:True")
    env = environment(piece(0, 4000), means=means, envs={ALLOCATOR: "backend:native"})
    assert env[ALLOCATOR] == "expandable_segments:True,per_process_memory_fraction:0.25,backend:native"


def test_mps_limits_by_place_among_the_visible_cards() -> None:
    env = environment(piece(3, 4000, 30), piece(1, 2000, 20), means=Means(mps=True))
    assert env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=4000M,1=2000M"
    assert env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"  # it has one for all cards


def test_mps_leaves_cores_alone_that_nobody_booked_and_cpus_anyway() -> None:
    means = Means(mps=True)
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in environment(piece(0, 4000, 30), piece(1, 2000), means=means)
    assert not any(name.startswith("CUDA_MPS") for name in environment(on("cpu", 50), means=means))
    assert not any(name.startswith("CUDA_MPS") for name in environment(piece(0, 10, 10), means=means, source="mig"))


@pytest.mark.parametrize(
    ("device", "means", "expected"),
    [
        (card(0), NOTHING, Hold()),
        (card(0), TORCH, Hold(memory="soft", per="process", by=("torch",))),
        (
            card(0),
            Means(mps=True, torch=(2, 13)),
            Hold(memory="hard", cores="hard", per="process", by=("mps", "torch")),
        ),
        (card(0, source="mig"), Means(mps=True), Hold()),
        (devices(4)["cpu"], Means(mps=True, torch=(2, 13)), Hold(cores="soft", by=("threads",))),
    ],
)
def test_what_holds_slices_of_a_device(device: Device, means: Means, expected: Hold) -> None:
    assert held(device, means) == expected
