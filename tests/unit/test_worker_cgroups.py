"""Cgroups v2, on a tree of plain files: this shows what is planned and written, not what a kernel makes of it."""

import os
from pathlib import Path

import pytest

from xinfer.devices import Device, DeviceSlice, Hold, Lease
from xinfer.worker import cgroups
from xinfer.worker.cgroups import Cgroup, Cgroups, Plan, limits, open_cgroups, plan, read_own
from xinfer.worker.enforce.base import held
from xinfer.worker.enforce.means import Means

ABOVE, OWN = Path("/cg/service"), Path("/cg/service/worker")
DEVICES = {
    "cpu": Device(device_id="cpu", kind="cpu", memory_mib=16000, cores=8),
    "gpu": Device(device_id="gpu", kind="cuda", memory_mib=16000, cores=100),
}


def lease(*slices: DeviceSlice) -> Lease:
    return Lease(replica_id="m-0", generation=1, slices=slices)


def test_alone_in_its_cgroup_the_worker_makes_room_in_it() -> None:
    own = Cgroup(OWN, pids=frozenset({10, 11}))
    assert plan(own, Cgroup(ABOVE), [10, 11, 12]) == Plan(OWN, (10, 11), ("memory", "cpu"))


def test_what_is_enabled_already_is_left_alone() -> None:
    own = Cgroup(OWN, pids=frozenset({10}), enabled=frozenset({"memory", "pids"}))
    assert plan(own, None, [10]) == Plan(OWN, (10,), ("cpu",))


def test_a_cgroup_above_that_was_delegated_is_taken_as_it_is() -> None:
    own = Cgroup(OWN, pids=frozenset({10, 99}))
    assert plan(own, Cgroup(ABOVE, delegated=True), [10]) == Plan(ABOVE, (), ("memory", "cpu"))
    crowded = Cgroup(ABOVE, delegated=True, pids=frozenset({1}))
    assert isinstance(plan(own, crowded, [10]), str)


@pytest.mark.parametrize(
    ("own", "why"),
    [
        (None, "cgroup v2 is not mounted"),
        (Cgroup(OWN, available=frozenset({"cpu"})), "does not have the controller 'memory'"),
        (Cgroup(OWN, is_root=True), "is the cgroup of the whole machine"),
        (Cgroup(OWN, writable=False), "is not ours to write; run the worker as a service with Delegate=yes"),
        (Cgroup(OWN, pids=frozenset({10, 99})), "has processes in it that are not ours (such as 99)"),
    ],
)
def test_where_there_can_be_none_the_reason_is_told(own: Cgroup | None, why: str) -> None:
    planned = plan(own, None, [10])
    assert isinstance(planned, str)
    assert why in planned


def test_limits_are_the_slices_of_the_cpu() -> None:
    pieces = (
        DeviceSlice(device_id="cpu", memory_mib=300, cores_percent=25),
        DeviceSlice(device_id="cpu", memory_mib=100),
        DeviceSlice(device_id="gpu", memory_mib=9000, cores_percent=50),
    )
    found = limits(lease(*pieces), DEVICES)
    assert found["memory.max"] == str(400 << 20)
    assert found["memory.swap.max"] == "0"
    assert found["cpu.max"] == "200000 100000"  # a quarter of eight cores


def test_no_cores_booked_is_no_limit_of_them_and_no_slice_of_the_cpu_no_limit_at_all() -> None:
    assert limits(lease(DeviceSlice(device_id="cpu", memory_mib=1)), DEVICES)["cpu.max"] == "max 100000"
    assert limits(lease(DeviceSlice(device_id="gpu", memory_mib=1)), DEVICES) == {}


def test_what_holds_the_cpu_depends_on_the_machine() -> None:
    cpu = DEVICES["cpu"]
    assert held(cpu, Means()) == Hold(cores="soft", by=("threads",))
    assert held(cpu, Means(ends_offenders=True)) == Hold(memory="soft", cores="soft", by=("threads", "watchdog"))
    both = held(cpu, Means(cgroups=True, ends_offenders=True))
    assert (both.memory, both.cores, both.view, both.per) == ("hard", "hard", "device", "replica")
    assert both.by == ("cgroup", "threads", "watchdog")
    assert "cgroup" not in held(DEVICES["gpu"], Means(cgroups=True)).by


