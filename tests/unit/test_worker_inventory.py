from pathlib import Path

import psutil
import pytest

from xinfer.worker.inventory.base import read_inventory
from xinfer.worker.inventory.cpu import core_quota, in_cpu_cgroup, memory_limit_bytes, own_cgroups

GIB = 1024**3


@pytest.fixture
def write(tmp_path: Path):
    def write(path: str, text: str) -> Path:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    return write


def test_this_machine_has_a_cpu() -> None:
    seen = [seen.device for reading in read_inventory().values() for seen in reading.devices]
    (cpu,) = [device for device in seen if device.kind == "cpu"]
    assert 1 <= cpu.cores <= (psutil.cpu_count() or 1)
    assert 0 < cpu.memory_mib <= psutil.virtual_memory().total // 1024**2


def test_limits_of_cgroup_v2_hold_through_all_levels(tmp_path: Path, write) -> None:
    membership = write("proc", "0::/pod/container\n")
    write("fs/pod/memory.max", f"{4 * GIB}\n")
    write("fs/pod/container/memory.max", "max\n")
    write("fs/pod/cpu.max", "max 100000\n")
    write("fs/pod/container/cpu.max", "150000 100000\n")
    cgroups = own_cgroups(tmp_path / "fs", membership)
    assert memory_limit_bytes(cgroups) == 4 * GIB
    assert core_quota(cgroups) == 1.5


def test_limits_of_cgroup_v1(tmp_path: Path, write) -> None:
    membership = write("proc", "4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/\n")
    write("fs/memory/box/memory.limit_in_bytes", f"{2 * GIB}\n")
    write("fs/cpu,cpuacct/box/cpu.cfs_quota_us", "50000\n")
    write("fs/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n")
    cgroups = own_cgroups(tmp_path / "fs", membership)
    assert memory_limit_bytes(cgroups) == 2 * GIB
    assert core_quota(cgroups) == 0.5


def test_in_a_container_the_root_is_our_own(tmp_path: Path, write) -> None:
    membership = write("proc", "0::/kubepods/elsewhere\n")
    write("fs/memory.max", f"{GIB}\n")
    assert memory_limit_bytes(own_cgroups(tmp_path / "fs", membership)) == GIB


@pytest.mark.parametrize(
    ("member", "files", "expected"),
    [
        ("0::/\n", [], False),  # the cgroup of the whole machine
        ("0::/\n", ["cpu.weight"], True),  # a container's root
        ("0::/user.slice/session\n", ["user.slice/session/memory.max"], False),  # without the controller
        ("0::/user.slice/session\n", ["user.slice/cpu.weight", "user.slice/session/memory.max"], True),
        ("3:cpu,cpuacct:/box\n0::/\n", [], True),
        ("3:cpu,cpuacct:/\n4:memory:/box\n0::/\n", [], False),
    ],
)
def test_a_cpu_cgroup_is_told_from_that_of_the_machine(tmp_path: Path, write, member, files, expected) -> None:
    for file in files:
        write(f"fs/{file}", "100\n")
    membership = write("proc", member)
    assert in_cpu_cgroup(own_cgroups(tmp_path / "fs", membership), membership) is expected
    nowhere = tmp_path / "none"
    assert not in_cpu_cgroup(own_cgroups(tmp_path / "fs", nowhere), nowhere)


def test_no_limits(tmp_path: Path, write) -> None:
    membership = write("proc", "3:cpu:/\n")
    write("fs/cpu/cpu.cfs_quota_us", "-1\n")
    write("fs/cpu/cpu.cfs_period_us", "100000\n")
    cgroups = own_cgroups(tmp_path / "fs", membership)
    assert memory_limit_bytes(cgroups) is None
    assert core_quota(cgroups) is None
    assert own_cgroups(tmp_path / "fs", tmp_path / "missing") == []
