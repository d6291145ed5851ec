"""NVIDIA cards as devices: what NVML shows, as far as CUDA_VISIBLE_DEVICES, HAMi and MPS leave it to us."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import msgspec

from xinfer.devices import Device
from xinfer.settings import device_environment
from xinfer.worker.hami.slices import CardView, HamiReading, HamiSlice, hami_slices, read_hami
from xinfer.worker.inventory.base import MIB, DeviceReading, InventoryReading, default_reserve_mib
from xinfer.worker.inventory.cards import Card, NvmlReading
from xinfer.worker.inventory.mps import MpsReading, read_mps
from xinfer.worker.inventory.nvml import Nvml
from xinfer.worker.inventory.visible import VARIABLE, visible_cards

PID_NAMESPACE = Path("/proc/self/ns/pid")
INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""The kernel gives the first PID namespace this fixed name."""


class NvidiaInventory:
    """Every card, MIG instance or slice of a card by NVIDIA that this process may use."""

    name: ClassVar[str] = "nvidia"

    def __init__(
        self, nvml: Nvml | None = None, environment: Callable[[], dict[str, str]] = device_environment
    ) -> None:
        self._nvml = nvml or Nvml()
        self._environment = environment

    def read(self) -> InventoryReading:
        """See ``Inventory.read``. The driver stays open in between, so that errors are noticed."""
        env = self._environment()
        nvml = self._nvml.read()
        if not nvml.cards:
            return InventoryReading(warnings=nvml.warnings, reason=nvml.reason)
        return nvidia_devices(nvml, read_hami(env), read_mps(env), env, pids_are_ours=_sees_host_pids())


INVENTORY = NvidiaInventory()


def nvidia_devices(
    nvml: NvmlReading, hami: HamiReading, mps: MpsReading, env: dict[str, str], *, pids_are_ours: bool
) -> InventoryReading:
    """What four readings make together: the smallest limit counts, and whatever disagrees becomes a warning."""
    cards, doubts = visible_cards(nvml.cards, env)
    warnings = [*nvml.warnings, *doubts]
    slices: dict[str, HamiSlice] | None = None
    said = hami.warnings
    if hami.given:
        views = [CardView(card.parent_uuid, card.index, card.memory.total, card.is_mig) for card in nvml.cards]
        slices, said = hami_slices(hami, views)
        cards = tuple(card for card in cards if card.parent_uuid in slices)
    warnings += [*said, *mps.warnings]
    readings = []
    for position, card in enumerate(cards):
        reading = _device_reading(card, nvml)
        if slices is not None:
            reading = _cut_by_hami(reading, slices[card.parent_uuid])
            reading = msgspec.structs.replace(reading, used_by_pid=_counted_by_hami(hami, card.parent_uuid))
        if mps.running:
            reading = _cut_by_mps(reading, mps, position)
        if pids_are_ours and slices is None:
            reading = msgspec.structs.replace(reading, used_by_pid=card.processes)
        readings.append(reading)
    reason = "" if readings else "none of the cards that NVML shows is left to this process"
    if not readings and VARIABLE in env:
        reason += f" ({VARIABLE}={env[VARIABLE]})"
    return InventoryReading(
        devices=tuple(_among_themselves(readings)),
        warnings=tuple(warnings),
        reason=reason,
        cards_shown=len({card.parent_uuid for card in nvml.cards}),
    )


def _device_reading(card: Card, nvml: NvmlReading) -> DeviceReading:
    """A whole card or MIG instance, with nobody's limits on it."""
    reserve = card.memory.reserved if card.is_mig else max(default_reserve_mib(card.memory.total), card.memory.reserved)
    device = Device(
        device_id=card.uuid,
        kind="cuda",
        index=card.index,
        name=card.name,
        memory_mib=card.memory.total,
        cores=100,
        uuid=card.uuid,
        parent_uuid=card.parent_uuid,
        vendor="nvidia",
        numa=card.numa,
        pair_scores=card.pair_scores,
        healthy=card.fault is None,
        health_reason="" if card.fault is None else card.fault.reason,
        reserve_mib=reserve,
        source="mig" if card.is_mig else "nvml",
        driver=nvml.driver,
        cuda_version=nvml.cuda_version,
        compute_capability=card.compute_capability,
        enforced_by="mig" if card.is_mig else "",
    )
    return DeviceReading(
        device=device,
        used_mib=card.memory.used,
        free_mib=card.memory.free,
        processes=len(card.processes),
        processes_mib=sum(card.processes.values()),
        lost=card.fault is not None and card.fault.lost,
        certain=card.fault is not None and card.fault.certain,
    )


def _cut_by_hami(reading: DeviceReading, given: HamiSlice) -> DeviceReading:
    """The slice; nothing is kept for the system, which lives on the rest of the card.

    Where nothing enforces it, NVML counts the neighbours on the card too, and says nothing of our slice.
    """
    device = reading.device
    mig = device.source == "mig"
    counted = given.enforced or mig
    return msgspec.structs.replace(
        reading,
        device=msgspec.structs.replace(
            device,
            memory_mib=given.memory_mib,
            view_mib=device.memory_mib if device.memory_mib != given.memory_mib else 0,
            reserve_mib=device.reserve_mib if mig else 0,
            cap_cores=given.cores,
            source=device.source if mig else "hami",
            enforced_by=device.enforced_by or ("hami" if given.enforced else ""),
        ),
        used_mib=reading.used_mib if counted else None,
        free_mib=reading.free_mib if counted else None,
    )


def _counted_by_hami(hami: HamiReading, uuid: str) -> dict[int, int]:
    """MiB by process, as HAMi-core counts them: unlike the driver, it knows them by their ids in our container."""
    region = hami.region
    if region is None:
        return {}
    positions = [position for position, device in enumerate(region.devices) if device.uuid == uuid]
    return {
        process.pid: sum(process.used[position] for position in positions) // MIB
        for process in region.processes
        if positions
    }


def _cut_by_mps(reading: DeviceReading, mps: MpsReading, position: int) -> DeviceReading:
    """Limits that whoever started us put on MPS clients; each of our processes would have them, so their sum has too.

    MPS does not change what a process sees as the total.
    """
    device = reading.device
    limit = mps.memory_mib.get(str(position), mps.memory_mib.get(device.uuid, device.memory_mib))
    if limit >= device.memory_mib and mps.cores_percent >= device.cap_cores:
        return reading
    memory = min(limit, device.memory_mib)
    return msgspec.structs.replace(
        reading,
        device=msgspec.structs.replace(
            device,
            memory_mib=memory,
            view_mib=(device.view_mib or device.memory_mib) if memory < device.memory_mib else device.view_mib,
            reserve_mib=0 if memory < device.memory_mib else device.reserve_mib,
            cap_cores=min(mps.cores_percent, device.cap_cores),
            source="mps" if device.source == "nvml" else device.source,
        ),
    )


def _among_themselves(readings: list[DeviceReading]) -> list[DeviceReading]:
    """Pair scores of the devices that are ours only."""
    ours = {reading.device.device_id for reading in readings}
    return [
        msgspec.structs.replace(
            reading,
            device=msgspec.structs.replace(
                reading.device,
                pair_scores={other: score for other, score in reading.device.pair_scores.items() if other in ours},
            ),
        )
        for reading in readings
    ]


def _sees_host_pids() -> bool:
    """NVML counts processes by the ids that the host knows them by; in a PID namespace of ours they mean nothing."""
    try:
        return str(PID_NAMESPACE.readlink()) == INITIAL_PID_NAMESPACE
    except OSError:
        return False
