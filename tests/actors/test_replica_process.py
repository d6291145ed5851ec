"""A replica's process as a worker starts it, without a worker."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import xoscar as xo

from xinfer.actors import Unanswered, answer, prepare
from xinfer.errors import NotFound
from xinfer.ops import Kind
from xinfer.processes import ProcessId, log_tail, read_record, spawn, write_record
from xinfer.protocol import (
    FAILURE_FILE,
    LAUNCH_FILE,
    LOG_FILE,
    PROCESS_FILE,
    REPLICA_UID,
    FailureRecord,
    LaunchOrder,
    ProcessRecord,
    ReplicaView,
)
from xinfer.settings import Settings, child_environment
from xinfer.spec import Deployment, Format, ModelSpec, ReplicaState

PATIENCE_S = 60.0


class Started:
    """A replica's process, for a test to talk to."""

    def __init__(self, folder: Path, child: "subprocess.Popen[bytes]") -> None:
        self.folder = folder
        self.child = child
        self.actor: Any = None

    async def connect(self) -> None:
        while (record := read_record(self.folder / PROCESS_FILE, ProcessRecord)) is None or not record.address:
            assert self.child.poll() is None, self.log
            await asyncio.sleep(0.02)  # a file of another process: there is no event to wait on
        assert ProcessId(record.pid, record.started) == ProcessId.of(self.child.pid)
        self.actor = await xo.actor_ref(REPLICA_UID, address=record.address)

    async def until(self, state: ReplicaState, instance: str = "i1") -> ReplicaView:
        version = 0
        while True:
            view: ReplicaView = await answer(self.actor.watch(instance, version, 10.0), 20.0)
            if view.state is state:
                return view
            version = view.version

    async def exit_status(self) -> int:
        return await asyncio.to_thread(self.child.wait, PATIENCE_S)

    @property
    def log(self) -> str:
        return log_tail(self.folder / LOG_FILE, 100)


Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    settings = Settings(home=tmp_path, token_file=tmp_path / "token", drain_timeout_s=20.0)
    prepare(settings)
    children = []

    def start(*, lease_s: float = 60.0, order: bool = True, engine: str = "echo", **options: Any) -> Started:
        folder = tmp_path / "m-0" / "i1"
        spec = ModelSpec(name="echo", kind=Kind.LLM, source="", format=Format.NONE)
        launch = LaunchOrder(
            replica_id="m-0",
            instance="i1",
            generation=1,
            deployment=Deployment(model_uid="m", spec=spec, engine=engine, options=options),
            slices=(),
            threads=1,
            host="127.0.0.1",
            lease_s=lease_s,
        )
        if order:
            write_record(folder / LAUNCH_FILE, launch)
        env = child_environment({"OMP_NUM_THREADS": "1"} | settings.environment())
        child = spawn([sys.executable, "-m", "xinfer.replica", str(folder)], env=env, log=folder / LOG_FILE)
        children.append(child)
        return Started(folder, child)

    yield start
    del os.environ["XOSCAR_AUTH_KEY"]
    for child in children:
        child.kill()
        child.wait()


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scenario()

    asyncio.run(run())


def test_it_loads_serves_and_ends_when_it_is_told_to(start: Start) -> None:
    async def scenario() -> None:
        replica = start(load_delay_s=0.2)
        await replica.connect()
        view = await replica.until(ReplicaState.READY)
        assert view.endpoint is not None
        assert (view.endpoint.replica_id, view.endpoint.instance) == ("m-0", "i1")
        for call in (replica.actor.watch("i2", 0, 1.0), replica.actor.peek("i2"), replica.actor.stop("i2")):
            with pytest.raises(NotFound):
                await call
        assert await replica.actor.peek("i1") == view
        waiting = asyncio.create_task(answer(replica.actor.watch("i1", view.version, 60.0), 60.0))
        await replica.actor.drain("i1", 5.0)
        assert await replica.exit_status() == 0
        with contextlib.suppress(Unanswered):  # it may be gone before the answer is out
            assert (await waiting).state in (ReplicaState.DRAINING, ReplicaState.STOPPED)
        assert not Path(view.endpoint.local_path).exists()

    play(scenario)


def test_sigterm_drains(start: Start) -> None:
    async def scenario() -> None:
        replica = start()
        await replica.connect()
        await replica.until(ReplicaState.READY)
        os.kill(replica.child.pid, signal.SIGTERM)
        assert await replica.exit_status() == 0
        assert "DRAINING" in replica.log

    play(scenario)


def test_a_replica_that_nobody_claims_ends_itself(start: Start) -> None:
    async def scenario() -> None:
        replica = start(lease_s=1.0)
        assert await replica.exit_status() == 0
        assert "no worker claimed" in replica.log

    play(scenario)


def test_looking_is_no_claim_but_watching_is(start: Start) -> None:
    async def scenario() -> None:
        replica = start(lease_s=3.0)
        await replica.connect()
        view = await replica.until(ReplicaState.READY)
        for _ in range(4):
            view = await replica.actor.watch("i1", view.version, 1.0)
        assert view.state is ReplicaState.READY
        exited = asyncio.create_task(replica.exit_status())
        while not exited.done():
            with contextlib.suppress(Unanswered):
                await answer(replica.actor.peek("i1"))
            await asyncio.wait({exited}, timeout=0.2)
        assert exited.result() == 0

    play(scenario)


def test_it_stays_reachable_while_it_loads_and_can_be_stopped(start: Start) -> None:
    async def scenario() -> None:
        replica = start(load_delay_s=1000.0)
        await replica.connect()
        assert (await replica.until(ReplicaState.STARTING)).stage == "loading"
        await replica.actor.stop("i1")
        assert await replica.exit_status() == 0

    play(scenario)


def test_a_failed_load_leaves_its_reason(start: Start) -> None:
    async def scenario() -> None:
        replica = start(fail_load="the weights are cut off")
        assert await replica.exit_status() == 1
        assert read_record(replica.folder / FAILURE_FILE, FailureRecord) == FailureRecord(
            reason="the weights are cut off"
        )
        assert "Traceback" in replica.log

    play(scenario)


def test_a_wrong_word_of_the_launch_is_named_without_the_place_in_the_code(start: Start) -> None:
    async def scenario() -> None:
        replica = start(nonsense=1)
        assert await replica.exit_status() == 1
        failure = read_record(replica.folder / FAILURE_FILE, FailureRecord)
        assert failure is not None
        assert failure.refused == "nonsense"
        assert "nonsense" in failure.reason
        assert "Traceback" not in replica.log

    play(scenario)


def test_an_engine_that_is_not_there_is_a_failed_load(start: Start) -> None:
    async def scenario() -> None:
        replica = start(engine="nonesuch")
        assert await replica.exit_status() == 1
        failure = read_record(replica.folder / FAILURE_FILE, FailureRecord)
        assert failure is not None
        assert "no engine 'nonesuch'" in failure.reason

    play(scenario)


def test_a_withdrawn_order_starts_nothing(start: Start) -> None:
    async def scenario() -> None:
        replica = start(order=False)
        assert await replica.exit_status() == 0
        assert not (replica.folder / PROCESS_FILE).exists()
        assert "withdrew" in replica.log

    play(scenario)
