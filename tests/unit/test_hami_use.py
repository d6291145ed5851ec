"""Inside a container of HAMi: each replica's use of the one slice, and what a process sees of the card."""

from pathlib import Path

import pytest
from fakes.cuda.library import SUCCESS, Tenant, compile_cuda

from xinfer.devices import DeviceSlice, Hold
from xinfer.worker import devices as looking
from xinfer.worker.devices import DeviceWatch
from xinfer.worker.enforce.base import budget, held
from xinfer.worker.enforce.means import Means
from xinfer.worker.hami.preload import Preload
from xinfer.worker.hami.slices import read_hami
from xinfer.worker.inventory.base import InventoryReading
from xinfer.worker.inventory.cards import Card, Memory, NvmlReading
from xinfer.worker.inventory.mps import MpsReading
from xinfer.worker.inventory.nvidia import nvidia_devices

NO_MPS = MpsReading(False, "none", Path("/nowhere"))


def seen(env: dict[str, str], total_mib: int, *, loaded: bool = True) -> InventoryReading:
    """One card of which NVML shows ``total_mib``, in a container whose process ids NVML does not know."""
    memory = Memory(total=total_mib, used=500, free=total_mib - 500)
    card = Card(index=0, uuid="GPU-a", parent_uuid="GPU-a", name="L4", memory=memory, processes={4711: 9999})
    hami = read_hami(env, preload=Preload(loaded, ""))
    return nvidia_devices(NvmlReading(cards=(card,)), hami, NO_MPS, env, pids_are_ours=False)


def test_the_pods_region_tells_replicas_apart_where_the_driver_cannot(tmp_path: Path) -> None:
    cuda = compile_cuda(tmp_path / "cuda")
    env = {
        "CUDA_DEVICE_MEMORY_LIMIT_0": "8000m",
        "CUDA_DEVICE_MEMORY_SHARED_CACHE": str(tmp_path / "pod.cache"),
    }
    inside = {**env, "LD_PRELOAD": str(cuda.vgpu)}
    with Tenant(cuda, inside, uuid="GPU-a") as one, Tenant(cuda, inside, uuid="GPU-a") as other:
        assert one.allocate(300) == other.allocate(200) == SUCCESS
        tenants = [looking.Tenant("one-0", one.pid, ()), looking.Tenant("other-0", other.pid, ())]
        (use,) = DeviceWatch(lambda: {"nvidia": seen(env, 8000)}).look(tenants).uses
        assert use.by_replica == {"one-0": 300, "other-0": 200}


def test_without_a_region_nobody_is_told_apart(tmp_path: Path) -> None:
    env = {"CUDA_DEVICE_MEMORY_LIMIT_0": "8000m", "CUDA_DEVICE_MEMORY_SHARED_CACHE": str(tmp_path / "none.cache")}
    (reading,) = seen(env, 8000).devices
    assert reading.used_by_pid == {}


@pytest.mark.parametrize(
    ("total_mib", "loaded", "view_mib"),
    [
        (8000, True, 8000),  # the card is cut to the slice in every view
        (23034, False, 23034),  # only words: CUDA shows the whole card
        (9000, True, 9000),  # HAMi-core has another limit than the annotation: the smaller is booked
    ],
)
def test_a_budget_is_a_share_of_what_the_process_sees(total_mib: int, loaded: bool, view_mib: int) -> None:
    (reading,) = seen({"CUDA_DEVICE_MEMORY_LIMIT_0": "8000m"}, total_mib, loaded=loaded).devices
    assert reading.device.memory_mib == 8000
    means = Means(hami_core="/x/libvgpu.so", cards=1)  # not used: HAMi's own is there, or meant to be
    piece = DeviceSlice(device_id="GPU-a", memory_mib=2000)
    assert budget(piece, reading.device, means).total_mib == view_mib
    assert held(reading.device, means) == Hold()
