"""HAMi-core on bare metal: a library loaded into the replica that refuses it memory beyond the slice.

It counts in a shared region, one file for each process tree of a replica, and a process sees its slice as the card.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from xinfer.devices import Device, Hold, Lease
from xinfer.processes import runtime_directory
from xinfer.worker.enforce.means import PRELOAD, Means, cuda_slices

LIBRARY = "libvgpu.so"
REGION = "CUDA_DEVICE_MEMORY_SHARED_CACHE"
"""The file of the shared region."""
ALL_CORES = 100
QUIET = "1"
"""Errors and warnings; by itself it writes a line for every call."""


class HamiCoreEnforcer:
    """Loads HAMi-core into replicas, on machines where it can be trusted to limit the right card."""

    name: ClassVar[str] = "hami-core"

    def hold(self, device: Device, means: Means) -> Hold | None:
        """Memory firmly. Cores softly: work that is launched as a CUDA graph is not slowed down."""
        return Hold(memory="hard", cores="soft", view="slice") if obstacle(device, means) is None else None

    def environment(self, lease: Lease, devices: Mapping[str, Device], means: Means, instance: str) -> dict[str, str]:
        """The library, the limits, and a region of its own for the process."""
        held = [(piece, device) for piece, device in cuda_slices(lease, devices) if obstacle(device, means) is None]
        if not held:
            return {}
        env = {
            PRELOAD: ":".join(filter(None, (means.hami_core, means.preload))),
            "CUDA_REDIRECT": means.hami_core,
            REGION: str(region_file(instance)),
            "LIBCUDA_LOG_LEVEL": QUIET,
        }
        for place, (piece, device) in enumerate(held):
            # Without a limit it would show the process a card of 0 bytes.
            env[f"CUDA_DEVICE_MEMORY_LIMIT_{place}"] = f"{piece.memory_mib or device.memory_mib}m"
        shares = [piece.cores_percent for piece, _ in held]
        limited = any(0 < share < ALL_CORES for share in shares)
        env["CUDA_DEVICE_SM_LIMIT"] = str(max(shares)) if limited else "0"
        env["GPU_CORE_UTILIZATION_POLICY"] = "force" if limited else "disable"
        return env


ENFORCER = HamiCoreEnforcer()


def obstacle(device: Device, means: Means) -> str | None:
    """Why HAMi-core does not hold replicas on a device, for people; None: it does.

    It takes the first card that CUDA shows for the first one that NVML shows. NVML shows a process every card, CUDA
    only its own: where there are several, it would count on one and limit another.
    """
    reasons = {
        "it is for NVIDIA cards": device.kind != "cuda",
        "HAMi has loaded it already, and holds all replicas here together": device.source == "hami",
        "the card itself holds processes to a MIG instance": device.source == "mig",
        f"there is no {LIBRARY} to load (XINFER_HAMI_CORE)": not means.hami_core,
        "MPS holds replicas to their slices, and the two cannot be had together": means.mps,
        f"NVML shows a process all {means.cards} cards and CUDA only its own, so the wrong one might be limited": (
            means.cards != 1 or device.index != 0
        ),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def region_file(instance: str) -> Path:
    """Where the processes of an instance share what they use. On a local disk: they map it."""
    return runtime_directory() / f"{instance}.vgpu"


def own_region(env: Mapping[str, str], instance: str) -> Path | None:
    """The shared region in the environment of a process; None where it has none that is its own."""
    path = env.get(REGION, "")
    return Path(path) if Path(path).name == region_file(instance).name else None


def remove_region(instance: str) -> None:
    """Before a start, because limits in the file would count instead of new ones; and after the end."""
    region_file(instance).unlink(missing_ok=True)
