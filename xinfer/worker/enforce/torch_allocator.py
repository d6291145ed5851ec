"""torch's allocator: refuses to grow beyond the slice. What goes around it (context, NCCL, other libraries) is free."""

from collections.abc import Mapping
from typing import ClassVar

from xinfer.devices import Device, Hold, Lease
from xinfer.worker.enforce.hami_core import obstacle
from xinfer.worker.enforce.means import ALLOCATOR, Means, cuda_slices

SINCE = (2, 10)
"""Earlier versions of torch may not know the option, and refuse to start with one that they do not know."""
STEPS = 10_000
"""Four decimals: 14 MiB of the largest cards. Rounded down, so that slices never add up to more than the device."""


class TorchAllocatorEnforcer:
    """Gives torch's allocator its share of what it sees as the whole device."""

    name: ClassVar[str] = "torch"

    def hold(self, device: Device, means: Means) -> Hold | None:
        """Memory, softly, for engines that use torch. Not under HAMi-core: the slice is all that torch sees there."""
        if device.kind != "cuda" or means.torch < SINCE or obstacle(device, means) is None:
            return None
        return Hold(memory="soft", per="process")

    def environment(self, lease: Lease, devices: Mapping[str, Device], means: Means, _instance: str) -> dict[str, str]:
        """One fraction for all cards of a process, because torch has only one: the largest that a slice asks for."""
        fractions = [
            piece.memory_mib * STEPS // total
            for piece, device in cuda_slices(lease, devices)
            if (total := device.view_mib or device.memory_mib) and self.hold(device, means)
        ]
        if not fractions:
            return {}
        fraction = min(STEPS, max(1, *fractions)) / STEPS
        option = f"per_process_memory_fraction:{fraction}"
        return {ALLOCATOR: f"{means.allocator},{option}" if means.allocator else option}


ENFORCER = TorchAllocatorEnforcer()
