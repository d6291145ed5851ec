"""A real worker process on a fake NVIDIA driver: what it tells its supervisor, and what it gives to its replicas."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
import xoscar as xo
from fakes.cuda.library import OUT_OF_MEMORY, SUCCESS, Cuda, compile_cuda
from fakes.cuda.library import Tenant as CudaProgram
from fakes.nvml import library as fake
from fakes.nvml.library import FakeCard, FakeDriver

from xinfer.actors import prepare
from xinfer.devices import Device, DeviceSlice, DeviceUse
from xinfer.ops import Kind
from xinfer.processes import ProcessId, free_port, spawn
from xinfer.protocol import SUPERVISOR_UID, WORKER_UID, Ack, Assignment, Assignments, WorkerHello, WorkerReport
from xinfer.settings import Settings, child_environment
from xinfer.spec import Deployment, Format, ModelSpec, ReplicaState
from xinfer.supervisor.actor import start_supervisor
from xinfer.worker.devices import Tenant, ours_mib, processes_by_group, resident_mib, used_by_replicas
from xinfer.worker.inventory.base import DeviceReading

PATIENCE_S = 60.0

WORKER = """
import asyncio, signal, sys
import xoscar as xo
from xinfer.actors import prepare
from xinfer.settings import Settings
from xinfer.worker.actor import start_worker

async def main(own, supervisor):
    settings = Settings.from_env()
    prepare(settings)
    async def find():
        return supervisor
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    async with await xo.create_actor_pool(own, n_process=0):
        worker = await start_worker(settings, own, find_supervisor=find, name="w")
        await asked.wait()
        await worker.stop(drain=False)

