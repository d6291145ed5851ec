"""Whether a device may take a slice. The checks and their order are those of HAMi's scheduler."""

from enum import StrEnum

from xinfer.devices import DeviceSlice
from xinfer.slices.request import ALL, SliceRequest
from xinfer.slices.rooms import Room


class Reason(StrEnum):
    """Why a device is not taken."""

    UNKNOWN_DEVICE = "UnknownDevice"
    """There is no such device on the worker, or not any more."""
    UNHEALTHY = "Unhealthy"
    CORDONED = "Cordoned"
    TYPE_MISMATCH = "TypeMismatch"
    INDEX_MISMATCH = "IndexMismatch"
    UUID_MISMATCH = "UuidMismatch"
    ANTI_AFFINITY = "AntiAffinity"
    """Another replica of the model is on the same card."""
    SLOTS_EXHAUSTED = "SlotsExhausted"
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    INSUFFICIENT_CORES = "InsufficientCores"
    EXCLUSIVE_CONFLICT = "ExclusiveConflict"
    """Wanted for itself but in use, or the other way round."""
    CORES_EXHAUSTED = "CoresExhausted"
    """All cores are claimed, so that a slice with no claim on cores would get none."""
    NUMA_NOT_FIT = "NumaNotFit"
    """The device fits, but not enough others on its NUMA node do."""
    NOT_ENOUGH_DEVICES = "NotEnoughDevices"
    """The device fits, but not enough others of its worker do."""


def wanted_slice(room: Room, request: SliceRequest) -> DeviceSlice:
    """What the request means on this device. All of its memory is what may be given away of it."""
    if request.memory_mib is not None:
        memory_mib = request.memory_mib
    else:
        memory_mib = min(room.cap_mib, room.device.memory_mib * (request.memory_percent or 0) // ALL)
    exclusive = request.exclusive or is_whole(room, request.cores)
    return DeviceSlice(
        device_id=room.device.device_id,
        memory_mib=memory_mib,
        cores_percent=room.device.cap_cores if exclusive else request.cores,
        exclusive=exclusive,
    )


def is_whole(room: Room, cores: int) -> bool:
    """Whether asking for so many percent of the cores means asking for the device itself."""
    return cores == room.device.cap_cores == ALL


def refusal(room: Room, request: SliceRequest) -> Reason | None:
    """Why a device cannot serve as one of those that the request asks for; None: it can."""
    return forbidden(room, request) or lack(room, wanted_slice(room, request))


def forbidden(room: Room, request: SliceRequest) -> Reason | None:
    """What stands against a device whatever is free on it."""
    return closed(room) or (_mismatch(room, request) if request.is_choosy else None)


def closed(room: Room) -> Reason | None:
    """Why a device takes nothing new from anybody."""
    if not room.device.healthy:
        return Reason.UNHEALTHY
    return Reason.CORDONED if room.cordoned else None


def lack(room: Room, piece: DeviceSlice) -> Reason | None:
    """What a device has too little of for one more slice."""
    device = room.device
    if device.slots and room.tenants >= device.slots:
        return Reason.SLOTS_EXHAUSTED
    if piece.memory_mib > room.free_mib:
        return Reason.INSUFFICIENT_MEMORY
    if piece.cores_percent > device.cap_cores - room.used_cores:
        return Reason.INSUFFICIENT_CORES
    if room.exclusive_tenants or (piece.exclusive and room.tenants):
        return Reason.EXCLUSIVE_CONFLICT
    if piece.cores_percent == 0 and device.cap_cores and room.used_cores >= device.cap_cores:
        return Reason.CORES_EXHAUSTED
    return None


def _mismatch(room: Room, request: SliceRequest) -> Reason | None:
    if not _is_of_type(room, request):
        return Reason.TYPE_MISMATCH
    if request.indices and room.device.index not in request.indices:
        return Reason.INDEX_MISMATCH
    uuids = {room.device.uuid, room.device.parent_uuid}
    if uuids & set(request.uuids_denied) or (request.uuids and not uuids & set(request.uuids)):
        return Reason.UUID_MISMATCH
    return Reason.ANTI_AFFINITY if room.card in request.anti_affinity else None


def _is_of_type(room: Room, request: SliceRequest) -> bool:
    name, kind = room.device.name.lower(), room.device.kind.lower()

    def is_called(word: str) -> bool:
        return word.lower() in name or word.lower() == kind

    if any(map(is_called, request.types_denied)):
        return False
    return not request.types or any(map(is_called, request.types))
