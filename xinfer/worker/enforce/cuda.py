"""Which cards a process sees: those that it has slices of, and no others. How much it takes of them, others hold."""

from collections.abc import Mapping
from typing import ClassVar

from xinfer.devices import Device, Hold, Lease
from xinfer.worker.enforce.hami_core import obstacle
from xinfer.worker.enforce.means import Means, cuda_slices


class CudaVisibility:
    """Shows a process its cards, in the order of its slices; the first is its ``cuda:0``."""

    name: ClassVar[str] = "visibility"

    def hold(self, _device: Device, _means: Means) -> Hold | None:
        """Nothing: what is seen can be used up."""
        return None

    def environment(self, lease: Lease, devices: Mapping[str, Device], means: Means, _instance: str) -> dict[str, str]:
        """By UUID, which no other count of cards can misread; by index for HAMi-core, which takes a UUID for card 0."""
        cards = [device for _, device in cuda_slices(lease, devices)]
        if not cards:
            return {}
        if any(device.source == "hami" or obstacle(device, means) is None for device in cards):
            names = [str(device.index) for device in cards]
        else:
            names = [device.uuid or str(device.index) for device in cards]
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(names)}


ENFORCER = CudaVisibility()
