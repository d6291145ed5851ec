"""The watchdog at work: what a look at the devices does to processes that are over their slice."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from xinfer.devices import Device, DeviceSlice, DeviceUse, Hold, Lease
from xinfer.settings import Settings
from xinfer.worker.cgroups import Cgroups
from xinfer.worker.devices import Look
from xinfer.worker.events import Looked
from xinfer.worker.oversight import Oversight, Running
from xinfer.worker.restraint import FIRST_TO_GO, LOWEST_PRIORITY, Restraint
from xinfer.worker.watchdog import READINGS

CPU = Device(device_id="cpu", kind="cpu", memory_mib=16000, cores=4, reserve_mib=512)
LEASE = Lease(replica_id="m-0", generation=1, slices=(DeviceSlice(device_id="cpu", memory_mib=400),))


@pytest.fixture
def replica() -> Iterator[psutil.Process]:
    """A process in a group of its own that waits to be killed."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    with child:
        yield psutil.Process(child.pid)
        child.kill()


def oversight(tmp_path: Path, **settings: object) -> Oversight:
    values = {"over_limit_grace_s": 0.0, "cgroups": "off", **settings}
    return Oversight(Settings(home=tmp_path, token_file=tmp_path / "token", **values), None)


def look(used_mib: int, hold: Hold = Hold()) -> Look:  # noqa: B008  frozen
    return Look((CPU,), (DeviceUse(device_id="cpu", free_mib=9000, by_replica={"m-0": used_mib}, hold=hold),))


def oom_score(process: psutil.Process) -> int:
    return int(Path(f"/proc/{process.pid}/oom_score_adj").read_text())


def test_whoever_is_over_is_the_first_that_the_kernel_takes(tmp_path: Path, replica: psutil.Process) -> None:
    watching = oversight(tmp_path)
    running = {"m-0": Running("i1", replica.pid)}
    before = oom_score(replica)
    watching.take(look(400), [LEASE], running, 0.0)
    assert oom_score(replica) == before
    watching.take(look(4000), [LEASE], running, 1.0)
    assert oom_score(replica) == FIRST_TO_GO
    assert replica.nice() == psutil.Process().nice()
    watching.take(look(400), [LEASE], running, 2.0)
    assert oom_score(replica) == before


def test_what_lasts_is_shown_and_told_to_the_core(
    tmp_path: Path, replica: psutil.Process, caplog: pytest.LogCaptureFixture
) -> None:
    watching = oversight(tmp_path)
    running = {"m-0": Running("i1", replica.pid)}
    for now in range(READINGS):
        shown, told = watching.take(look(512, Hold(memory="hard")), [LEASE], running, float(now))
    assert shown.uses[0].over_limit_mib == {"m-0": 112}
    words = "it uses 512 MiB of its 400 MiB on device cpu"
    assert told == Looked(held_hard=frozenset({"cpu"}), warnings={"m-0": words})
    watching.take(look(512), [LEASE], running, 10.0)
    assert caplog.text.count("it uses 512 MiB") == 1
    shown, told = watching.take(look(300), [LEASE], running, 11.0)
    assert (shown.uses[0].over_limit_mib, told) == ({}, Looked())


def test_throttled_ones_run_at_the_lowest_priority(tmp_path: Path, replica: psutil.Process) -> None:
    watching = oversight(tmp_path, over_limit="throttle")
    running = {"m-0": Running("i1", replica.pid)}
    for now in range(READINGS):
        assert replica.nice() == psutil.Process().nice()
        _, told = watching.take(look(4000), [LEASE], running, float(now))
    assert replica.nice() == LOWEST_PRIORITY
    assert "it runs at the lowest priority" in told.warnings["m-0"]
    assert told.offences == {}


def test_offenders_are_named_to_the_core(tmp_path: Path) -> None:
    watching = oversight(tmp_path, over_limit="end")
    for now in range(READINGS):
        _, told = watching.take(look(4000), [LEASE], {}, float(now))
    assert told.offences["m-0"].startswith("it used 4000 MiB of its 400 MiB")


def test_with_a_cgroup_its_weight_is_changed_and_its_priority_is_not(tmp_path: Path, replica: psutil.Process) -> None:
    groups = Cgroups(tmp_path)
    groups.create("i1", {})
    restraint = Restraint(groups)
    restraint.apply({}, {"i1": replica.pid})
    assert (tmp_path / "replica-i1" / "cpu.weight").read_text() == "1"
    restraint.apply({}, {})
    assert (tmp_path / "replica-i1" / "cpu.weight").read_text() == "100"
    assert replica.nice() == psutil.Process().nice()


def test_processes_that_are_gone_are_no_trouble(tmp_path: Path, replica: psutil.Process) -> None:
    restraint = Restraint(None)
    restraint.apply({"i1": replica.pid}, {"i1": replica.pid})
    replica.kill()
    replica.wait()
    restraint.apply({"i1": replica.pid}, {"i1": replica.pid})
    restraint.apply({}, {})
