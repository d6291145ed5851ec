"""How full a device or a worker is, by HAMi's formulas: 10 times the weighted shares of slots, cores and memory in use.

Integers, in units of 1e-12 of HAMi's score: exact enough to tell any two real shares apart, and the same everywhere.
"""

from xinfer.devices import DeviceSlice
from xinfer.slices.rooms import Room, Totals
from xinfer.spec import Weights

ONE = 10**12
"""A score of 1."""
FULL = 10 * ONE
"""The score of one resource that is used up."""


def device_score(room: Room, piece: DeviceSlice, weights: Weights, count: int = 1) -> int:
    """The score of a device with the slice on it; ``count``: how many devices the request asks for, as HAMi adds them.

    A device whose slots are not counted has a share of none of them in use. One without memory or cores scores 0.
    """
    device = room.device
    slots, cores, mib = device.slots or 1, device.cap_cores, room.cap_mib
    if not (cores and mib):
        return 0
    used_slots = room.tenants + count if device.slots else 0
    used_cores = room.used_cores + piece.cores_percent
    used_mib = room.used_mib + room.leaving_mib + piece.memory_mib
    # One fraction, rounded once: equal shares get equal scores, however they add up.
    weighted = (
        weights.slot * used_slots * cores * mib
        + weights.core * used_cores * slots * mib
        + weights.memory * used_mib * slots * cores
    )
    return FULL * weighted // (slots * cores * mib)


def worker_score(totals: Totals) -> int:
    """The score of a worker as it is, before the request; 0 if it has no memory or no cores."""
    slots, cores, mib = totals.slots or 1, totals.cores, totals.mib
    if not (cores and mib):
        return 0
    shares = totals.used_slots * cores * mib + totals.used_cores * slots * mib + totals.used_mib * slots * cores
    return FULL * shares // (slots * cores * mib)