class Tree:
    """A cgroup file system of plain files, and the file that says where this process is."""

    def __init__(self, root: Path) -> None:
        self.root = root / "cgroup"
        self.membership = root / "membership"
        self.membership.write_text("1:name=systemd:/elsewhere\n0::/service/worker\n")
        self.top, self.above = self.make(), self.make("service")
        self.own = self.make("service", "worker", pids=(os.getpid(),))
        (self.top / "cgroup.events").unlink()

    def make(self, *names: str, pids: tuple[int, ...] = ()) -> Path:
        path = self.root.joinpath(*names)
        path.mkdir()
        (path / "cgroup.controllers").write_text("cpu memory pids\n")
        for name in ("cgroup.subtree_control", "cgroup.events"):
            (path / name).touch()
        (path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        return path


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_what_is_read_of_our_own(tree: Tree) -> None:
    own, above = read_own(tree.root, tree.membership)
    assert own == Cgroup(tree.own, available=frozenset({"cpu", "memory", "pids"}), pids=frozenset({os.getpid()}))
    assert above
    assert (above.path, above.is_root, above.delegated) == (tree.above, False, False)
    top, nothing = read_own(tree.root, tree.root / "no such file")
    assert top
    assert (top.path, top.is_root, nothing) == (tree.top, True, None)


def test_a_container_whose_cgroup_the_kernel_names_as_the_host_does(tree: Tree) -> None:
    tree.membership.write_text("0::/kubepods/pod1\n")
    own, above = read_own(tree.root, tree.membership)
    assert own
    assert (own.path, above) == (tree.root, None)


def test_version_one_has_none(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    assert read_own(tmp_path, tmp_path / "membership") == (None, None)


def test_the_life_of_a_replicas_cgroup(tree: Tree) -> None:
    found = open_cgroups(tree.root, tree.membership)
    assert found
    assert (tree.own / cgroups.OWN_LEAF / "cgroup.procs").read_text() == str(os.getpid())
    assert (tree.own / "cgroup.subtree_control").read_text() == "+memory +cpu"

    found.create("i1", {"memory.max": "1024", "memory.swap.max": "0", "cpu.max": "max 100000"})
    found.enter("i1", 4711)
    path = tree.own / "replica-i1"
    assert (found.has("i1"), found.has("i2")) == (True, False)
    assert {file.name: file.read_text() for file in path.iterdir()} == {
        "memory.max": "1024",  # no memory.swap.max: this kernel has none
        "cpu.max": "max 100000",
        "cgroup.procs": "4711",
    }
    assert found.slow_down("i1", slow=True)
    assert (path / "cpu.weight").read_text() == "1"
    assert not found.slow_down("i2", slow=True)

    assert not found.was_killed("i1")
    (path / "memory.events").write_text("max 7\noom 1\noom_kill 0\n")
    assert not found.was_killed("i1")
    (path / "memory.events").write_text("max 7\noom 1\noom_kill 2\n")
    assert found.was_killed("i1")

    (path / "cgroup.kill").touch()
    found.remove("i1")
    assert (path / "cgroup.kill").read_text() == "1"
    for file in path.iterdir():  # the kernel's own go with the directory
        file.unlink()
    found.remove("i1")
    assert not path.exists()


def test_what_could_not_be_removed_at_once_is_swept_up(tree: Tree) -> None:
    (tree.own / "replica-old").mkdir()
    (tree.own / "another").mkdir()
    Cgroups(tree.own).create("new", {})
    assert sorted(path.name for path in tree.own.iterdir() if path.is_dir()) == ["another", "replica-new"]


def test_a_cgroup_that_cannot_be_made_leaves_nothing(tree: Tree) -> None:
    found = Cgroups(tree.own)
    with pytest.raises(OSError, match="no such limit"):
        found.create("i1", {"no such limit/at all": "1"})
    assert not found.has("i1")


def test_the_reason_for_none_is_logged(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (tree.own / "cgroup.procs").write_text("1\n")
    assert open_cgroups(tree.root, tree.membership) is None
    assert "replicas have no cgroups of their own" in caplog.text
    assert "(such as 1)" in caplog.text
    (tree.own / "cgroup.procs").write_text("")
    (tree.own / "cgroup.subtree_control").unlink()
    (tree.own / "cgroup.subtree_control").mkdir()  # fails as a kernel that refuses
    assert open_cgroups(tree.root, tree.membership) is None
    assert "Is a directory" in caplog.text
