"""Building one environment: once, whoever asks; all of it, or nothing that anybody would use."""

import asyncio
import contextlib
import errno
import os
import shutil
import time
from pathlib import Path

import msgspec

from xinfer.engines.base import Available
from xinfer.errors import Conflict, EnvironmentFailed
from xinfer.processes import read_record, write_atomically, write_record
from xinfer.settings import child_environment
from xinfer.worker.environments.interpreter import Interpreter, interpreter_of
from xinfer.worker.environments.plan import EnvironmentPlan, merged
from xinfer.worker.environments.sources import Sources
from xinfer.worker.environments.store import (
    MIB,
    PROGRESS_FILE,
    VENV,
    EnvironmentRecord,
    EnvironmentStore,
    size_mib,
)
from xinfer.worker.environments.uv import InstallProgress, OutOfDisk, Show, Uv, cache_folder, run_python
from xinfer.worker.locks import FileLock

WAIT_S = 0.2
"""How often the progress of another process's build is looked at."""
WANTED, UNWANTED, RESOLVED, CHOSEN = "wanted.txt", "excluded.txt", "resolved.txt", "requirements.txt"
"""Files beside the venv: what was asked for, what stays out, what uv made of it, and what is installed."""
RESULT_FILE = "available.json"
RESOLVING, INSTALLING, CHECKING = 0.02, 0.06, 0.9
"""Of the whole: where each part begins. Downloading takes most of the time, importing a large engine some seconds."""


class BuildStage(msgspec.Struct, frozen=True):
    """How far a build is, for processes that wait for it (``progress.json``)."""

    stage: str
    fraction: float


