from pathlib import Path

import psutil

from xinfer.worker.inventory.base import read_inventory
from xinfer.worker.inventory.cpu import memory_room_bytes

GIB = 1024**3


def test_the_cpu_says_what_is_free() -> None:
    (cpu,) = read_inventory()["cpu"].devices
    assert cpu.device.source == "cpu"
    assert 0 < cpu.device.reserve_mib < cpu.device.memory_mib
    assert 0 < cpu.free_mib <= psutil.virtual_memory().total // 1024**2
    assert cpu.used_mib >= 0


def cgroup(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text + "\n")
    return path


def test_room_in_a_cgroup_counts_file_cache_that_can_go(tmp_path: Path) -> None:
    v2 = cgroup(
        tmp_path / "v2",
        memory__max=str(4 * GIB),
        memory__current=str(3 * GIB),
        memory__stat=f"anon 7\ninactive_file {GIB}\n",
    )
    v1 = cgroup(tmp_path / "v1", memory__limit_in_bytes=str(8 * GIB), memory__usage_in_bytes=str(7 * GIB))
    unlimited = cgroup(tmp_path / "free", memory__max="max", memory__current="5")
    assert memory_room_bytes([v2]) == 2 * GIB
    assert memory_room_bytes([v2, v1, unlimited]) == GIB
    assert memory_room_bytes([unlimited]) is None
    over = cgroup(tmp_path / "over", memory__max="10", memory__current="20")
    assert memory_room_bytes([over]) == 0
