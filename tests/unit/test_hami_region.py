import struct
from pathlib import Path

import pytest

from xinfer.worker.hami.region import (
    MAX_DEVICES,
    MAX_PROCESSES,
    SEQLOCK_TRIES,
    SIZE,
    NoRegion,
    RegionDevice,
    RegionProcess,
    parse_region,
    read_consistently,
    read_region,
)

MIB = 1 << 20


class SyntheticRegion:
    """A region as HAMi-core would write it; offsets stand here a second time, written down from its header."""

    def __init__(self) -> None:
        self.data = bytearray(SIZE + 1)
        self.put("<iII", 0, 19920718, 1, 2)

    def put(self, layout: str, offset: int, *values: object) -> None:
        struct.pack_into(layout, self.data, offset, *values)

    def device(self, index: int, uuid: str, limit: int, cores: int) -> None:
        self.put("<Q", 56, index + 1)
        self.put("96s", 64 + 96 * index, uuid.encode())
        self.put("<Q", 1600 + 8 * index, limit)
        self.put("<Q", 1728 + 8 * index, cores)

    def process(self, slot: int, pid: int, *, used: dict[int, int], status: int = 1, sequence: int = 2) -> None:
        start = 1856 + 1960 * slot
        self.put("<ii", start, pid, pid + 1000)
        for device, total in used.items():
            self.put("<5Q", start + 8 + 64 * device, 1, 2, 3, 4, total)
            self.put("<3Q", start + 1160 + 48 * device, 5, 6, 70 + device)
        self.put("<i", start + 1928, status)
        self.put("<Q", start + 1936, sequence)
        (count,) = struct.unpack_from("<i", self.data, 2_008_896)
        self.put("<i", 2_008_896, max(count, slot + 1))


@pytest.fixture
def region() -> SyntheticRegion:
    region = SyntheticRegion()
    region.device(0, "GPU-a", 2000 * MIB, 20)
    region.device(1, "GPU-b", 0, 0)
    region.put("<iii", 2_008_900, 1, -1, 1)
    region.put("<Q", 2_008_912, 1_700_000_000)
    region.process(0, 11, used={0: 500 * MIB, 1: 7})
    region.process(1, 12, used={0: 9}, status=0)
    region.process(2, 13, used={0: 100 * MIB}, status=2)
    return region


def test_everything_in_a_region(region: SyntheticRegion, tmp_path: Path) -> None:
    path = tmp_path / "slice.cache"
    path.write_bytes(region.data)
    read = read_region(path)
    assert read.devices == (RegionDevice("GPU-a", 2000 * MIB, 20), RegionDevice("GPU-b", 0, 0))
    assert read.processes == (
        RegionProcess(11, 1011, (500 * MIB, 7), (70, 71), suspended=False),
        RegionProcess(13, 1013, (100 * MIB, 0), (70, 0), suspended=True),
    )
    assert (read.used(0), read.used(1)) == (600 * MIB, 7)
    assert (read.throttled, read.recent_kernel, read.priority, read.last_kernel_s) == (True, -1, 1, 1_700_000_000)


def test_numbers_out_of_bounds_are_clamped(region: SyntheticRegion) -> None:
    region.put("<Q", 56, 1 << 40)
    region.put("<i", 2_008_896, 1 << 30)
    read = parse_region(region.data)
    assert len(read.devices) == MAX_DEVICES
    assert len(read.processes) == 2
    assert len(read.processes) <= MAX_PROCESSES
    region.put("<i", 2_008_896, -5)
    assert parse_region(region.data).processes == ()


def test_a_writer_that_died_does_not_hold_us_up(region: SyntheticRegion) -> None:
    region.process(0, 11, used={0: 500 * MIB}, sequence=3)
    torn, whole = parse_region(region.data).processes
    assert (torn.pid, torn.torn, whole.torn) == (11, True, False)


def test_a_reading_between_two_writes_is_taken_again() -> None:
    sequences = iter([1, 2, 4, 4, 4])  # odd: being written; 2 then 4: written meanwhile
    readings = iter([RegionProcess(pid, 0, (), (), suspended=False) for pid in (1, 2, 3)])
    assert read_consistently(lambda: next(sequences), lambda: next(readings)) == RegionProcess(
        3, 0, (), (), suspended=False
    )
    tries = []
    assert read_consistently(lambda: 1, lambda: tries.append(1)) is None
    assert len(tries) == SEQLOCK_TRIES


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.__setitem__(slice(0, 4), b"\0\0\0\0"), "not initialised"),
        (lambda data: data.__setitem__(slice(4, 8), b"\2\0\0\0"), "version 2"),
        (lambda data: data.__delitem__(slice(SIZE - 1, None)), "too few"),
    ],
)
def test_what_is_no_region_is_refused(region: SyntheticRegion, tmp_path: Path, change, reason: str) -> None:
    change(region.data)
    path = tmp_path / "slice.cache"
    path.write_bytes(region.data)
    with pytest.raises(NoRegion, match=reason) as refused:
        read_region(path)
    assert str(path) in str(refused.value)


def test_no_file_and_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("missing", "empty"):
        with pytest.raises(NoRegion, match="cannot be read"):
            read_region(tmp_path / name)
