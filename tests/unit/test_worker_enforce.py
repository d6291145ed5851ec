from pathlib import Path
from typing import Any

import pytest

from xinfer.devices import Device, DeviceSlice, Lease
from xinfer.ops import Kind
from xinfer.spec import Deployment, Format, ModelSpec
from xinfer.worker.enforce.base import grant
from xinfer.worker.enforce.cpu import granted_threads


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
    granted = grant(lease(on("cpu", 50)), deployment(str(tmp_path)), devices(4))
    assert granted.threads == 2
    assert granted.env["OMP_NUM_THREADS"] == granted.env["MKL_NUM_THREADS"] == "2"
    assert granted.env["TOKENIZERS_PARALLELISM"] == "false"
    assert granted.env["CUDA_VISIBLE_DEVICES"] == ""
    assert granted.env["HF_HUB_OFFLINE"] == "1"


def test_a_replica_on_an_accelerator_sees_it() -> None:
    assert "CUDA_VISIBLE_DEVICES" not in grant(lease(on("gpu-0")), deployment(), devices(4)).env


def test_the_network_is_only_forbidden_for_weights_on_disk() -> None:
    without = deployment(spec=ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE))
    assert "HF_HUB_OFFLINE" not in grant(lease(), without, devices(4)).env


def test_the_variables_of_the_deployment_win() -> None:
    granted = grant(lease(on("cpu")), deployment(envs={"OMP_NUM_THREADS": "9", "MY": "x"}), devices(4))
    assert (granted.env["OMP_NUM_THREADS"], granted.env["MY"]) == ("9", "x")
