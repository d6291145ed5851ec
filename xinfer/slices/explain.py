"""Why a request fits where it does and nowhere else: every device with its reason, and what would fit instead."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from xinfer.devices import DeviceSlice, Placement
from xinfer.errors import NoCapacity
from xinfer.slices.choose import candidates, groups
from xinfer.slices.fit import Reason, refusal, wanted_slice
from xinfer.slices.place import place
from xinfer.slices.request import ALL, SliceRequest
from xinfer.slices.rooms import Room, Rooms

MOST_NAMED = 16
"""A message names so many devices, those nearest to fitting; an Explanation has them all."""
MOST_DETAILED = 64
"""The details of a refusal have so many."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What stands against one device; ``reason=None``: nothing does. MiB, and percent of the device's cores."""

    worker_id: str = ""
    worker: str = ""
    device_id: str
    uuid: str = ""
    name: str = ""
    reason: Reason | None = None
    message: str
    needed_mib: int
    free_mib: int
    cap_mib: int
    missing_mib: int = 0
    """By how much its memory falls short, whatever else stands against it."""
    needed_cores: int = 0
    free_cores: int = 0


class Nearest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The request that would fit and differs least: only what has to be changed."""

    count: int | None = None
    memory_mib: int | None = None
    memory_percent: int | None = None
    cores: int | None = None

    @property
    def text(self) -> str:
        """In words: "300 MiB and 20 % of the cores"."""
        parts = (
            (self.count, "on {} device(s)"),
            (self.memory_mib, "with {} MiB"),
            (self.memory_percent, "with {} % of the memory"),
            (self.cores, "with {} % of the cores"),
        )
        return " and ".join(words.format(value) for value, words in parts if value is not None)


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request fits, or why it does not."""

    placement: Placement | None
    reasons: dict[str, int]
    """How many devices are refused for each reason."""
    devices: tuple[Verdict, ...]
    free_mib: int
    """Of all devices on which nothing but memory is in the way, if anything is."""
    largest_free_mib: int
    """Of one such device."""
    fragmented: bool
    """There is enough free memory, but not in one piece."""
    nearest: Nearest | None = None

    @property
    def message(self) -> str:
        """For a person: by how much every device falls short, and what would fit."""
        if self.placement is not None:
            return f"there is room on {', '.join(piece.device_id for piece in self.placement.slices)}"
        parts = [_devices_text(self)]
        if self.fragmented:
            parts.append(f"{self.free_mib} MiB are free in all, but at most {self.largest_free_mib} MiB in one piece")
        if self.nearest is not None:
            parts.append(f"it would fit {self.nearest.text}")
        return "; ".join(parts)

    def details(self) -> dict[str, Any]:
        """The same for a program, as JSON values; of a large fleet only the devices nearest to fitting."""
        found: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(self, devices=self.closest(MOST_DETAILED)))
        return found

    def closest(self, most: int) -> tuple[Verdict, ...]:
        """Up to so many of the devices, those with the least memory missing."""
        if len(self.devices) <= most:
            return self.devices
        return tuple(sorted(self.devices, key=lambda one: (one.missing_mib, one.worker, one.device_id))[:most])


def explain(request: SliceRequest, workers: Iterable[Rooms], *, advise: bool = True) -> Explanation:
    """Where one replica would go, what stands against every device, and (``advise``) what would fit if it fits nowhere.

    On thousands of devices the advice costs several times as much as the rest.
    """
    workers = sorted(workers, key=lambda worker: (worker.name, worker.worker_id))
    placement = place(request, workers)
    return summary(
        [verdict for worker in workers for verdict in _verdicts(request, worker)],
        placement=placement,
        count=request.count,
        alternative=nearest(request, workers) if advise and placement is None else None,
    )


def summary(
    verdicts: Sequence[Verdict],
    *,
    count: int = 0,
    placement: Placement | None = None,
    alternative: Nearest | None = None,
) -> Explanation:
    """The explanation that follows from what was found of every device.

    ``count``: how many of them were wanted; 0: all, because somebody else had chosen them.
    """
    pool = [verdict for verdict in verdicts if verdict.reason in _ONLY_MEMORY]
    free = [max(0, verdict.free_mib) for verdict in pool]
    needed = count * min((verdict.needed_mib for verdict in pool), default=0)
    short_of_memory = any(verdict.reason is Reason.INSUFFICIENT_MEMORY for verdict in pool)
    return Explanation(
        placement=placement,
        reasons=dict(Counter(verdict.reason.value for verdict in verdicts if verdict.reason)),
        devices=tuple(verdicts),
        free_mib=sum(free),
        largest_free_mib=max(free, default=0),
        fragmented=placement is None and count > 0 and short_of_memory and sum(free) >= needed,
        nearest=alternative,
    )


def no_capacity(subject: str, explanation: Explanation) -> NoCapacity:
    """The refusal of a request that fits nowhere: with numbers for a person, and all of them for a program."""
    return NoCapacity(f"{subject}: {explanation.message}", details=explanation.details())


