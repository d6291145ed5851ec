"""The Python of each replica of a worker: found, or built first, and held until the replica holds it itself."""

import asyncio
from pathlib import Path

from xinfer.spec import Deployment
from xinfer.worker.environments.builds import Builds
from xinfer.worker.environments.choice import Build, Choice, Foreign, Own, Ready, choose
from xinfer.worker.environments.here import Environments, available_here, find_engine
from xinfer.worker.environments.interpreter import Interpreter, foreign
from xinfer.worker.environments.trial import require_program, try_out
from xinfer.worker.environments.uv import Show
from xinfer.worker.locks import FileLock, Held

LOOK_EVERY_S = 0.1
"""How often an environment that is being removed or looked at is tried again."""


class HeldPython(Held):
    """A Python that is sure to stay. ``interpreter`` is None for the worker's own."""

    def __init__(self, interpreter: Interpreter | None = None, lock: FileLock | None = None) -> None:
        super().__init__(lock)
        self.interpreter = interpreter

    @property
    def path(self) -> str:
        """Of the interpreter; empty for the worker's own."""
        return str(self.interpreter.python) if self.interpreter is not None else ""

    @property
    def variables(self) -> dict[str, str]:
        """What a process of it needs in its environment."""
        return self.interpreter.variables if self.interpreter is not None else {}


class ReplicaPythons:
    """Finds the Python of a replica by what its Deployment says and what is there."""

    def __init__(self, environments: Environments, builds: Builds) -> None:
        self._environments = environments
        self._builds = builds
        self._tried: set[tuple[Path, str]] = set()
        """Interpreters that launches named and that have shown that they can run an engine."""

    def ready(self, deployment: Deployment) -> HeldPython | None:
        """The Python, if it is there; None: ``built`` has to wait for it, or to try it out.

        Raises:
            EnvironmentFailed: there is none, and none may be built.
            InvalidRequest: the engine cannot have an environment here.
        """
        return self._held(self._choice(deployment), deployment)

    async def built(self, deployment: Deployment, show: Show) -> HeldPython:
        """The Python, once it is there, telling ``show`` how far it is.

        Raises:
            EnvironmentFailed: it cannot be built, or may not be; says why.
            InvalidRequest: the engine cannot have an environment here.
        """
        while True:
            choice = self._choice(deployment)
            if isinstance(choice, Build):
                await self._builds.built(choice.plan, show)
                choice = Ready(choice.plan.name)
            if isinstance(choice, Foreign):
                await self._try(choice.python, deployment)
            held = self._held(choice, deployment)
            if held is not None:
                return held
            await asyncio.sleep(LOOK_EVERY_S)

    def _choice(self, deployment: Deployment) -> Choice:
        request, name = deployment.environment, deployment.engine
        return choose(
            request,
            name,
            available_here(find_engine(name)),
            self._environments.usable(),
            lambda: self._environments.plan(name, request.packages),
        )

    def _held(self, choice: Choice, deployment: Deployment) -> HeldPython | None:
        store = self._environments.store
        match choice:
            case Own():
                return HeldPython()
            case Foreign(python):
                require_program(python)
                if (python, deployment.engine) not in self._tried:
                    return None
                return HeldPython(foreign(store, python, deployment.envs))
            case Ready(name):
                lock = store.lock(name)
                if lock.try_shared() and store.find(name) is not None:
                    running = foreign(store, store.python(name), deployment.envs, environment_name=name)
                    return HeldPython(running, lock)
                lock.close()
                return None
            case Build():
                return None

    async def _try(self, python: Path, deployment: Deployment) -> None:
        require_program(python)
        await try_out(foreign(self._environments.store, python, deployment.envs), deployment.engine)
        self._tried.add((python, deployment.engine))
