"""torch's allocator: refuses to grow beyond the slice. What goes around it (context, NCCL, other libraries) is free."""

from collections.abc import Mapping
from typing import ClassVar

from xinfer.devices import Device, Hold, Lease
from xinfer.worker.enforce.means import ALLOCATOR, Means, cuda_slices

SINCE = (2, 10)
"""Earlier versions of torch may not know the option, and refuse to start with one that they do not know."""
STEPS = 10_000
"""Four decimals: 14 MiB of the largest cards. Rounded down, so that slices never add up to more than the device."""


class TorchAllocatorEnforcer:
    """Gives torch's allocator its share of what it sees as the whole device."""

    name: ClassVar[str] = "torch"

    def hold(self, device: Device, means: Means) -> Hold | None:
        """Memory, softly, for engines that use torch."""
        return Hold(memory="soft", per="process") if device.kind == "cuda" and means.torch >= SINCE else None

    def environment(self, lease: Lease, devices: Mapping[str, Device], means: Means) -> dict[str, str]:
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
