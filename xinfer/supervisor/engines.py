"""What operators ask about engines: their environments on every worker. Passed on to the workers, which do the work."""

from xinfer.errors import InvalidRequest, NotFound, describe
from xinfer.protocol import EngineBuild
from xinfer.supervisor.shell import Shell
from xinfer.supervisor.workers import ask_workers, named_workers

BuildsByWorker = dict[str, tuple[EngineBuild, ...]]
"""Of each worker, by its name."""


class ForEngines:
    """The part of the supervisor's actor that is about engines."""

    _shell: Shell

    async def install_engine(self, engine: str, packages: tuple[str, ...], workers: tuple[str, ...]) -> BuildsByWorker:
        """Have workers (none named: all that are alive) build an environment for an engine; answers when they began.

        Raises:
            NotFound: there is no such worker.
            InvalidRequest: none of them can; says why.
        """
        hellos = named_workers(self._shell.living_workers(), workers)
        begun, refusals = await ask_workers(hellos, lambda worker: worker.install_engine(engine, packages))
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
        found, _ = await ask_workers(self._shell.living_workers(), lambda worker: worker.engine_builds())
        return {name: tuple(build for build in builds if build.engine == engine) for name, builds in found.items()}

    async def cancel_engine_builds(self, engine: str) -> BuildsByWorker:
        """End what is being built for an engine, everywhere.

        Raises:
            NotFound: nothing is.
        """
        ended, _ = await ask_workers(self._shell.living_workers(), lambda worker: worker.cancel_engine_builds(engine))
        if not ended:
            raise NotFound(f"no worker builds an environment for {engine!r}")
        return ended