def nearest(request: SliceRequest, workers: Sequence[Rooms]) -> Nearest | None:
    """What has to be asked for instead of a request that does not fit; None: nothing of these devices at all.

    Less memory, else fewer cores, else less of both, else the same of fewer devices; the most that fits, in each case.
    """

    def fits(**changes: int) -> bool:
        return place(_changed(request, changes), workers) is not None

    memory_word = "memory_mib" if request.memory_mib is not None else "memory_percent"
    asked = request.memory_mib or request.memory_percent or 0
    if memory := _largest(1, asked - 1, lambda value: fits(**{memory_word: value})):
        return Nearest(**{memory_word: memory})
    most_cores = ALL if request.exclusive else request.cores
    cores = _largest(0, most_cores - 1, lambda value: fits(cores=value))
    if cores is not None:
        return Nearest(cores=cores)
    if memory := _largest(1, asked - 1, lambda value: fits(**{memory_word: value, "cores": 0})):
        cores = _largest(0, most_cores - 1, lambda value: fits(**{memory_word: memory, "cores": value}))
        return Nearest(**{memory_word: memory}, cores=cores)
    count = _largest(1, request.count - 1, lambda value: fits(count=value))
    return Nearest(count=count) if count else None


def verdict(worker: Rooms, piece: DeviceSlice, reason: Reason | None) -> Verdict:
    """What is to be said of one device, and of the slice that was wanted there."""
    room = worker.by_id.get(piece.device_id)
    if room is None:
        return Verdict(
            worker_id=worker.worker_id,
            worker=worker.name,
            device_id=piece.device_id,
            reason=Reason.UNKNOWN_DEVICE,
            message=f"there is no device {piece.device_id!r}, or not any more",
            needed_mib=piece.memory_mib,
            free_mib=0,
            cap_mib=0,
            missing_mib=piece.memory_mib,
        )
    return Verdict(
        worker_id=worker.worker_id,
        worker=worker.name,
        device_id=piece.device_id,
        uuid=room.device.uuid,
        name=room.device.name,
        reason=reason,
        message=f"device {piece.device_id} {_words(room, piece, reason)}",
        needed_mib=piece.memory_mib,
        free_mib=room.free_mib,
        cap_mib=room.cap_mib,
        missing_mib=max(0, piece.memory_mib - room.free_mib),
        needed_cores=piece.cores_percent,
        free_cores=room.free_cores,
    )


def _words(room: Room, piece: DeviceSlice, reason: Reason | None) -> str:
    device = room.device
    leaving = f", {room.leaving_mib} MiB of stopping replicas come back soon" if room.leaving_mib else ""
    texts: dict[Reason | None, str] = {
        None: "has room",
        Reason.UNHEALTHY: f"is not healthy: {device.health_reason or 'no reason is known'}",
        Reason.CORDONED: "is cordoned, it takes nothing new",
        Reason.TYPE_MISMATCH: f"is a {device.name or device.kind}, not of a type that was asked for",
        Reason.INDEX_MISMATCH: f"has the index {device.index}, which was not asked for",
        Reason.UUID_MISMATCH: f"has the UUID {device.uuid or '(none)'}, which was not asked for",
        Reason.ANTI_AFFINITY: "is on a card that another replica of the model runs on",
        Reason.SLOTS_EXHAUSTED: f"has no slot left of {device.slots}",
        Reason.INSUFFICIENT_MEMORY: f"falls short by {piece.memory_mib - room.free_mib} MiB "
        f"({room.free_mib} of {room.cap_mib} MiB free{leaving})",
        Reason.INSUFFICIENT_CORES: f"falls short by {piece.cores_percent - room.free_cores} % of its cores",
        Reason.EXCLUSIVE_CONFLICT: "belongs to one replica alone"
        if room.exclusive_tenants
        else f"has {room.tenants} tenants already, it cannot be had alone",
        Reason.CORES_EXHAUSTED: "has no cores left that nobody claimed",
        Reason.NUMA_NOT_FIT: "has room, but not enough others on its NUMA node do",
        Reason.NOT_ENOUGH_DEVICES: "has room, but not enough others of its worker do",
    }
    return texts[reason]


_ONLY_MEMORY = (None, Reason.INSUFFICIENT_MEMORY, Reason.NUMA_NOT_FIT, Reason.NOT_ENOUGH_DEVICES)
"""What is said of devices that more free memory, there or beside them, would make fit."""


def _devices_text(explanation: Explanation) -> str:
    if not explanation.devices:
        return "there are no suitable devices"
    named = explanation.closest(MOST_NAMED)
    by_worker: dict[str, list[str]] = {}
    for verdict in named:
        by_worker.setdefault(verdict.worker, []).append(verdict.message)
    text = "; ".join(
        ", ".join(texts) if not name else f"{name}: {', '.join(texts)}" for name, texts in by_worker.items()
    )
    if len(named) == len(explanation.devices):
        return text
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(explanation.reasons.items()))
    return f"{text}; in all {len(explanation.devices)} devices: {counts}"


def _verdicts(request: SliceRequest, worker: Rooms) -> Iterable[Verdict]:
    fitting = candidates(request, worker.by_id.values())
    usable = {one.room.device.device_id for group in groups(request, fitting) for one in group}
    alone = Reason.NUMA_NOT_FIT if request.numa_bind and len(fitting) >= request.count else Reason.NOT_ENOUGH_DEVICES
    for room in sorted(worker.by_id.values(), key=lambda room: (room.device.index, room.device.device_id)):
        reason = refusal(room, request)
        if reason is None and room.device.device_id not in usable:
            reason = alone
        yield verdict(worker, wanted_slice(room, request), reason)


def _changed(request: SliceRequest, changes: dict[str, int]) -> SliceRequest:
    shared = {"exclusive": False} if "cores" in changes else {}
    return msgspec.structs.replace(request, **changes, **shared)


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number in low..high that fits, where every smaller one fits if a larger one does."""
    if high < low or not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
