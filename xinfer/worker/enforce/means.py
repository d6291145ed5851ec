"""What this machine has to hold processes with, and the slices of a lease as the enforcers of CUDA count them."""

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xinfer.devices import Device, DeviceSlice, Lease
from xinfer.settings import Settings, device_environment
from xinfer.worker.inventory.mps import read_mps
from xinfer.worker.leases import per_device

ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"
"""Options of torch's allocator, ``key:value`` with commas between them."""
PRELOAD = "LD_PRELOAD"
"""Libraries that the loader puts before all others, with colons between them."""


@dataclass(frozen=True)
class Means:
    """What enforcers may rely on here. The default: nothing."""

    mps: bool = False
    """The control daemon of CUDA's Multi-Process Service answers."""
    torch: tuple[int, int] = (0, 0)
    """The version of torch that engines of this installation use; (0, 0): there is none."""
    allocator: str = ""
    """Options of torch's allocator that processes would inherit."""
    hami_core: str = ""
    """Where the libvgpu.so is that may be loaded into replicas; empty: there is none."""
    preload: str = ""
    """Libraries that processes would load first without our doing (LD_PRELOAD)."""
    cards: int = 0
    """How many cards the driver shows to every process here, also those that are not ours."""
    cgroups: bool = False
    """Each replica can have a cgroup of its own."""
    ends_offenders: bool = False
    """The watchdog ends a replica that uses more main memory than its slice."""


NOTHING = Means()


def read_means(settings: Settings | None = None, *, cards: int = 0, cgroups: bool = False) -> Means:
    """Look. Asks the MPS daemon, which may take a second: call it in a thread.

    Args:
        settings: what the operator allows and gives; None: nothing.
        cards: how many the driver shows.
        cgroups: whether the worker may make cgroups.
    """
    env = device_environment()
    library = settings.hami_core if settings is not None else ""
    return Means(
        mps=read_mps(env).running,
        torch=_torch_version(),
        allocator=env.get(ALLOCATOR, ""),
        hami_core=library if library and Path(library).is_file() else "",
        preload=env.get(PRELOAD, ""),
        cards=cards,
        cgroups=cgroups,
        ends_offenders=settings is not None and settings.over_limit == "end",
    )


def cuda_slices(lease: Lease, devices: Mapping[str, Device]) -> list[tuple[DeviceSlice, Device]]:
    """What a lease has of CUDA devices, one slice for each, in the order in which its process counts them."""
    found = [(piece, devices[piece.device_id]) for piece in per_device(lease.slices)]
    return [(piece, device) for piece, device in found if device.kind == "cuda"]


def _torch_version() -> tuple[int, int]:
    """By the metadata of the package: importing it here would cost every worker seconds and hundreds of MiB."""
    try:
        found = re.match(r"(\d+)\.(\d+)", importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        return (0, 0)
    return (int(found[1]), int(found[2])) if found else (0, 0)
