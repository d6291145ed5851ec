"""Builds in this process: each environment once, for all who wait for it, and those that an operator asked for."""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from xinfer.errors import EnvironmentFailed, NotFound, XinferError, describe
from xinfer.protocol import EngineBuild
from xinfer.worker.environments.here import Environments
from xinfer.worker.environments.plan import EnvironmentPlan
from xinfer.worker.environments.sources import Sources, sources
from xinfer.worker.environments.store import EnvironmentRecord
from xinfer.worker.environments.uv import Show

log = logging.getLogger(__name__)


class _Build:
    """One build. It ends when it is done, or when nobody wants it any more."""

    def __init__(self, plan: EnvironmentPlan) -> None:
        self.plan = plan
        self.now = EngineBuild(engine=plan.engine, environment=plan.name, state="building", stage="beginning")
        self.followers: list[Show] = []
        self.ordered = False
        """By an operator, so that it goes on without followers."""
        self.cancelling = False
        self.ended = asyncio.Event()
        self.record: EnvironmentRecord | None = None
        self.task: asyncio.Task[None]

    def show(self, stage: str, fraction: float) -> None:
        self.now = msgspec.structs.replace(self.now, stage=stage, progress=round(fraction, 4))
        for follower in list(self.followers):
            follower(stage, fraction)

    def cancel(self) -> None:
        self.cancelling = True
        self.task.cancel()


class Builds:
    """See the module. Lives in one event loop."""

    def __init__(self, environments: Environments, where: Callable[[], Sources] = sources) -> None:
        self._environments = environments
        self._where = where
        self._builds: dict[str, _Build] = {}
        """By the environment's name; ended ones stay, so that one can ask what became of them."""

    @property
    def states(self) -> tuple[EngineBuild, ...]:
        """Every build since this process started, the latest last, as it is now or ended."""
        return tuple(build.now for build in self._builds.values())

    async def built(self, plan: EnvironmentPlan, show: Show) -> EnvironmentRecord:
        """Wait for an environment, telling ``show`` how far it is. Cancelled, the last one to wait ends the build.

        Raises:
            EnvironmentFailed: it could not be built; says why.
        """
        build = await self._running(plan)
        build.followers.append(show)
        show(build.now.stage, build.now.progress)
        try:
            await build.ended.wait()
        finally:
            build.followers.remove(show)
            if not (build.followers or build.ordered or build.ended.is_set()):
                build.cancel()
        if build.record is None:
            raise EnvironmentFailed(build.now.reason)
        return build.record

    async def order(self, engine: str, packages: tuple[str, ...]) -> EngineBuild:
        """Build an environment of an engine for whoever may need it; ``states`` say how far it is.

        Raises:
            InvalidRequest: there is no such engine, or it cannot have an environment here.
        """
        build = await self._running(self._environments.plan(engine, packages))
        build.ordered = True
        return build.now

    async def cancel(self, engine: str) -> tuple[EngineBuild, ...]:
        """End the builds for an engine, and wait until they have cleared away.

        Raises:
            NotFound: none is under way.
        """
        under_way = [
            build for build in self._builds.values() if build.plan.engine == engine and not build.ended.is_set()
        ]
        if not under_way:
            raise NotFound(f"no environment of {engine!r} is being built here")
        for build in under_way:
            build.cancel()
        for build in under_way:
            await build.ended.wait()
        return tuple(build.now for build in under_way)

    async def close(self) -> None:
        """End every build."""
        tasks = [build.task for build in self._builds.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _running(self, plan: EnvironmentPlan) -> _Build:
        """The build under way of this environment; one that is being cancelled is waited for and begun anew."""
        while (known := self._builds.get(plan.name)) is not None and not known.ended.is_set():
            if not known.cancelling:
                return known
            await known.ended.wait()
        self._builds.pop(plan.name, None)  # the latest build is the last one
        build = self._builds[plan.name] = _Build(plan)
        build.task = asyncio.create_task(self._run(build))
        return build

    async def _run(self, build: _Build) -> None:
        log.info("building the environment %s", build.plan.name)
        state, reason = "cancelled", "the build was cancelled"
        try:
            build.record = await self._environments.build(build.plan, self._where(), build.show)
            state, reason = "ready", ""
        except XinferError as error:
            state, reason = "failed", describe(error)
        finally:
            build.now = msgspec.structs.replace(build.now, state=state, reason=reason)
            build.ended.set()
            log.info("the environment %s is %s %s", build.plan.name, state, reason)
