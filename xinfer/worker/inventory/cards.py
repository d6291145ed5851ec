"""What NVML says of NVIDIA cards, as plain data. Memory in MiB."""

from dataclasses import dataclass, field
from typing import NamedTuple

from xinfer.worker.inventory.base import MIB

_ABSURD = 1 << 50
"""Bytes. No card has a pebibyte: a larger number is a counter that ran below zero, or garbage."""


class Memory(NamedTuple):
    """Memory of a card in MiB."""

    total: int
    used: int
    free: int
    reserved: int = 0
    """Kept by the driver and the firmware; no process can have it."""


class Fault(NamedTuple):
    """Why a card cannot be used."""

    reason: str
    lost: bool = False
    """It is gone: NVML must be initialised again to see it return."""
    certain: bool = True
    """False: a call failed, and the next one may not."""


@dataclass(frozen=True)
class Card:
    """One card, or one MIG instance of it."""

    index: int
    """NVML's, in PCI order; that of the card for a MIG instance."""
    uuid: str
    parent_uuid: str
    name: str
    memory: Memory
    compute_capability: str = ""
    numa: int = -1
    pair_scores: dict[str, int] = field(default_factory=dict)
    """By the UUID of the other card."""
    processes: dict[int, int] = field(default_factory=dict)
    """MiB by process id of the host, 0 where NVML does not tell. In a container these ids mean nothing."""
    fault: Fault | None = None

    @property
    def is_mig(self) -> bool:
        """An instance of a card, not the card."""
        return self.uuid != self.parent_uuid


@dataclass(frozen=True)
class NvmlReading:
    """All cards that NVML sees, or the reason why there is none."""

    cards: tuple[Card, ...] = ()
    warnings: tuple[str, ...] = ()
    reason: str = ""
    driver: str = ""
    cuda_version: str = ""


def checked_memory(total: int, used: int, free: int, reserved: int = 0) -> Memory | None:
    """A memory reading (bytes) that makes sense, or None.

    Where a limit is put over a card (HAMi) and passed, ``free`` wraps around below zero and ``used`` is over ``total``.
    """
    if not MIB <= total < _ABSURD:
        return None
    used = min(used, total) if 0 <= used < _ABSURD else total
    free = min(max(free, 0), total - used)
    return Memory(total // MIB, -(-used // MIB), free // MIB, reserved // MIB if 0 <= reserved < total else 0)
