"""CUDA's Multi-Process Service: the driver refuses memory beyond the slice, and lends a share of the processors."""

from collections.abc import Mapping
from typing import ClassVar

from xinfer.devices import Device, Hold, Lease
from xinfer.worker.enforce.means import Means, cuda_slices


class MpsEnforcer:
    """Limits of an MPS client. They hold for each process by itself, and its view stays that of the whole device."""

    name: ClassVar[str] = "mps"

    def hold(self, device: Device, means: Means) -> Hold | None:
        """Both, where the daemon is there; it serves no MIG instances of ours."""
        if not means.mps or device.kind != "cuda" or device.source == "mig":
            return None
        return Hold(memory="hard", cores="hard", per="process")

    def environment(self, lease: Lease, devices: Mapping[str, Device], means: Means, _instance: str) -> dict[str, str]:
        """Memory for each card by its place among the visible ones. MPS knows one share of cores for all of them."""
        held = [(piece, device) for piece, device in cuda_slices(lease, devices)]
        if not held or any(self.hold(device, means) is None for _, device in held):
            return {}
        limits = ",".join(f"{place}={piece.memory_mib}M" for place, (piece, _) in enumerate(held))
        env = {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": limits}
        shares = [piece.cores_percent for piece, _ in held]
        if all(shares):
            env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(min(100, max(shares)))
        return env


ENFORCER = MpsEnforcer()
