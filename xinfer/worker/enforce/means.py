"""What this machine has to hold processes with, and the slices of a lease as the enforcers of CUDA count them."""

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass

from xinfer.devices import Device, DeviceSlice, Lease
from xinfer.settings import device_environment
from xinfer.worker.inventory.mps import read_mps
from xinfer.worker.leases import per_device

ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"
"""Options of torch's allocator, ``key:value`` with commas between them."""


@dataclass(frozen=True)
class Means:
    """What enforcers may rely on here. The default: nothing."""

    mps: bool = False
    """The control daemon of CUDA's Multi-Process Service answers."""
    torch: tuple[int, int] = (0, 0)
    """The version of torch that engines of this installation use; (0, 0): there is none."""
    allocator: str = ""
    """Options of torch's allocator that processes would inherit."""


NOTHING = Means()


def read_means() -> Means:
    """Look. Asks the MPS daemon, which may take a second: call it in a thread."""
    env = device_environment()
    return Means(mps=read_mps(env).running, torch=_torch_version(), allocator=env.get(ALLOCATOR, ""))


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