async def build(
    store: EnvironmentStore, plan: EnvironmentPlan, sources: Sources, show: Show, python: Path, *, again: bool = False
) -> EnvironmentRecord:
    """Build the environment, unless it is there; while another process builds it, wait and show its progress.

    Interrupted in whatever way, it leaves nothing that would be used; what was downloaded stays in uv's cache, and the
    next attempt goes on from there.

    Args:
        store: where it is kept.
        plan: what it holds.
        sources: where packages come from.
        show: told how far it is.
        python: the interpreter that it is made from.
        again: build it also where it is there; that one stays until the new one is ready.

    Raises:
        EnvironmentFailed: it could not be built, or does not work; says why. OutOfDisk: for lack of room.
        Conflict: it is to be built again while something runs in it.
    """
    _require_sayable(store, plan)
    try:
        with store.lock(plan.name) as lock:
            while not lock.try_exclusive():
                if (ready := _shared(store, plan, lock)) is not None:
                    if again:
                        raise Conflict(f"the environment {plan.name} cannot be built again while something runs in it")
                    return ready
                _show_other(store, plan, show)
                await asyncio.sleep(WAIT_S)
            store.settle(plan.name)
            if (ready := store.find(plan.name)) is not None:
                if not again:
                    return ready
                store.set_aside(plan.name)
            try:
                return await _Build(store, plan, sources, show, lock).run(python)
            finally:
                store.settle(plan.name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise out_of_disk(store, plan) from None
        raise EnvironmentFailed(f"the environment of {plan.engine} cannot be built: {error}") from error
    except OutOfDisk:
        raise out_of_disk(store, plan) from None
    except EnvironmentFailed as error:
        log = store.log(plan.name)
        raise EnvironmentFailed(
            f"the environment of {plan.engine} cannot be built: {error.message}\nAll of it is in {log}"
        ) from error


def _require_sayable(store: EnvironmentStore, plan: EnvironmentPlan) -> None:
    if os.pathsep in str(store.root):
        raise EnvironmentFailed(
            f"the environment of {plan.engine} cannot be built in {store.root}: a Python cannot be told of paths with "
            f"{os.pathsep!r} in them; set XINFER_HOME to another folder"
        )


def out_of_disk(store: EnvironmentStore, plan: EnvironmentPlan) -> OutOfDisk:
    """The error for too little room, with the figures."""
    root, cache = store.root, cache_folder(child_environment())
    full = f"the disk of {root} has {_free_mib(root)} MiB free"
    if _existing(cache).stat().st_dev != _existing(root).stat().st_dev:
        full += f", and that of {cache}, where packages are unpacked first, {_free_mib(cache)}"
    return OutOfDisk(
        f"the environment of {plan.engine} needs about {plan.disk_mib} MiB; {full}. Free some, or set XINFER_HOME (and "
        "UV_CACHE_DIR, for the packages) to a larger disk; what was downloaded is kept"
    )


def _free_mib(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free // MIB


def _shared(store: EnvironmentStore, plan: EnvironmentPlan, lock: FileLock) -> EnvironmentRecord | None:
    """The environment, if it is ready: nobody builds it who has the lock, but replicas run in it."""
    if store.find(plan.name) is not None and lock.try_shared():
        if (ready := store.find(plan.name)) is not None:
            return ready
        lock.drop()
    return None


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def _show_other(store: EnvironmentStore, plan: EnvironmentPlan, show: Show) -> None:
    now = read_record(store.folder(plan.name) / PROGRESS_FILE, BuildStage)
    if now is None:
        show("waiting for another process", 0.0)
    else:
        show(f"{now.stage} (in another process)", now.fraction)


class _Build:
    """One attempt, by whoever holds the exclusive lock."""

    def __init__(
        self, store: EnvironmentStore, plan: EnvironmentPlan, sources: Sources, show: Show, lock: FileLock
    ) -> None:
        self._store = store
        self._plan = plan
        self._sources = sources
        self._listener = show
        self._lock = lock
        self._folder = store.folder(plan.name)
        self._log = store.log(plan.name)

    async def run(self, python: Path) -> EnvironmentRecord:
        """From an empty folder to a record."""
        self._require_room()
        self._store.clear(self._plan.name)
        self._folder.mkdir(parents=True, exist_ok=True)
        done = False
        try:
            uv = Uv(self._log, self._sources.variables, self._lock.descriptor)
            self._show("making the environment", 0.0)
            await uv.run("venv", "--no-project", "--no-config", "--python", str(python), str(self._folder / VENV))
            packages = await self._resolve(uv)
            await self._install(uv, packages)
            record = await self._checked(packages)
            self._store.write(record)
            done = True
        finally:
            if not done:  # the log stays, for whoever wants to know why
                shutil.rmtree(self._folder / VENV, ignore_errors=True)
            (self._folder / PROGRESS_FILE).unlink(missing_ok=True)
        self._listener("ready", 1.0)
        return record

    def _require_room(self) -> None:
        if _free_mib(self._store.root) < self._plan.disk_mib:
            raise out_of_disk(self._store, self._plan)

    async def _resolve(self, uv: Uv) -> list[str]:
        """Versions that go together, as exact requirements."""
        plan = self._plan
        self._show("choosing versions", RESOLVING)
        _write_lines(self._folder / WANTED, [*plan.packages, *plan.runtime])
        _write_lines(self._folder / UNWANTED, plan.exclude)
        files = ("--output-file", RESOLVED, "--excludes", UNWANTED)
        plain = ("--no-annotate", "--no-header", "--quiet")
        python = ("--python", str(self._python))
        await uv.run("pip", "compile", WANTED, *files, *plain, *python, *self._sources.options)
        lines = (self._folder / RESOLVED).read_text().splitlines()
        resolved = [line.strip() for line in lines if line.strip() and not line.startswith(("#", "-"))]
        packages = merged(resolved, plan.without_dependencies)
        _write_lines(self._folder / CHOSEN, packages)
        return packages

    async def _install(self, uv: Uv, packages: list[str]) -> None:
        def show(stage: str, fraction: float) -> None:
            self._show(stage, INSTALLING + (CHECKING - INSTALLING) * fraction)

        show(f"fetching {len(packages)} packages", 0.0)
        heard = InstallProgress(len(packages), show)
        where = ("--python", str(self._python), *self._sources.options)
        # They count for uv's cache too: what it has compiled with others is compiled again.
        settings = [word for one in self._plan.build_settings for word in ("--config-settings-package", one)]
        await uv.run("pip", "install", "--no-deps", "--requirements", CHOSEN, *where, *settings, hear=heard.hear)

    async def _checked(self, packages: list[str]) -> EnvironmentRecord:
        """The record of it, once its engine has shown that it works."""
        plan = self._plan
        self._show(f"checking that {plan.engine} works in it", CHECKING)
        self._log.with_name(RESULT_FILE).unlink(missing_ok=True)
        found = await probe(self._store, plan.name, plan.engine, plan.imports, self._lock.descriptor)
        return EnvironmentRecord(
            name=plan.name,
            engine=plan.engine,
            version=found.version,
            machine=plan.machine,
            packages=tuple(packages),
            imports=plan.imports,
            extra=plan.extra,
            size_mib=await asyncio.to_thread(size_mib, self._folder),
            built_at=time.time(),
        )

    @property
    def _python(self) -> Path:
        return self._store.python(self._plan.name)

    def _show(self, stage: str, fraction: float) -> None:
        self._listener(stage, fraction)
        with contextlib.suppress(OSError):  # only those who wait for us would miss it
            write_record(self._folder / PROGRESS_FILE, BuildStage(stage, round(fraction, 4)))


async def probe(store: EnvironmentStore, name: str, engine: str, imports: tuple[str, ...], lock: int) -> Available:
    """Import the engine in its environment and ask it what it is.

    Raises:
        EnvironmentFailed: it does not work there; ends with what Python said.
    """
    result = store.folder(name) / RESULT_FILE
    running: Interpreter = interpreter_of(store, name)
    module = "xinfer.worker.environments.probe"
    argv = [str(running.python), "-P", "-m", module, engine, str(result), *imports]
    await run_python(argv, running.environment(), store.log(name), lock)
    found = read_record(result, Available)
    if found is None:
        raise EnvironmentFailed(f"{engine} did not say whether it works in {name}")
    return found


def _write_lines(path: Path, lines: tuple[str, ...] | list[str]) -> None:
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
