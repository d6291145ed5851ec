"""Collects the facts of this machine. Changes nothing; talks to drivers, and may take seconds."""

import contextlib
import ctypes
import importlib.util
import os
import re
import resource
import shutil
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

import psutil

from xinfer import plugins
from xinfer.settings import Settings, device_environment
from xinfer.worker import cgroups
from xinfer.worker.diagnosis.facts import CpuFacts, MachineFacts, SystemFacts, TorchBuild
from xinfer.worker.enforce.means import PRELOAD, read_means
from xinfer.worker.environments.here import Environments, machine
from xinfer.worker.environments.plan import Machine
from xinfer.worker.environments.store import EnvironmentStore
from xinfer.worker.hami.slices import read_hami
from xinfer.worker.inventory.base import MIB, read_inventory
from xinfer.worker.inventory.calls import LIBRARY
from xinfer.worker.inventory.cpu import (
    CGROUP_ROOT,
    OWN_CGROUPS,
    core_quota,
    in_cpu_cgroup,
    memory_limit_bytes,
    own_cgroups,
)
from xinfer.worker.inventory.mps import read_mps
from xinfer.worker.inventory.nvml import PCI_DEVICES
from xinfer.worker.offers import engine_offers

SHM = Path("/dev/shm")  # noqa: S108  that is where it is
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
NVIDIA_ON_BUS = "0x10de"
DISPLAY_CLASS = "0x03"
"""PCI classes of graphics and compute cards begin with it."""
SELF = "127.0.0.1"


def read_machine(settings: Settings) -> MachineFacts:
    """Look at everything, as a worker that is started from here would see it.

    Raises:
        OSError: the operating system does not say what it should.
    """
    env = device_environment()
    inventories = read_inventory()
    shown = max((source.cards_shown for source in inventories.values()), default=0)
    obstacle = cgroup_obstacle() if settings.cgroups == "auto" else "XINFER_CGROUPS=off"
    devices = [reading.device for source in inventories.values() for reading in source.devices]
    environments = Environments(settings.home, machine(devices))
    return MachineFacts(
        inventories=inventories,
        means=read_means(settings, cards=shown, cgroups=not obstacle),
        cpu=read_cpu(),
        system=read_system(settings, env.get(PRELOAD, "")),
        hami=read_hami(env),
        mps=read_mps(env),
        nvml_there=_loads(LIBRARY),
        nvidia_on_bus=cards_on_bus(PCI_DEVICES),
        cgroup_obstacle=obstacle,
        over_limit=settings.over_limit,
        offers=engine_offers(environments),
        broken_engines=plugins.broken_engines(),
        unusable_environments=unusable(environments),
        torches=tuple(torch_builds(environments.store)),
    )


def read_cpu() -> CpuFacts:
    """The host, and what bounds us on it."""
    found = own_cgroups(CGROUP_ROOT, OWN_CGROUPS)
    limit = memory_limit_bytes(found)
    host_cores = os.cpu_count() or 1
    swap = psutil.swap_memory()
    overcommit, sessions_first = 0, False
    with contextlib.suppress(OSError, ValueError):
        overcommit = int(OVERCOMMIT.read_text())
    with contextlib.suppress(OSError):
        sessions_first = AUTOGROUP.read_text().strip() == "1" and not in_cpu_cgroup(found, OWN_CGROUPS)
    return CpuFacts(
        host_cores=host_cores,
        allowed_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else host_cores,
        quota_cores=core_quota(found),
        host_memory_mib=psutil.virtual_memory().total // MIB,
        memory_limit_mib=None if limit is None else limit // MIB,
        swap_mib=swap.total // MIB,
        swap_used_mib=swap.used // MIB,
        overcommit=overcommit,
        sessions_first=sessions_first,
    )


def read_system(settings: Settings, preload: str) -> SystemFacts:
    """Limits, disks and variables. ``preload``: LD_PRELOAD."""
    there = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    proxies = getproxies()
    caught = () if proxy_bypass(SELF) else ("http", "all")
    return SystemFacts(
        home=settings.home,
        home_writable=os.access(there, os.W_OK),
        home_free_mib=shutil.disk_usage(there).free // MIB,
        shm_mib=shutil.disk_usage(SHM).total // MIB if SHM.is_dir() else None,
        open_files=None if soft == resource.RLIM_INFINITY else soft,
        open_files_most=None if hard == resource.RLIM_INFINITY else hard,
        proxies=tuple(f"{kind}_proxy" for kind in caught if kind in proxies),
        preload=tuple((name, "/" not in name or Path(name).exists()) for name in re.split(r"[: ]+", preload) if name),
    )


def cgroup_obstacle() -> str:
    """Why a worker started from here could not make cgroups; empty: it could."""
    own, above = cgroups.read_own(CGROUP_ROOT, OWN_CGROUPS)
    # This process and whoever started it stand for the worker and its family.
    family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    planned = cgroups.plan(own, above, family)
    return planned if isinstance(planned, str) else ""


def cards_on_bus(devices: Path) -> int:
    """How many graphics or compute cards by NVIDIA the PCI bus has."""
    found = 0
    for device in devices.glob("*"):
        with contextlib.suppress(OSError):
            by_nvidia = (device / "vendor").read_text().strip() == NVIDIA_ON_BUS
            found += by_nvidia and (device / "class").read_text().startswith(DISPLAY_CLASS)
    return found


def unusable(environments: Environments) -> dict[str, str]:
    """Environments that a worker here would not use, and why."""
    found = {name: environments.store.find(name) for name in environments.store.names()}
    return {
        name: "it is unfinished, or its Python is gone"
        if record is None
        else f"it was made for {_named(record.machine)}"
        for name, record in found.items()
        if record is None or record.machine != environments.machine
    }


def _named(made_for: Machine) -> str:
    return f"{made_for.python} on {made_for.platform} with {made_for.accelerator}"


def torch_builds(store: EnvironmentStore) -> list[TorchBuild]:
    """The torch of this Python and of every environment, by the file that says what it was built for."""
    own = importlib.util.find_spec("torch")
    files = {"this Python": Path(own.origin).with_name("version.py")} if own is not None and own.origin else {}
    for record in store.ready():
        libraries = store.python(record.name).parents[1] / "lib"
        for path in libraries.glob("python*/site-packages/torch/version.py"):
            files[record.name] = path
    return [build for where, path in files.items() if (build := torch_build(where, path)) is not None]


def torch_build(where: str, version_file: Path) -> TorchBuild | None:
    """What a torch was built for, without importing it; None: it does not say."""
    try:
        text = version_file.read_text()
    except OSError:
        return None
    said = dict(re.findall(r"^(\w+)\b[^=\n]*= *'([^']*)'", text, re.MULTILINE))
    if "__version__" not in said:
        return None
    others = any(said.get(name) for name in ("hip", "xpu"))
    return TorchBuild(
        where=where, version=said["__version__"], cuda=said.get("cuda", ""), is_for_other_accelerators=others
    )


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
