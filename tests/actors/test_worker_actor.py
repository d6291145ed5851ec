"""A worker with real replica processes (the echo engine) and a supervisor that records what it is told."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import xoscar as xo

from xinfer.actors import prepare
from xinfer.channel.link import ReplicaLink
from xinfer.devices import DeviceSlice
from xinfer.engines.base import Call
from xinfer.ops import Kind, Op
from xinfer.processes import ProcessId, free_port, host_id, spawn
from xinfer.protocol import (
    SUPERVISOR_UID,
    WORKER_UID,
    Ack,
    Assignment,
    Assignments,
    ReplicaStatus,
    WorkerHello,
    WorkerReport,
)
from xinfer.settings import Settings, child_environment, cluster_token
from xinfer.spec import Deployment, Format, ModelSpec, ReplicaState
from xinfer.worker.actor import WorkerHandle, start_worker
from xinfer.worker.cgroups import Cgroups

PATIENCE_S = 60.0


class Desk:
    """What the recording supervisor knows; the tests read and change it."""

    def __init__(self) -> None:
        self.assignments = Assignments(epoch=1, version=1)
        self.known = True
        self.hellos: list[WorkerHello] = []
        self.first_reports: list[WorkerReport] = []
        self.reports: list[WorkerReport] = []
        self.left: list[str] = []
        self._news = asyncio.Event()

    def want(self, *items: Assignment) -> Assignments:
        now = self.assignments
        self.assignments = Assignments(epoch=now.epoch, version=now.version + 1, items=items)
        return self.assignments

    def take(self, report: WorkerReport) -> None:
        self.reports.append(report)
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, found: Callable[[tuple[ReplicaStatus, ...]], bool]) -> tuple[ReplicaStatus, ...]:
        """Wait for the first report from now on, or the last one, whose replicas are so."""
        while not (self.reports and found(self.reports[-1].replicas)):
            await self._news.wait()
        return self.reports[-1].replicas

    async def until_state(self, state: ReplicaState) -> ReplicaStatus:
        return (await self.until(lambda replicas: bool(replicas) and replicas[0].state is state))[0]


class RecordingSupervisor(xo.StatelessActor):
    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    async def join(self, hello: WorkerHello, report: WorkerReport) -> Ack:
        self._desk.hellos.append(hello)
        self._desk.first_reports.append(report)
        self._desk.known = True
        self._desk.take(report)
        return Ack(known=True, assignments=self._desk.assignments)

    async def report(self, report: WorkerReport) -> Ack:
        self._desk.take(report)
        return Ack(known=self._desk.known, assignments=self._desk.assignments if self._desk.known else None)

    async def leave(self, worker_id: str, incarnation: str) -> None:
        self._desk.left.append(worker_id)


class House:
    """One actor pool with the supervisor and the workers of a test."""

    def __init__(self, settings: Settings, address: str, desk: Desk) -> None:
        self.settings = settings
        self.address = address
        self.desk = desk

    async def worker(self) -> WorkerHandle:
        async def find() -> str:
            return self.address

        return await start_worker(self.settings, self.address, find_supervisor=find, name="w")

    async def assign(self, assignments: Assignments) -> None:
        worker = await xo.actor_ref(WORKER_UID, address=self.address)
        await worker.assign(assignments)


def echo(replica_id: str = "echo-0", generation: int = 1, slices: Any = (), **options: Any) -> Assignment:
    spec = ModelSpec(name="echo", kind=Kind.LLM, source="", format=Format.NONE)
    deployment = Deployment(model_uid="echo", spec=spec, engine="echo", options=options, revision=3)
    return Assignment(replica_id=replica_id, generation=generation, deployment=deployment, slices=slices)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(
        home=tmp_path / "home",
        token_file=tmp_path / "token",
        heartbeat_s=0.5,
        replica_lease_s=20.0,
        drain_timeout_s=5.0,
    )
    prepare(settings)
    yield settings
    del os.environ["XOSCAR_AUTH_KEY"]
    left = processes_of(settings)
    for process in left:
        process.kill()
    assert not left


def processes_of(settings: Settings) -> list[psutil.Process]:
    """Every living process that was started for this home."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and str(settings.home) in " ".join(process.info["cmdline"] or ())
    ]


