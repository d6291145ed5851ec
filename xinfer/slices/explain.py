"""Why a request fits where it does and nowhere else: every device with its reason, and what would fit instead."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from xinfer.devices import DeviceSlice, Placement
from xinfer.errors import NoCapacity
from xinfer.slices.choose import candidates, groups
from xinfer.slices.fit import Reason, refusal, wanted_slice
from xinfer.slices.nearest import Nearest, nearest
from xinfer.slices.place import place
from xinfer.slices.request import SliceRequest
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
    reported_mib: int | None = None
    """What the device itself reports as free, where that counts."""
    missing_mib: int = 0
    """By how much its memory falls short, whatever else stands against it."""
    needed_cores: int = 0
    free_cores: int = 0


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request fits, or why it does not."""

    placement: Placement | None = None
    reasons: dict[str, int]
    """How many devices are refused for each reason."""
    devices: tuple[Verdict, ...]
    free_mib: int
    """Of all devices on which nothing but memory is in the way, if anything is."""
    largest_free_mib: int
    """Of one such device."""
    fragmented: bool = False
    """There is enough free memory, but not in one piece."""
    unknown_uuids: tuple[str, ...] = ()
    """UUIDs that were asked for and that no device has."""
    nearest: Nearest | None = None

    @property
    def message(self) -> str:
        """For a person: by how much every device falls short, and what would fit."""
        if self.placement is not None:
            return f"there is room on {', '.join(piece.device_id for piece in self.placement.slices)}"
        parts = [_devices_text(self)]
        if self.unknown_uuids:
            parts.append(f"no device has the UUID {' or '.join(self.unknown_uuids)}")
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
    found = summary([verdict for worker in workers for verdict in _verdicts(request, worker)])
    placement = place(request, workers)
    if placement is not None:
        return msgspec.structs.replace(found, placement=placement)
    pool = [verdict for verdict in found.devices if verdict.reason in _ONLY_MEMORY]
    needed = request.count * min((verdict.needed_mib for verdict in pool), default=0)
    short_of_memory = any(verdict.reason is Reason.INSUFFICIENT_MEMORY for verdict in pool)
    return msgspec.structs.replace(
        found,
        fragmented=short_of_memory and found.free_mib >= needed,
        unknown_uuids=_unknown_uuids(request, workers),
        nearest=nearest(request, workers) if advise else None,
    )


def summary(verdicts: Sequence[Verdict]) -> Explanation:
    """The explanation of slices that somebody else had chosen, from what is to be said of each device."""
    free = [max(0, verdict.free_mib) for verdict in verdicts if verdict.reason in _ONLY_MEMORY]
    return Explanation(
        reasons=dict(Counter(verdict.reason.value for verdict in verdicts if verdict.reason)),
        devices=tuple(verdicts),
        free_mib=sum(free),
        largest_free_mib=max(free, default=0),
    )


def no_capacity(subject: str, explanation: Explanation) -> NoCapacity:
    """The refusal of a request that fits nowhere: with numbers for a person, and all of them for a program."""
    return NoCapacity(f"{subject}: {explanation.message}", details=explanation.details())


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
        reported_mib=room.device_free_mib,
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
        Reason.TYPE_MISMATCH: f"is a {device.name or device.kind}, which the request rules out",
        Reason.INDEX_MISMATCH: f"has the index {device.index}, which the request rules out",
        Reason.UUID_MISMATCH: f"has the UUID {device.uuid or '(none)'}, which the request rules out",
        Reason.ANTI_AFFINITY: "is on a card that another replica of the model runs on",
        Reason.SLOTS_EXHAUSTED: f"has no slot left of {device.slots}",
        Reason.INSUFFICIENT_MEMORY: f"falls short by {piece.memory_mib - room.free_mib} MiB "
        f"({room.free_mib} of {room.cap_mib} MiB free{leaving}){_report(room)}",
        Reason.INSUFFICIENT_CORES: f"falls short by {piece.cores_percent - room.free_cores} % of its cores",
        Reason.EXCLUSIVE_CONFLICT: "belongs to one replica alone"
        if room.exclusive_tenants
        else f"has {room.tenants} tenants already, it cannot be had alone",
        Reason.CORES_EXHAUSTED: "has no cores left that nobody claimed",
        Reason.NUMA_NOT_FIT: "has room, but not enough others on its NUMA node do",
        Reason.NOT_ENOUGH_DEVICES: "has room, but not enough others of its worker do",
    }
    return texts[reason]


def _report(room: Room) -> str:
    """What the device says, where that leaves less than the books do."""
    if room.device_free_mib is None or room.free_mib == room.unreserved_mib:
        return ""
    promised = f", of which {room.unfilled_mib} MiB are promised to its replicas" if room.unfilled_mib else ""
    return f": the device reports {room.device_free_mib} MiB free{promised}"


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


def _unknown_uuids(request: SliceRequest, workers: Iterable[Rooms]) -> tuple[str, ...]:
    if not request.uuids:
        return ()
    devices = [room.device for worker in workers for room in worker.by_id.values()]
    known = {uuid for device in devices for uuid in (device.uuid, device.parent_uuid)}
    return tuple(uuid for uuid in request.uuids if uuid not in known)
