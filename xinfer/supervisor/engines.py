"""What operators ask about engines: their environments on every worker. Passed on to the workers, which do the work."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import xoscar as xo

from xinfer.actors import Unanswered, answer
from xinfer.errors import InvalidRequest, NotFound, XinferError, describe
from xinfer.protocol import WORKER_UID, EngineBuild, WorkerHello
from xinfer.supervisor.capacity import answers_to, worker_names
from xinfer.supervisor.shell import Shell

BuildsByWorker = dict[str, tuple[EngineBuild, ...]]
"""Of each worker, by its name."""

Ask = Callable[[Any], Awaitable[Any]]
"""A call of a worker's actor."""


class ForEngines:
    """The part of the supervisor's actor that is about engines."""

    _shell: Shell

    async def install_engine(self, engine: str, packages: tuple[str, ...], workers: tuple[str, ...]) -> BuildsByWorker:
        """Have workers (none named: all that are alive) build an environment for an engine; answers when they began.

        Raises:
            NotFound: there is no such worker.
            InvalidRequest: none of them can; says why.
        """
        hellos = self._named(workers)
        begun, refusals = await self._ask(hellos, lambda worker: worker.install_engine(engine, packages))
        if not begun:
            reasons = "; ".join(dict.fromkeys(f"{name}: {describe(error)}" for name, error in refusals.items()))
            raise InvalidRequest(f"no worker can build an environment for {engine!r}: {reasons or 'there is none'}")
        failed = {
            name: (EngineBuild(engine=engine, environment="", state="failed", reason=describe(error)),)
            for name, error in refusals.items()
        }
        return failed | {name: (build,) for name, build in begun.items()}

    async def engine_builds(self, engine: str) -> BuildsByWorker:
        """What the workers build or have built for an engine since they started."""
        found, _ = await self._ask(self._shell.living_workers(), lambda worker: worker.engine_builds())
        return {name: tuple(build for build in builds if build.engine == engine) for name, builds in found.items()}

    async def cancel_engine_builds(self, engine: str) -> BuildsByWorker:
        """End what is being built for an engine, everywhere.

        Raises:
            NotFound: nothing is.
        """
        ended, _ = await self._ask(self._shell.living_workers(), lambda worker: worker.cancel_engine_builds(engine))
        if not ended:
            raise NotFound(f"no worker builds an environment for {engine!r}")
        return ended

    def _named(self, names: Sequence[str]) -> list[WorkerHello]:
        living = self._shell.living_workers()
        for name in names:
            if not any(answers_to(hello, name) for hello in living):
                raise NotFound(f"no living worker is called {name!r}; there are: {worker_names(living)}")
        return [hello for hello in living if not names or any(answers_to(hello, name) for name in names)]

    async def _ask(
        self, hellos: Sequence[WorkerHello], ask: Ask
    ) -> tuple[dict[str, Any], dict[str, XinferError | Unanswered]]:
        """The answers of workers by their names, and the errors of the others."""

        async def one(hello: WorkerHello) -> Any:
            worker = await answer(xo.actor_ref(uid=WORKER_UID, address=hello.address))
            return await answer(ask(worker))

        results = await asyncio.gather(*(one(hello) for hello in hellos), return_exceptions=True)
        answers: dict[str, Any] = {}
        errors: dict[str, XinferError | Unanswered] = {}
        for hello, result in zip(hellos, results, strict=True):
            if isinstance(result, XinferError | Unanswered):
                errors[hello.name] = result
            elif isinstance(result, BaseException):
                raise result
            else:
                answers[hello.name] = result
        return answers, errors
