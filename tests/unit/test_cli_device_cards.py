"""Devices drawn as their slices."""

import io

import pytest
from rich.console import Console

from xinfer.cli.device_cards import FREE, Bar, Part, cards, parts
from xinfer.client import DeviceStatus, Enforcement, SliceStatus

CARD = DeviceStatus(
    worker_id="1",
    worker="node-7",
    alive=True,
    device_id="GPU-a",
    kind="cuda",
    name="NVIDIA L4",
    capacity_mib=1000,
    reserved_mib=500,
    free_mib=500,
    used_mib=550,
    others_mib=100,
    device_free_mib=450,
    reserved_cores_percent=30,
    enforced=Enforcement(memory="soft", cores="none", by=("torch",)),
    slices=(
        SliceStatus(model_uid="a", replica_id="a-0", state="READY", memory_mib=300, cores_percent=30, used_mib=100),
        SliceStatus(model_uid="b", replica_id="b-0", state="READY", memory_mib=200, used_mib=350, over_limit_mib=150),
    ),
)


def drawn(*devices, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(cards(devices))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_a_bar_is_as_long_as_its_parts_are_large():
    bar = Bar([Part(100, "u", "cyan"), Part(200, "r", "cyan"), Part(100, "x", "red")], 1000)
    assert bar.cells(100) == [10, 20, 10]


def test_small_parts_have_a_cell_of_their_own():
    parts = [Part(1, "u", "cyan"), Part(998, "r", "cyan"), Part(1, "x", "red")]
    assert Bar(parts, 1000).cells(10) == [1, 8, 1]
    assert sum(Bar([Part(1, "u", "cyan")] * 5, 1000).cells(3)) == 3


def test_a_bar_never_is_longer_than_its_room():
    assert Bar([Part(900, "u", "cyan"), Part(900, "x", "red")], 1000).cells(10) == [5, 5]
    assert Bar([], 0).cells(10) == []


def test_the_parts_of_a_device_are_its_slices_and_what_others_use():
    assert [(part.mib, part.sign) for part in parts(CARD) if part.mib > 0] == [
        (100, "█"),
        (200, "▒"),
        (350, "█"),
        (100, "▚"),
    ]


@pytest.mark.parametrize("width", [80, 140])
def test_everything_of_a_device_fits_into_a_terminal(width):
    lines = drawn(CARD, width=width)
    assert all(len(line) <= width for line in lines)
    assert lines[0] == "node-7"
    assert lines[1].split() == ["cuda:0", "NVIDIA", "L4", "healthy"]
    assert lines[2] == "  memory soft, cores none (torch)"
    assert len(lines[3]) == width
    assert lines[3].endswith(FREE)
    assert [line.split() for line in lines[4:8]] == [
        ["█", "a-0", "READY", "100", "of", "300", "MiB", "30", "%", "cores"],
        ["█", "b-0", "READY", "350", "of", "200", "MiB", "150", "MiB", "over"],
        ["▚", "others", "100", "MiB"],
        ["·", "free", "500", "of", "1000", "MiB", "70", "%", "cores", "450", "reported"],
    ]


def test_a_device_that_takes_nothing_new_says_why():
    def state(**fields):
        return drawn(DeviceStatus(worker_id="1", device_id="x", kind="cuda", **fields))[1:3]

    assert state(alive=True, cordoned=True)[0].endswith("healthy, cordoned")
    assert state(alive=True, cordoned=True, draining=True)[0].endswith("healthy, draining")
    lost = state(alive=True, healthy=False, health_reason="GPU is lost")
    assert (lost[0].split()[-1], lost[1]) == ("unhealthy", "  GPU is lost")
    assert state(alive=False)[0].endswith("worker lost")


def test_the_devices_of_one_worker_stand_under_its_name():
    other = DeviceStatus(worker_id="2", worker="node-8", device_id="y", kind="cpu", name="EPYC")
    lines = drawn(CARD, CARD, other)
    assert [line for line in lines if line in ("node-7", "node-8")] == ["node-7", "node-8"]