def play(settings: Settings, scenario: Callable[[House], Awaitable[None]]) -> None:
    async def run() -> None:
        address = f"127.0.0.1:{free_port('127.0.0.1')}"
        pool = await xo.create_actor_pool(address, n_process=0)
        async with pool:
            desk = Desk()
            await xo.create_actor(RecordingSupervisor, desk, address=address, uid=SUPERVISOR_UID)
            async with asyncio.timeout(PATIENCE_S):
                await scenario(House(settings, address, desk))

    asyncio.run(run())


def test_a_killed_replica_comes_back_as_a_new_instance(settings: Settings) -> None:
    async def scenario(house: House) -> None:
        house.desk.want(echo(slices=(DeviceSlice(device_id="cpu", memory_mib=16),)))
        worker = await house.worker()
        first = await house.desk.until_state(ReplicaState.READY)
        assert first.model_uid == "echo"
        assert first.revision == 3
        assert first.endpoint is not None
        assert first.control_address
        assert str(settings.home) in " ".join(psutil.Process(first.pid).cmdline())
        os.kill(first.pid, signal.SIGKILL)
        away = await house.desk.until_state(ReplicaState.PENDING)
        assert away.was_ready
        assert away.endpoint is None
        assert "SIGKILL" in away.reason
        assert "out of memory" in away.reason
        second = await house.desk.until_state(ReplicaState.READY)
        assert second.endpoint is not None
        assert second.endpoint.instance != first.endpoint.instance
        assert second.pid != first.pid
        assert second.restarts == 1
        assert not second.reason
        assert not Path(first.endpoint.local_path).exists()
        await worker.stop(drain=True)
        assert house.desk.left == [worker.hello.worker_id]
        assert not processes_of(settings)

    play(settings, scenario)


def test_a_replica_whose_engine_is_broken_for_good_is_started_anew(settings: Settings) -> None:
    async def scenario(house: House) -> None:
        house.desk.want(echo(break_after=0))
        worker = await house.worker()
        first = await house.desk.until_state(ReplicaState.READY)
        assert first.endpoint is not None
        link = ReplicaLink(first.endpoint, cluster_token(settings), lambda _: None)
        await link.connect(host_id())
        body = b'{"model": "echo", "messages": [{"role": "user", "content": "hi"}]}'
        answer = link.open(Call("1", Op.CHAT, body))
        while not answer.ended:
            await answer.arrived()
        assert answer.lost, "another replica may answer it"
        away = await house.desk.until_state(ReplicaState.PENDING)
        assert "told to break" in away.reason
        second = await house.desk.until_state(ReplicaState.READY)
        assert second.pid != first.pid
        await worker.stop(drain=True)

    play(settings, scenario)


def test_a_new_worker_adopts_what_the_last_one_left_running(settings: Settings) -> None:
    async def scenario(house: House) -> None:
        house.desk.want(echo())
        first = await house.worker()
        before = await house.desk.until_state(ReplicaState.READY)
        await first.detach()
        second = await house.worker()
        await second.joined()
        assert second.hello.worker_id == first.hello.worker_id
        assert second.hello.incarnation != first.hello.incarnation
        told = house.desk.first_reports[-1].replicas[0]
        assert (told.pid, told.state, told.endpoint) == (before.pid, ReplicaState.READY, before.endpoint)
        assert (told.revision, told.generation) == (3, 1)
        house.desk.want()
        await house.desk.until(lambda replicas: not replicas)
        assert not processes_of(settings)
        await second.stop()

    play(settings, scenario)


