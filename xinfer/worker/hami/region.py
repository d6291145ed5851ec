"""HAMi-core's shared region: limits and usage of one slice, in a file that all its processes map (x86-64 layout)."""

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

MAGIC = 19920718
MAJOR = 1
SIZE = 2_008_952
"""Bytes of the structure; the file may be longer."""
MAX_DEVICES = 16
MAX_PROCESSES = 1024
SEQLOCK_TRIES = 64

UUID_BYTES = 96
DEVICE_COUNT, UUIDS, MEMORY_LIMITS, CORE_LIMITS = 56, 64, 1600, 1728
SLOTS, SLOT_BYTES = 1856, 1960
PROCESS_COUNT, SWITCH, RECENT_KERNEL, PRIORITY, LAST_KERNEL = 2_008_896, 2_008_900, 2_008_904, 2_008_908, 2_008_912
SLOT_USED, SLOT_USED_BYTES, SLOT_USED_TOTAL = 8, 64, 32
SLOT_UTILIZATION, SLOT_UTILIZATION_BYTES, SLOT_UTILIZATION_SM = 1160, 48, 16
SLOT_STATUS, SLOT_SEQLOCK = 1928, 1936

Buffer = mmap.mmap | bytearray | bytes


class NoRegion(Exception):
    """The file is no shared region that we can read; the message says why."""


@dataclass(frozen=True)
class RegionDevice:
    """A device of the slice. Limits are 0 where there is none; memory in bytes, cores in percent."""

    uuid: str
    memory_limit: int
    core_limit: int


@dataclass(frozen=True)
class RegionProcess:
    """A process of the slice. Lists are by device."""

    pid: int
    """In its own PID namespace."""
    host_pid: int
    """0 where HAMi-core could not find it."""
    used: tuple[int, ...]
    """Bytes."""
    utilization: tuple[int, ...]
    """Percent of the SMs."""
    suspended: bool
    torn: bool = False
    """It wrote all the time (or died writing), so the numbers may not belong together."""


@dataclass(frozen=True)
class Region:
    """What the file says at one moment."""

    devices: tuple[RegionDevice, ...]
    processes: tuple[RegionProcess, ...]
    throttled: bool
    """Core limits are applied; a monitor may switch them off while nobody else needs the card."""
    recent_kernel: int
    """Negative: launches are held back in favour of a task of higher priority."""
    priority: int
    last_kernel_s: int
    """When the last kernel started, in seconds since the epoch."""

    def used(self, position: int) -> int:
        """Bytes that all processes of the slice use on a device."""
        return sum(process.used[position] for process in self.processes)


def read_region(path: Path) -> Region:
    """Read a region while others write it.

    Raises:
        NoRegion: there is no such file, or it is not one of this kind and version.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse_region(data)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise NoRegion(f"{path} cannot be read: {error}") from error
    except NoRegion as error:
        raise NoRegion(f"{path}: {error}") from error


def parse_region(data: Buffer) -> Region:
    """The region in ``data``.

    Raises:
        NoRegion: too short, not initialised, or another version.
    """
    if len(data) < SIZE:
        raise NoRegion(f"{len(data)} bytes are too few for a shared region ({SIZE})")
    magic, major = struct.unpack_from("<iI", data, 0)
    if magic != MAGIC:
        raise NoRegion("it is not initialised, or no shared region")
    if major != MAJOR:
        raise NoRegion(f"version {major} of the shared region is not known here, only {MAJOR}")
    devices = min(_u64(data, DEVICE_COUNT), MAX_DEVICES)
    processes = min(max(_i32(data, PROCESS_COUNT), 0), MAX_PROCESSES)
    found = (_process(data, SLOTS + slot * SLOT_BYTES, devices) for slot in range(processes))
    return Region(
        devices=tuple(
            RegionDevice(
                uuid=_text(data, UUIDS + device * UUID_BYTES),
                memory_limit=_u64(data, MEMORY_LIMITS + device * 8),
                core_limit=_u64(data, CORE_LIMITS + device * 8),
            )
            for device in range(devices)
        ),
        processes=tuple(process for process in found if process is not None),
        throttled=_i32(data, SWITCH) != 0,
        recent_kernel=_i32(data, RECENT_KERNEL),
        priority=_i32(data, PRIORITY),
        last_kernel_s=_u64(data, LAST_KERNEL),
    )


def _process(data: Buffer, slot: int, devices: int) -> RegionProcess | None:
    """The process in a slot, None for a free one."""

    def read() -> RegionProcess | None:
        status = _i32(data, slot + SLOT_STATUS)
        if status == 0:
            return None
        used = slot + SLOT_USED + SLOT_USED_TOTAL
        busy = slot + SLOT_UTILIZATION + SLOT_UTILIZATION_SM
        return RegionProcess(
            pid=_i32(data, slot),
            host_pid=_i32(data, slot + 4),
            used=tuple(_u64(data, used + device * SLOT_USED_BYTES) for device in range(devices)),
            utilization=tuple(_u64(data, busy + device * SLOT_UTILIZATION_BYTES) for device in range(devices)),
            suspended=status == 2,
        )

    return read_consistently(lambda: _u64(data, slot + SLOT_SEQLOCK), read)


def read_consistently(sequence: Callable[[], int], read: Callable[[], RegionProcess | None]) -> RegionProcess | None:
    """``read`` under a seqlock: the number is odd while somebody writes, and another one afterwards.

    A writer that never finishes (it was killed) must not hold us up: after some tries the last reading counts, as torn.
    """
    process = None
    for _ in range(SEQLOCK_TRIES):
        before = sequence()
        process = read()
        if before % 2 == 0 and sequence() == before:
            return process
    if process is None:
        return None
    return replace(process, torn=True)


def _i32(data: Buffer, offset: int) -> int:
    return int(struct.unpack_from("<i", data, offset)[0])


def _u64(data: Buffer, offset: int) -> int:
    return int(struct.unpack_from("<Q", data, offset)[0])


def _text(data: Buffer, offset: int) -> str:
    return bytes(data[offset : offset + UUID_BYTES]).partition(b"\0")[0].decode("ascii", "replace")
