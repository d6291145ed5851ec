"""What this machine and this installation bring into a plan."""

import asyncio
import importlib.metadata
import platform
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xinfer import plugins
from xinfer.devices import Device
from xinfer.engines.base import Available, Requirements
from xinfer.errors import Conflict, EnvironmentFailed, InvalidRequest, XinferError, describe
from xinfer.processes import read_record
from xinfer.protocol import LAUNCH_FILE, LaunchOrder
from xinfer.worker.environments.build import build, probe
from xinfer.worker.environments.plan import EnvironmentPlan, Machine, plan_environment
from xinfer.worker.environments.sources import Sources
from xinfer.worker.environments.store import VENV, EnvironmentRecord, EnvironmentStore
from xinfer.worker.environments.uv import Show
from xinfer.worker.environments.whole import damage
from xinfer.worker.folders import process_in

DISTRIBUTION = "xinfer"


def machine(devices: Iterable[Device]) -> Machine:
    """This machine, as packages see it."""
    return Machine(
        python=f"{platform.python_implementation().lower()}-{sys.version_info.major}{sys.version_info.minor}",
        platform=sysconfig.get_platform(),
        accelerator="cuda" if any(device.kind == "cuda" for device in devices) else "cpu",
    )


def own_requirements() -> tuple[str, ...]:
    """What xinfer needs to run, without its extras.

    Raises:
        EnvironmentFailed: xinfer is not installed as a package, so nobody knows.
    """
    try:
        needed = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        raise EnvironmentFailed(
            "xinfer runs from a folder and is not installed as a package, so what it needs is not known; "
            "install it with pip (pip install --editable FOLDER)"
        ) from None
    return tuple(sorted(requirement for requirement in needed if "extra ==" not in requirement))


def find_engine(name: str) -> Any:
    """An engine by its name.

    Raises:
        InvalidRequest: there is none.
    """
    engine = plugins.engines().get(name)
    if engine is None:
        known = ", ".join(sorted(plugins.engines()))
        raise InvalidRequest(f"there is no engine {name!r}; the known ones are: {known}", param="model_engine")
    return engine


def available_here(engine: Any) -> Available:
    """Whether this Python can run an engine."""
    try:
        found: Available = engine.available()
    except Exception as error:  # noqa: BLE001  the boundary to engines of third parties; reported as the reason
        return Available(False, describe(error))
    return found


def requirements_of(engine: Any) -> tuple[Requirements, ...]:
    """What an engine says an environment for it holds; engines of third parties may say nothing."""
    found: tuple[Requirements, ...] = getattr(engine, "requirements", ())
    return found


class Environments:
    """The environments of a home, on this machine: what a worker and the command line work with."""

    def __init__(self, home: Path, on: Machine) -> None:
        self._home = home
        self.store = EnvironmentStore(home / "environments")
        self.machine = on

    def plan(self, engine: str, extra: Iterable[str] = ()) -> EnvironmentPlan:
        """The environment that an engine would have here.

        Raises:
            InvalidRequest: there is no such engine, or it cannot have an environment here.
            EnvironmentFailed: what xinfer needs is not known.
        """
        wanted = requirements_of(find_engine(engine))
        return plan_environment(engine, wanted, self.machine, runtime=own_requirements(), extra=extra)

    def usable(self) -> list[EnvironmentRecord]:
        """The environments that are ready and made for this machine, the best to take first.

        Of one engine, those that it would get today come before those from earlier requirements, and those without
        additional packages before those that were made for one model; then the newest.
        """
        fitting = [one for one in self.store.ready() if one.machine == self.machine]
        return sorted(fitting, key=lambda record: (not self.is_current(record), bool(record.extra)))

    def is_current(self, record: EnvironmentRecord) -> bool:
        """Whether it is what would be built today: its engine, or xinfer, may need other packages by now."""
        try:
            return self.plan(record.engine, record.extra).name == record.name
        except XinferError:
            return False  # the engine is gone, or needs none any more

    def users(self, name: str) -> list[str]:
        """The replicas that run in an environment, of whichever worker of this home."""
        python = str(self.store.python(name))
        folders = sorted((self._home / "workers").glob("*/replicas/*/*"))
        orders = [(folder, read_record(folder / LAUNCH_FILE, LaunchOrder)) for folder in folders]
        return [
            order.replica_id
            for folder, order in orders
            if order is not None and order.python == python and (process := process_in(folder)) and process.alive()
        ]

    def remove(self, name: str) -> None:
        """Remove an environment, or what is left of an unfinished one.

        Raises:
            NotFound: there is none of that name.
            Conflict: replicas run in it, or it is being built; says which.
        """
        self._require_unused(name, "removed")
        self.store.remove(name)

    async def build(
        self, plan: EnvironmentPlan, where: Sources, show: Show, *, again: bool = False
    ) -> EnvironmentRecord:
        """Build it, unless it is there. See ``build``."""
        if again:
            self._require_unused(plan.name, "built again")
        return await build(self.store, plan, where, show, Path(sys.executable), again=again)

    async def check(self, record: EnvironmentRecord) -> Available:
        """Import an engine in its environment, as a replica would, and see that all of its files are there.

        Raises:
            EnvironmentFailed: it does not work; ends with what Python said.
            OSError: the home is not writable.
        """
        python = self.store.python(record.name)
        if not python.exists():
            raise EnvironmentFailed(f"its Python is gone: {python}" + f" -> {python.readlink()}" * python.is_symlink())
        with self.store.lock(record.name) as lock:
            if not lock.try_shared():
                raise EnvironmentFailed(f"{record.name} is being built or removed")
            lost = await asyncio.to_thread(damage, self.store.folder(record.name) / VENV, record.packages)
            try:
                found = await probe(self.store, record.name, record.engine, record.imports, lock.descriptor)
            except OSError as error:
                raise EnvironmentFailed(f"its Python cannot be started: {describe(error)}") from error
            except EnvironmentFailed as error:
                raise EnvironmentFailed(f"{error.message}\n{lost}".rstrip()) from error
            if lost:
                raise EnvironmentFailed(lost)
            return found

    def _require_unused(self, name: str, what: str) -> None:
        users = self.users(name)
        if users:
            raise Conflict(
                f"the environment {name} cannot be {what}: {', '.join(users)} run{'s' * (len(users) == 1)} in it"
            )
