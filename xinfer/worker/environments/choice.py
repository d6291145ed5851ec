"""Which Python a replica runs on. Pure: what there is, is given."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from xinfer.engines.base import Available
from xinfer.errors import EnvironmentFailed
from xinfer.spec import EnvironmentRequest
from xinfer.worker.environments.plan import EnvironmentPlan
from xinfer.worker.environments.store import EnvironmentRecord


@dataclass(frozen=True)
class Own:
    """The worker's."""


@dataclass(frozen=True)
class Foreign:
    """An interpreter that the deployment names."""

    python: Path


@dataclass(frozen=True)
class Ready:
    """That of an environment that is there."""

    name: str


@dataclass(frozen=True)
class Build:
    """That of an environment that has to be built first."""

    plan: EnvironmentPlan


Choice = Own | Foreign | Ready | Build


def choose(
    request: EnvironmentRequest,
    engine: str,
    here: Available,
    usable: Iterable[EnvironmentRecord],
    plan: Callable[[], EnvironmentPlan],
) -> Choice:
    """The Python for a replica of an engine.

    Args:
        request: what the deployment says.
        engine: its name.
        here: whether the worker's Python has the engine.
        usable: the environments that are ready, the best to take first.
        plan: the environment that the engine would have with the packages of the request.

    Raises:
        EnvironmentFailed: there is none, and none may be built.
        InvalidRequest: what ``plan`` raises.
    """
    if request.python:
        return Foreign(Path(request.python))
    if request.mode == "none" or (here.ok and not request.is_own):
        return Own()
    names = [one.name for one in usable if one.engine == engine]
    if names and not request.packages:
        return Ready(names[0])
    if not (request.build or request.is_own):
        raise EnvironmentFailed(
            f"{here.reason or f'{engine} is not installed'}, and no environment here has it any more; build one with "
            f"xinfer engine install {engine}, or name the engine when you launch"
        )
    wanted = plan()
    return Ready(wanted.name) if wanted.name in names else Build(wanted)