asyncio.run(main(*sys.argv[1:]))
"""


class Desk:
    """What a recording supervisor heard."""

    def __init__(self) -> None:
        self.assignments = Assignments(epoch=1, version=1)
        self.hellos: list[WorkerHello] = []
        self.reports: list[WorkerReport] = []
        self._news = asyncio.Condition()

    async def take(self, report: WorkerReport) -> None:
        async with self._news:
            self.reports.append(report)
            self._news.notify_all()

    async def until(self, found: Callable[[], bool]) -> None:
        async with self._news:
            await self._news.wait_for(found)

    @property
    def uses(self) -> dict[str, DeviceUse]:
        return {use.device_id: use for use in self.reports[-1].uses}

    def cards(self) -> list[Device]:
        return [device for device in self.hellos[-1].devices if device.kind == "cuda"]


class RecordingSupervisor(xo.StatelessActor):
    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    async def join(self, hello: WorkerHello, report: WorkerReport) -> Ack:
        self._desk.hellos.append(hello)
        await self._desk.take(report)
        return Ack(known=True, assignments=self._desk.assignments)

    async def report(self, report: WorkerReport) -> Ack:
        await self._desk.take(report)
        return Ack(known=True)

    async def leave(self, worker_id: str, incarnation: str) -> None:
        pass


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.compile_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Cuda:
    return compile_cuda(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def driver(tmp_path: Path) -> FakeDriver:
    return FakeDriver(tmp_path / "cards")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("XOSCAR_AUTH_KEY", "")  # ``prepare`` sets it, and this takes it back
    settings = Settings(
        home=tmp_path / "home",
        token_file=tmp_path / "token",
        heartbeat_s=0.2,
        device_period_s=0.1,
        drain_timeout_s=5.0,
        settle_s=0.0,
    )
    settings.home.mkdir()
    prepare(settings)
    yield settings
    left = [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and str(settings.home) in " ".join(process.info["cmdline"] or ())
    ]
    for process in left:
        process.kill()
    assert not left


def play(scenario: Callable[[str], Awaitable[None]]) -> None:
    async def run() -> None:
        address = f"127.0.0.1:{free_port('127.0.0.1')}"
        async with await xo.create_actor_pool(address, n_process=0), asyncio.timeout(PATIENCE_S):
            await scenario(address)

    asyncio.run(run())


async def with_worker(
    settings: Settings, driver: FakeDriver, nvml: Path, supervisor: str, scenario: Callable[[str], Awaitable[None]]
) -> None:
    """Run a scenario with the address of a worker process that sees the fake cards."""
    own = f"127.0.0.1:{free_port('127.0.0.1')}"
    env = child_environment(settings.environment() | driver.environment(nvml))
    child = spawn([sys.executable, "-c", WORKER, own, supervisor], env=env, log=settings.home / "worker.log")
    child.returncode = 0  # ``ProcessId.end`` waits for it, not Popen
    process = ProcessId.of(child.pid)
    assert process
    try:
        await scenario(own)
    finally:
        await process.end(20.0)


def echo(*slices: DeviceSlice) -> Assignment:
    spec = ModelSpec(name="echo", kind=Kind.LLM, source="", format=Format.NONE)
    deployment = Deployment(model_uid="echo", spec=spec, engine="echo", revision=1)
    return Assignment(replica_id="echo-0", generation=1, deployment=deployment, slices=slices)


def test_the_hello_names_the_cards_and_a_replica_gets_its_slice(
    settings: Settings, driver: FakeDriver, nvml: Path
) -> None:
    driver.show(FakeCard("GPU-a", total=8000), FakeCard("GPU-b", total=16000, used=100))

    async def scenario(address: str) -> None:
        desk = Desk()
        await xo.create_actor(RecordingSupervisor, desk, address=address, uid=SUPERVISOR_UID)
        slices = (DeviceSlice(device_id="GPU-b", memory_mib=4000, cores_percent=25),)
        desk.assignments = Assignments(epoch=1, version=2, items=(echo(*slices),))

        async def assigned(_: str) -> None:
            await desk.until(lambda: bool(desk.reports))
            assert [(card.device_id, card.memory_mib, card.index) for card in desk.cards()] == [
                ("GPU-a", 8000, 0),
                ("GPU-b", 16000, 1),
            ]
            assert desk.hellos[0].devices[0].device_id == "cpu"
            assert (desk.uses["GPU-b"].used_mib, desk.uses["GPU-b"].free_mib) == (100, 15900)
            assert desk.uses["cpu"].hold.cores == "soft"
            await desk.until(lambda: any(one.state is ReplicaState.READY for one in desk.reports[-1].replicas))
            replica = desk.reports[-1].replicas[0]
            env = psutil.Process(replica.pid).environ()
            assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("GPU-b", "PCI_BUS_ID")
            assert env["PYTORCH_CUDA_ALLOC_CONF"] == "per_process_memory_fraction:0.25"
            await desk.until(lambda: desk.uses["cpu"].by_replica.get("echo-0", 0) > 0)
            driver.show(
                FakeCard("GPU-a", total=8000),
                FakeCard("GPU-b", total=16000, used=3000, more=(f"process {replica.pid} 2800",)),
            )
            await desk.until(lambda: desk.uses["GPU-b"].used_mib == 3000)
            assert len(desk.hellos) == 1

        await with_worker(settings, driver, nvml, address, assigned)

    play(scenario)


def test_on_the_only_card_hami_core_holds_a_replica(
    settings: Settings, driver: FakeDriver, nvml: Path, cuda: Cuda
) -> None:
    driver.show(FakeCard("GPU-a", total=8000))

    async def scenario(address: str) -> None:
        desk = Desk()
        await xo.create_actor(RecordingSupervisor, desk, address=address, uid=SUPERVISOR_UID)
        slices = (DeviceSlice(device_id="GPU-a", memory_mib=4000, cores_percent=25),)
        desk.assignments = Assignments(epoch=1, version=2, items=(echo(*slices),))

        async def assigned(worker: str) -> None:
            await desk.until(lambda: bool(desk.reports))
            await desk.until(lambda: any(one.state is ReplicaState.READY for one in desk.reports[-1].replicas))
            hold = desk.uses["GPU-a"].hold
            assert (hold.memory, hold.cores, hold.view, hold.per) == ("hard", "soft", "slice", "replica")
            env = psutil.Process(desk.reports[-1].replicas[0].pid).environ()
            assert (env["LD_PRELOAD"], env["CUDA_DEVICE_MEMORY_LIMIT_0"]) == (str(cuda.vgpu), "4000m")
            assert env["CUDA_VISIBLE_DEVICES"] == "0"
            region = Path(env["CUDA_DEVICE_MEMORY_SHARED_CACHE"])
            assert not region.exists()
            with CudaProgram(cuda, env, uuid="GPU-a") as program:  # as the engine would
                assert program.allocate(3000) == SUCCESS
                assert program.allocate(1001) == OUT_OF_MEMORY
                await desk.until(lambda: desk.uses["GPU-a"].by_replica == {"echo-0": 3000})
            await desk.until(lambda: desk.uses["GPU-a"].by_replica == {"echo-0": 0})
            assert region.exists()
            actor = await xo.actor_ref(WORKER_UID, address=worker)
            await actor.assign(Assignments(epoch=1, version=3))
            await desk.until(lambda: not desk.reports[-1].replicas)
            assert not region.exists()

        with_core = msgspec.structs.replace(settings, hami_core=str(cuda.vgpu))
        await with_worker(with_core, driver, nvml, address, assigned)

    play(scenario)


def test_a_card_that_is_lost_and_comes_back_is_told_with_a_hello(
    settings: Settings, driver: FakeDriver, nvml: Path
) -> None:
    driver.show(FakeCard("GPU-a"), FakeCard("GPU-b"))

    async def scenario(address: str) -> None:
        desk = Desk()
        await xo.create_actor(RecordingSupervisor, desk, address=address, uid=SUPERVISOR_UID)

        async def losing(worker: str) -> None:
            await desk.until(lambda: bool(desk.reports))
            driver.show(FakeCard("GPU-a"), FakeCard("GPU-b", more=("lost",)))
            await desk.until(lambda: not all(card.healthy for card in desk.cards()))
            assert [(card.device_id, card.healthy) for card in desk.cards()] == [("GPU-a", True), ("GPU-b", False)]
            assert "lost" in desk.cards()[1].health_reason.lower()
            first, second = desk.hellos
            assert (first.worker_id, first.incarnation) == (second.worker_id, second.incarnation)
            assert set(desk.uses) == {"cpu", "GPU-a"}
            actor = await xo.actor_ref(WORKER_UID, address=worker)
            assert await actor.identify() == second
            driver.show(FakeCard("GPU-a"), FakeCard("GPU-b"))
            await desk.until(lambda: all(card.healthy for card in desk.cards()))
            assert desk.reports[-1].sequence > desk.reports[0].sequence

        await with_worker(settings, driver, nvml, address, losing)

    play(scenario)


def test_the_real_supervisor_takes_devices_and_their_use(settings: Settings, driver: FakeDriver, nvml: Path) -> None:
    driver.show(FakeCard("GPU-a", used=512))

    async def scenario(address: str) -> None:
        supervisor = await start_supervisor(settings, address)

        async def seen() -> tuple[WorkerHello, dict[str, DeviceUse]] | None:
            info = await supervisor.actor.info()
            if not info.workers:
                return None
            return info.workers[0].hello, {use.device_id: use for use in info.workers[0].uses}

        async def losing(_: str) -> None:
            while (found := await seen()) is None:
                await supervisor.shell.changed.wait(PATIENCE_S)
            assert [device.device_id for device in found[0].devices] == ["cpu", "GPU-a"]
            assert found[1]["GPU-a"].used_mib == 512
            driver.show(FakeCard("GPU-a", more=("lost",)))
            while (found := await seen()) and found[0].devices[1].healthy:
                await supervisor.shell.changed.wait(PATIENCE_S)
            assert found
            assert set(found[1]) == {"cpu"}

        await with_worker(settings, driver, nvml, address, losing)
        await supervisor.stop()

    play(scenario)


def reading(device_id: str, kind: str, used_mib: int | None, **by_pid: int) -> DeviceReading:
    device = Device(device_id=device_id, kind=kind, memory_mib=1000, cores=1)
    return DeviceReading(
        device=device, used_mib=used_mib, used_by_pid={int(pid[1:]): mib for pid, mib in by_pid.items()}
    )


def on(replica_id: str, pid: int, device_id: str, memory_mib: int) -> Tenant:
    return Tenant(replica_id, pid, (DeviceSlice(device_id=device_id, memory_mib=memory_mib),))


def test_what_a_replica_uses_is_what_its_process_group_uses() -> None:
    groups = {10: 10, 11: 10, 20: 20, 99: 99}
    tenants = [on("a-0", 10, "GPU-a", 500), on("b-0", 20, "GPU-a", 300)]
    readings = [
        reading("cpu", "cpu", 900),
        reading("GPU-a", "cuda", 700, p10=100, p11=50, p20=200, p99=300, p77=1),
        reading("GPU-b", "cuda", 40),
    ]
    used = used_by_replicas(readings, tenants, groups.get, {"a-0": 60, "b-0": 70})
    assert used == {"cpu": {"a-0": 60, "b-0": 70}, "GPU-a": {"a-0": 150, "b-0": 200}, "GPU-b": {}}
    assert ours_mib(readings, tenants, used) == {"cpu": 130, "GPU-a": 350, "GPU-b": 0}


@pytest.mark.parametrize(("used_mib", "ours"), [(700, 700), (900, 800), (None, 0)])
def test_where_nobody_tells_processes_apart_what_we_booked_is_ours(used_mib: int | None, ours: int) -> None:
    tenants = [on("a-0", 10, "GPU-a", 500), on("b-0", 20, "GPU-a", 300)]
    readings = [reading("GPU-a", "cuda", used_mib)]
    used = used_by_replicas(readings, tenants, lambda _: None, {})
    assert ours_mib(readings, tenants, used) == {"GPU-a": ours}


SHARING = """
import mmap, os, sys, time
both = mmap.mmap(-1, 100 << 20)
both.write(bytes(100 << 20))
if os.fork() == 0:
    both.seek(0)
    both.read(100 << 20)  # now it has the pages too
print("ready", flush=True)
time.sleep(600)
"""


def test_memory_that_processes_of_a_replica_share_is_counted_once() -> None:
    with subprocess.Popen([sys.executable, "-c", SHARING], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout
        for _ in range(2):
            assert parent.stdout.readline() == b"ready\n"
        each = [psutil.Process(pid).memory_info().rss >> 20 for pid in processes_by_group([parent.pid])[parent.pid]]
        found = resident_mib([on("a-0", parent.pid, "cpu", 500)])
        os.killpg(parent.pid, signal.SIGKILL)
    assert len(each) == 2
    assert min(each) >= 100
    assert 100 <= found["a-0"] <= sum(each) - 100
