"""Replicas on the CPU that have a share of whole cores are kept to as many."""

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.devices import Device, DeviceSlice, Lease
from xinfer.worker.affinity import cores_for, keep_to_cores, share_of_cpu

CORES = range(8)


def test_a_share_of_a_part_of_a_core_or_of_all_is_kept_to_none():
    assert cores_for(0, CORES, ()) == cores_for(0.9, CORES, ()) == cores_for(8, CORES, ()) == frozenset()


def test_the_idle_cores_come_first():
    assert cores_for(2, CORES, ()) == {0, 1}
    assert cores_for(2, CORES, [frozenset({0, 1}), frozenset({2})]) == {3, 4}


@given(shares=st.lists(st.floats(1, 7.4), max_size=12))
def test_nobody_gets_a_busy_core_while_others_are_less_busy(shares):
    taken: list[frozenset[int]] = []
    for share in shares:
        cores = cores_for(share, CORES, taken)
        assert len(cores) == round(share)
        taken.append(cores)
        busy = Counter(core for one in taken for core in one)
        assert max(busy.values()) - min(busy[core] for core in CORES) <= 1


def test_a_share_is_of_the_cpu_alone():
    devices = {
        "cpu": Device(device_id="cpu", kind="cpu", memory_mib=1, cores=16),
        "gpu": Device(device_id="gpu", kind="cuda", memory_mib=1, cores=100),
    }
    pieces = (
        DeviceSlice(device_id="cpu", memory_mib=1, cores_percent=25),
        DeviceSlice(device_id="gpu", memory_mib=1, cores_percent=50),
    )
    assert share_of_cpu(Lease(replica_id="r", generation=1, slices=pieces), devices) == 4


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system knows no affinity")
def test_processes_and_what_they_start_stay_on_their_cores():
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core is all that there is")
    show = "import os; print(os.sched_getaffinity(0))"
    code = f"import subprocess, sys; input(); subprocess.run([sys.executable, '-c', {show!r}])"
    start = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    first, second = (subprocess.Popen(start, stdin=pipe, stdout=pipe, text=True) for _ in range(2))
    cores = [keep_to_cores(first.pid, 1, ()), keep_to_cores(second.pid, 1, (first.pid,))]
    assert [len(found) for found in cores] == [1, 1]
    assert cores[0] != cores[1]
    shown = [process.communicate("\n", timeout=60)[0].strip() for process in (first, second)]
    assert shown == [str(set(found)) for found in cores]
    assert keep_to_cores(first.pid, 1, (second.pid,))  # it is gone, and nobody minds
