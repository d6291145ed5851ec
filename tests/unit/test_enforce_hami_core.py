"""HAMi-core on bare metal: where it is used, what a replica is started with, and all that at work on fakes in C."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.cuda.library import OUT_OF_MEMORY, SUCCESS, Cuda, Tenant, compile_cuda

from xinfer.devices import Device, DeviceSlice, Grant, Hold, Lease
from xinfer.ops import Kind
from xinfer.settings import Settings
from xinfer.spec import Deployment, Format, ModelSpec
from xinfer.worker import devices as looking
from xinfer.worker.devices import DeviceWatch, used_in_regions
from xinfer.worker.enforce.base import grant, held
from xinfer.worker.enforce.hami_core import obstacle, own_region, region_file, remove_region
from xinfer.worker.enforce.means import ALLOCATOR, Means, read_means
from xinfer.worker.inventory.base import DeviceReading, InventoryReading

CORE = Means(hami_core="/opt/libvgpu.so", cards=1)


def card(**fields: object) -> Device:
    values = {"index": 0, "uuid": "GPU-a", "memory_mib": 16384, "source": "nvml", **fields}
    return Device(device_id="GPU-a", kind="cuda", cores=100, **values)


def granted(means: Means = CORE, memory_mib: int = 400, cores: int = 0, instance: str = "i", **envs: str) -> Grant:
    spec = ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE)
    piece = DeviceSlice(device_id="GPU-a", memory_mib=memory_mib, cores_percent=cores)
    lease = Lease(replica_id="m-0", generation=1, slices=(piece,))
    deployment = Deployment(model_uid="m", spec=spec, engine="echo", envs=envs)
    return grant(lease, deployment, {"GPU-a": card()}, means, instance)


@pytest.mark.parametrize(
    ("device", "means", "why"),
    [
        (card(), Means(cards=1), "there is no libvgpu.so to load"),
        (card(), Means(hami_core="/x", cards=2), "shows a process all 2 cards and CUDA only its own"),
        (card(index=1), CORE, "the wrong one might be limited"),
        (card(), Means(hami_core="/x", cards=1, mps=True), "MPS holds replicas"),
        (card(source="hami"), CORE, "HAMi has loaded it already"),
        (card(source="mig"), CORE, "MIG instance"),
        (Device(device_id="cpu", kind="cpu", memory_mib=1, cores=1), CORE, "it is for NVIDIA cards"),
    ],
)
def test_where_it_cannot_be_trusted_it_is_not_used_and_says_why(device: Device, means: Means, why: str) -> None:
    assert why in (obstacle(device, means) or "")
    assert "hami-core" not in held(device, means).by


def test_what_a_replica_is_started_with() -> None:
    env = granted(cores=30).env
    assert env["LD_PRELOAD"] == env["CUDA_REDIRECT"] == "/opt/libvgpu.so"
    assert (env["CUDA_DEVICE_MEMORY_LIMIT_0"], env["CUDA_DEVICE_SM_LIMIT"]) == ("400m", "30")
    assert env["GPU_CORE_UTILIZATION_POLICY"] == "force"
    assert env["CUDA_DEVICE_MEMORY_SHARED_CACHE"] == str(region_file("i"))
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("0", "PCI_BUS_ID")


@pytest.mark.parametrize("cores", [0, 100])
def test_all_the_cores_are_no_limit(cores: int) -> None:
    env = granted(cores=cores).env
    assert (env["CUDA_DEVICE_SM_LIMIT"], env["GPU_CORE_UTILIZATION_POLICY"]) == ("0", "disable")


def test_there_is_always_a_memory_limit_because_without_one_the_card_would_have_no_memory() -> None:
    assert granted(memory_mib=0, cores=30).env["CUDA_DEVICE_MEMORY_LIMIT_0"] == "16384m"


def test_other_libraries_are_preloaded_too() -> None:
    means = Means(hami_core="/opt/libvgpu.so", cards=1, preload="/inherited.so")
    assert granted(means, LD_PRELOAD="/wanted.so").env["LD_PRELOAD"] == "/opt/libvgpu.so:/inherited.so:/wanted.so"


def test_the_slice_is_all_that_a_process_sees() -> None:
    means = Means(hami_core="/opt/libvgpu.so", cards=1, torch=(2, 13))
    assert held(card(), means) == Hold(memory="hard", cores="soft", view="slice", by=("hami-core",))
    (budget,) = granted(means).budgets
    assert (budget.memory_mib, budget.total_mib, budget.share) == (400, 400, 1.0)
    assert ALLOCATOR not in granted(means).env  # torch's share of the card would be taken of the slice


def test_a_region_that_the_deployment_names_is_not_ours() -> None:
    assert own_region(granted().env, "i") == region_file("i")
    assert own_region({"CUDA_DEVICE_MEMORY_SHARED_CACHE": "/theirs.cache"}, "i") is None
    assert own_region({}, "i") is None


def test_a_library_that_is_not_there_is_no_means(tmp_path: Path) -> None:
    library = tmp_path / "libvgpu.so"
    settings = Settings(home=tmp_path, token_file=tmp_path / "token", hami_core=str(library))
    assert read_means(settings).hami_core == ""
    library.touch()
    assert read_means(settings).hami_core == str(library)


@pytest.fixture(scope="session")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Cuda:
    return compile_cuda(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def instances() -> Iterator[tuple[str, str]]:
    """Two names that nobody else has."""
    names = (f"test-{uuid.uuid4().hex}", f"test-{uuid.uuid4().hex}")
    yield names
    for name in names:
        remove_region(name)


def test_who_passes_his_slice_runs_out_of_memory_and_his_neighbour_does_not(
    cuda: Cuda, instances: tuple[str, str]
) -> None:
    means = Means(hami_core=str(cuda.vgpu), cards=1)
    first, second = (
        granted(means, memory_mib=mib, instance=name) for mib, name in zip((400, 600), instances, strict=True)
    )
    with Tenant(cuda, first.env, uuid="GPU-a") as greedy, Tenant(cuda, second.env, uuid="GPU-a") as modest:
        assert (greedy.view_mib(), modest.view_mib()) == ((400, 400), (600, 600))
        assert greedy.allocate(300) == SUCCESS
        assert modest.allocate(500) == SUCCESS
        assert greedy.allocate(101) == OUT_OF_MEMORY
        assert greedy.view_mib() == (100, 400)
        assert modest.allocate(100) == SUCCESS
        assert greedy.free() == SUCCESS
        assert greedy.allocate(400) == SUCCESS

        tenants = [
            looking.Tenant("greedy-0", greedy.pid, (), region_file(instances[0])),
            looking.Tenant("modest-0", modest.pid, (), region_file(instances[1])),
            looking.Tenant("idle-0", 1, (), region_file("never-started")),
        ]
        assert used_in_regions(tenants) == {"greedy-0": {"GPU-a": 400}, "modest-0": {"GPU-a": 600}}

        reading = DeviceReading(device=card(), used_mib=1000, free_mib=15384)
        watch = DeviceWatch(lambda: {"nvidia": InventoryReading(devices=(reading,), cards_shown=1)})
        (use,) = watch.look(tenants).uses
        assert use.by_replica == {"greedy-0": 400, "modest-0": 600}


def test_all_processes_of_a_replica_share_its_slice(cuda: Cuda, instances: tuple[str, str]) -> None:
    env = granted(Means(hami_core=str(cuda.vgpu), cards=1), instance=instances[0]).env
    with Tenant(cuda, env, uuid="GPU-a") as one, Tenant(cuda, env, uuid="GPU-a") as other:
        assert one.allocate(300) == SUCCESS
        assert other.allocate(300) == OUT_OF_MEMORY
        assert other.allocate(100) == SUCCESS


def test_without_it_nothing_stops_a_process_but_the_card(cuda: Cuda) -> None:
    with Tenant(cuda, {}, uuid="GPU-a", total_mib=1000) as tenant:
        assert tenant.view_mib() == (1000, 1000)
        assert tenant.allocate(900) == SUCCESS
        assert tenant.allocate(200) == OUT_OF_MEMORY


def test_limits_that_are_left_in_a_region_would_count_so_it_is_removed(cuda: Cuda, instances: tuple[str, str]) -> None:
    name, _ = instances
    means = Means(hami_core=str(cuda.vgpu), cards=1)
    with Tenant(cuda, granted(means, memory_mib=400, instance=name).env, uuid="GPU-a") as tenant:
        assert tenant.view_mib() == (400, 400)
        tenant.kill()
    larger = granted(means, memory_mib=600, instance=name).env
    with Tenant(cuda, larger, uuid="GPU-a") as tenant:
        assert tenant.view_mib() == (400, 400)
    remove_region(name)
    with Tenant(cuda, larger, uuid="GPU-a") as tenant:
        assert tenant.view_mib() == (600, 600)


def test_where_it_was_given_and_is_not_used_the_log_says_why_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reading = InventoryReading(devices=(DeviceReading(device=card()),), cards_shown=1)
    settings = Settings(home=tmp_path, token_file=tmp_path / "token", hami_core=str(tmp_path / "nowhere.so"))
    watch = DeviceWatch(lambda: {"nvidia": reading}, settings=settings)
    for _ in range(2):
        watch.look()
    assert caplog.text.count("HAMi-core does not hold replicas on device GPU-a: there is no libvgpu.so to load") == 1
