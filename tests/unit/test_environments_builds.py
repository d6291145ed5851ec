"""Who waits for a build, and when it ends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from xinfer.errors import EnvironmentFailed, NotFound
from xinfer.worker.environments.builds import Builds
from xinfer.worker.environments.plan import EnvironmentPlan, Machine
from xinfer.worker.environments.store import EnvironmentRecord

MACHINE = Machine(python="cpython-311", platform="linux-x86_64", accelerator="cpu")
PLAN = EnvironmentPlan(engine="toy", machine=MACHINE, packages=("toy",))
RECORD = EnvironmentRecord(name=PLAN.name, engine="toy", version="1", machine=MACHINE, packages=())


class Environments:
    """Builds when it is told to, and counts."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.go = asyncio.Event()
        self.started = asyncio.Event()
        self.error: Exception | None = None

    def plan(self, engine: str, extra: Any) -> EnvironmentPlan:
        return PLAN

    async def build(self, plan: EnvironmentPlan, where: Any, show: Callable[[str, float], None]) -> EnvironmentRecord:
        self.begun += 1
        self.started.set()
        show("working", 0.5)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return RECORD


def play(scenario: Callable[[Environments, Builds], Awaitable[None]]) -> None:
    async def run() -> None:
        environments = Environments()
        builds = Builds(environments)  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            await scenario(environments, builds)
            await builds.close()

    asyncio.run(run())


def silent(stage: str, fraction: float) -> None:
    pass


def test_all_who_wait_share_one_build_and_see_its_progress() -> None:
    async def scenario(environments: Environments, builds: Builds) -> None:
        seen: list[tuple[str, float]] = []
        first = asyncio.create_task(builds.built(PLAN, silent))
        await environments.started.wait()
        second = asyncio.create_task(builds.built(PLAN, lambda *now: seen.append(now)))
        await asyncio.sleep(0)
        environments.go.set()
        assert await first == await second == RECORD
        assert environments.begun == 1
        assert seen == [("working", 0.5)], "who comes late is told how far it is"
        assert [build.state for build in builds.states] == ["ready"]

    play(scenario)


def test_a_build_that_nobody_waits_for_any_more_ends() -> None:
    async def scenario(environments: Environments, builds: Builds) -> None:
        waiting = [asyncio.create_task(builds.built(PLAN, silent)) for _ in range(2)]
        await environments.started.wait()
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        assert environments.cancelled == 0, "the other one still waits"
        waiting[1].cancel()
        await asyncio.gather(waiting[1], return_exceptions=True)
        again = asyncio.create_task(builds.built(PLAN, silent))
        environments.go.set()
        assert await again == RECORD, "whoever comes then gets a build of its own"
        assert (environments.begun, environments.cancelled) == (2, 1)

    play(scenario)


def test_what_an_operator_ordered_goes_on_without_anybody_waiting() -> None:
    async def scenario(environments: Environments, builds: Builds) -> None:
        assert (await builds.order("toy", ())).state == "building"
        waiting = asyncio.create_task(builds.built(PLAN, silent))
        await environments.started.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        environments.go.set()
        assert await builds.built(PLAN, silent) == RECORD
        assert environments.begun == 1

    play(scenario)


def test_cancelled_by_an_operator_it_fails_for_all_who_wait() -> None:
    async def scenario(environments: Environments, builds: Builds) -> None:
        waiting = asyncio.create_task(builds.built(PLAN, silent))
        await environments.started.wait()
        ended = await builds.cancel("toy")
        assert [build.state for build in ended] == ["cancelled"]
        with pytest.raises(EnvironmentFailed, match="cancelled"):
            await waiting
        with pytest.raises(NotFound):
            await builds.cancel("toy")

    play(scenario)


def test_a_failure_reaches_everybody_and_the_next_attempt_is_a_new_build() -> None:
    async def scenario(environments: Environments, builds: Builds) -> None:
        environments.error = EnvironmentFailed("no such version")
        environments.go.set()
        with pytest.raises(EnvironmentFailed, match="no such version"):
            await builds.built(PLAN, silent)
        assert builds.states[0].state == "failed"
        environments.error = None
        assert await builds.built(PLAN, silent) == RECORD
        assert environments.begun == 2

    play(scenario)