WORKER_PROCESS = """
import asyncio, sys
import xoscar as xo
from xinfer.actors import prepare
from xinfer.settings import Settings
from xinfer.worker.actor import start_worker

async def main(own, supervisor):
    settings = Settings.from_env()
    prepare(settings)
    async def find():
        return supervisor
    async with await xo.create_actor_pool(own, n_process=0):
        await start_worker(settings, own, find_supervisor=find)
        await asyncio.get_running_loop().create_future()

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_killed_worker_takes_nothing_with_it_and_its_successor_sees_deaths(settings: Settings) -> None:
    def start(house: House) -> ProcessId:
        argv = [sys.executable, "-c", WORKER_PROCESS, f"127.0.0.1:{free_port('127.0.0.1')}", house.address]
        child = spawn(argv, env=child_environment(settings.environment()), log=settings.home / "worker.log")
        child.returncode = 0
        found = ProcessId.of(child.pid)
        assert found
        return found

    async def scenario(house: House) -> None:
        house.desk.want(echo())
        worker = start(house)
        before = await house.desk.until_state(ReplicaState.READY)
        worker.send(signal.SIGKILL)
        assert await worker.gone(PATIENCE_S)
        worker = start(house)
        await house.desk.until(lambda _: len(house.desk.hellos) == 2)
        adopted = house.desk.first_reports[1].replicas[0]
        assert (adopted.pid, adopted.state) == (before.pid, ReplicaState.READY)
        os.kill(before.pid, signal.SIGKILL)
        away = await house.desk.until_state(ReplicaState.PENDING)
        assert away.reason.startswith("its process is gone")
        after = await house.desk.until_state(ReplicaState.READY)
        assert after.pid != before.pid
        house.desk.want()
        await house.desk.until(lambda replicas: not replicas)
        await worker.end(5.0)

    play(settings, scenario)


def test_a_replica_that_died_while_no_worker_was_there_is_started_again(settings: Settings) -> None:
    async def scenario(house: House) -> None:
        house.desk.want(echo())
        first = await house.worker()
        before = await house.desk.until_state(ReplicaState.READY)
        await first.detach()
        os.kill(before.pid, signal.SIGKILL)
        second = await house.worker()
        after = await house.desk.until(lambda replicas: bool(replicas) and replicas[0].pid not in (0, before.pid))
        assert after[0].replica_id == "echo-0"
        assert before.endpoint
        assert not Path(before.endpoint.local_path).exists()
        await second.stop(drain=False)

    play(settings, scenario)


def test_the_reason_of_a_failed_load_reaches_the_supervisor_with_the_log(settings: Settings) -> None:
    async def scenario(house: House) -> None:
        house.desk.want(echo(fail_load="the tokenizer file is broken"))
        worker = await house.worker()
        failed = await house.desk.until_state(ReplicaState.FAILED)
        assert failed.reason.startswith("the tokenizer file is broken\nLast lines of its log:\n")
        assert "Traceback" in failed.reason
        assert failed.restarts == 0
        actor = await xo.actor_ref(WORKER_UID, address=house.address)
        assert "Traceback" in await actor.replica_log("echo-0", 50)
        assert (await actor.identify()) == worker.hello
        house.desk.want(echo(generation=2))
        assert (await house.desk.until_state(ReplicaState.READY)).generation == 2
        await worker.stop()

    play(settings, scenario)


def test_a_crash_during_load_is_tried_three_times_and_explained(settings: Settings) -> None:
    async def scenario(house: House) -> None:
        house.desk.want(echo(exit_on_load=7))
        worker = await house.worker()
        failed = await house.desk.until_state(ReplicaState.FAILED)
        assert failed.reason.startswith("given up after 3 attempts: its process exited with status 7")
        assert failed.restarts == 2
        await worker.stop()

    play(settings, scenario)


def test_withdrawing_a_replica_that_loads_ends_it_at_once(settings: Settings) -> None:
    async def scenario(house: House) -> None:
        house.desk.want(echo(load_delay_s=1000.0))
        worker = await house.worker()
        await house.desk.until(lambda replicas: bool(replicas) and replicas[0].stage == "loading")
        await house.assign(house.desk.want())
        await house.desk.until(lambda replicas: not replicas)
        assert not processes_of(settings)
        await worker.stop()

    play(settings, scenario)


def test_a_higher_generation_replaces_the_process(settings: Settings) -> None:
    async def scenario(house: House) -> None:
        house.desk.want(echo())
        worker = await house.worker()
        first = await house.desk.until_state(ReplicaState.READY)
        await house.assign(house.desk.want(echo(generation=2)))
        await house.desk.until_state(ReplicaState.DRAINING)
        second = await house.desk.until_state(ReplicaState.READY)
        assert (first.generation, second.generation) == (1, 2)
        assert len(processes_of(settings)) == 1
        await worker.stop()

    play(settings, scenario)


def test_a_hanging_replica_is_killed_and_replaced(settings: Settings) -> None:
    settings = Settings(home=settings.home, token_file=settings.token_file, heartbeat_s=0.5, replica_lease_s=2.0)

    async def scenario(house: House) -> None:
        house.desk.want(echo())
        worker = await house.worker()
        first = await house.desk.until_state(ReplicaState.READY)
        os.kill(first.pid, signal.SIGSTOP)
        away = await house.desk.until_state(ReplicaState.PENDING)
        assert "did not answer" in away.reason
        second = await house.desk.until_state(ReplicaState.READY)
        assert second.pid != first.pid
        await worker.stop(drain=False)

    play(settings, scenario)


def test_a_supervisor_that_forgot_the_worker_hears_hello_again(settings: Settings) -> None:
    async def scenario(house: House) -> None:
        house.desk.want(echo())
        worker = await house.worker()
        ready = await house.desk.until_state(ReplicaState.READY)
        house.desk.known = False
        await house.desk.until(lambda _: len(house.desk.hellos) == 2)
        assert house.desk.first_reports[1].replicas[0].pid == ready.pid
        await worker.stop()

    play(settings, scenario)


def test_the_worker_waits_for_a_supervisor_that_comes_late(settings: Settings) -> None:
    async def scenario(house: House) -> None:
        asked = asyncio.Event()
        answers = iter([OSError("no server there yet"), house.address])

        async def find() -> str:
            asked.set()
            answer = next(answers)
            if isinstance(answer, OSError):
                raise answer
            return answer

        worker = await start_worker(settings, house.address, find_supervisor=find)
        await asked.wait()
        await worker.joined()
        assert house.desk.hellos == [worker.hello]
        assert worker.hello.engines["echo"].ok
        await worker.stop()

    play(settings, scenario)


def test_two_workers_of_one_home_are_two(settings: Settings) -> None:
    async def scenario(house: House) -> None:
        first = await house.worker()
        address = f"127.0.0.1:{free_port('127.0.0.1')}"
        async with await xo.create_actor_pool(address, n_process=0):

            async def find() -> str:
                return house.address

            second = await start_worker(settings, address, find_supervisor=find)
            await second.joined()
            assert second.hello.worker_id != first.hello.worker_id
            await second.stop()
        await first.stop()

    play(settings, scenario)


def test_a_replica_runs_in_a_cgroup_of_its_own_where_there_can_be_one(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On plain files: a kernel would hold it there, and remove the files with the folder."""
    root = tmp_path / "cgroup"
    root.mkdir()
    monkeypatch.setattr("xinfer.worker.actor.open_cgroups", lambda: Cgroups(root))

    async def scenario(house: House) -> None:
        house.desk.want(echo(slices=(DeviceSlice(device_id="cpu", memory_mib=200, cores_percent=50),)))
        worker = await house.worker()
        ready = await house.desk.until_state(ReplicaState.READY)
        (folder,) = root.iterdir()
        assert (folder / "cgroup.procs").read_text() == str(ready.pid)
        assert (folder / "memory.max").read_text() == str(200 << 20)
        (folder / "memory.events").write_text("oom_kill 1\n")
        os.kill(ready.pid, signal.SIGKILL)
        away = await house.desk.until_state(ReplicaState.PENDING)
        assert away.reason.startswith(
            "it needed more than its 200 MiB of main memory, and the kernel ended it; give it"
        )
        await house.desk.until_state(ReplicaState.READY)
        assert len(list(root.iterdir())) == 2
        await worker.stop(drain=False)

    play(settings, scenario)
