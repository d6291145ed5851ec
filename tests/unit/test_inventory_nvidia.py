"""What NVML, CUDA_VISIBLE_DEVICES, HAMi and MPS make together, and the small parts that decide it."""

from pathlib import Path

import pytest

from xinfer.worker.hami.slices import read_hami
from xinfer.worker.inventory.base import InventoryReading, default_reserve_mib
from xinfer.worker.inventory.cards import Card, Fault, Memory, NvmlReading, checked_memory
from xinfer.worker.inventory.links import links_between, pair_score
from xinfer.worker.inventory.mps import MpsReading
from xinfer.worker.inventory.nvidia import nvidia_devices
from xinfer.worker.inventory.visible import visible_cards
from xinfer.worker.inventory.xids import described, is_fatal

MIB = 1 << 20
NO_MPS = MpsReading(False, "none", Path("/nowhere"))


def card(index: int, uuid: str, *, parent: str = "", name: str = "NVIDIA L4", **more) -> Card:
    memory = Memory(total=20000, used=500, free=19300, reserved=200)
    return Card(index=index, uuid=uuid, parent_uuid=parent or uuid, name=name, memory=memory, **more)


A, B = card(0, "GPU-aa1"), card(1, "GPU-ab2")
M, N = card(2, "MIG-m", parent="GPU-c"), card(2, "MIG-n", parent="GPU-c")
CARDS = (A, B, M, N)


def combined(
    *cards: Card, env: dict[str, str] | None = None, mps: MpsReading = NO_MPS, pids_are_ours: bool = True
) -> InventoryReading:
    env = env or {}
    return nvidia_devices(NvmlReading(cards=cards), read_hami(env), mps, env, pids_are_ours=pids_are_ours)


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("0", (A,)),
        ("1,0", (B, A)),
        ("GPU-ab", (B,)),
        ("GPU-a", ()),  # two begin so
        ("MIG-n,0", (N, A)),
        ("2", (M, N)),
        ("GPU-c", (M, N)),
        ("", ()),
        ("-1", ()),
        ("1,-1,0", (B,)),
        ("0,9,1", (A,)),
        ("0,card,1", (A,)),
        ("0,GPU-aa1", ()),
        (" 1 , 0 ", (B, A)),
    ],
)
def test_cuda_visible_devices_as_cuda_reads_it(value: str, seen: tuple[Card, ...]) -> None:
    assert visible_cards(CARDS, {"CUDA_VISIBLE_DEVICES": value})[0] == seen


def test_all_cards_are_visible_where_nothing_is_set() -> None:
    assert visible_cards(CARDS, {}) == (CARDS, ())


def test_indices_among_different_models_are_doubtful() -> None:
    cards = (card(0, "GPU-a"), card(1, "GPU-b", name="NVIDIA H100"))
    assert "PCI_BUS_ID" in visible_cards(cards, {"CUDA_VISIBLE_DEVICES": "0"})[1][0]
    assert visible_cards(cards, {"CUDA_VISIBLE_DEVICES": "GPU-a"})[1] == ()
    assert visible_cards(cards, {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})[1] == ()


@pytest.mark.parametrize(
    ("memory", "checked"),
    [
        ((2000 * MIB, 500 * MIB, 1500 * MIB), Memory(2000, 500, 1500)),
        ((2000 * MIB, 500 * MIB, 1400 * MIB, 100 * MIB), Memory(2000, 500, 1400, 100)),
        ((2000 * MIB, 2100 * MIB, 2**64 - 100 * MIB), Memory(2000, 2000, 0)),  # over a limit by HAMi
        ((2000 * MIB, 2**64 - 1, 5), Memory(2000, 2000, 0)),
        ((2000 * MIB, MIB + 1, 1998 * MIB), Memory(2000, 2, 1998)),
        ((2000 * MIB, 0, 9000 * MIB, 2**60), Memory(2000, 0, 2000)),
        ((0, 0, 0), None),
        ((2**63, 0, 0), None),
    ],
)
def test_memory_readings_must_make_sense(memory: tuple[int, ...], checked: Memory | None) -> None:
    assert checked_memory(*memory) == checked


def test_pair_scores() -> None:
    assert [pair_score(level, 0) for level in (0, 10, 20, 30, 40, 50, None, 99)] == [60, 50, 40, 30, 20, 10, 0, 0]
    assert pair_score(10, 12) == 1250
    assert links_between({"bus-b": 4, "bus-c": 2}, "bus-a", {"bus-a": 4}, "bus-b") == 4
    assert links_between({"switch": 18}, "bus-a", {"switch": 12}, "bus-b") == 12
    assert links_between({}, "bus-a", {"switch": 12}, "bus-b") == 0


def test_xids() -> None:
    assert not is_fatal(31)
    assert is_fatal(79)
    assert is_fatal(12345)
    assert (described(79), described(12345)) == ("Xid 79: the card fell off the bus", "Xid 12345")


def test_what_is_kept_for_the_system() -> None:
    assert [default_reserve_mib(total) for total in (2000, 16000, 81559, 0)] == [200, 512, 1631, 0]


def test_a_card_that_is_broken_is_shown_with_the_reason() -> None:
    reading = combined(card(0, "GPU-a", fault=Fault("it is broken")), card(1, "GPU-b", fault=Fault("gone", lost=True)))
    a, b = reading.devices
    assert (a.device.healthy, a.device.health_reason, a.certain, a.lost) == (False, "it is broken", True, False)
    assert b.lost


def test_pids_are_shown_only_where_they_mean_something() -> None:
    busy = card(0, "GPU-a", processes={7: 300, 8: 100})
    (reading,) = combined(busy).devices
    assert (reading.used_by_pid, reading.processes, reading.processes_mib) == ({7: 300, 8: 100}, 2, 400)
    (reading,) = combined(busy, pids_are_ours=False).devices
    assert (reading.used_by_pid, reading.processes, reading.processes_mib) == ({}, 2, 400)
    (reading,) = combined(busy, env={"CUDA_DEVICE_MEMORY_LIMIT": "2g"}).devices
    assert reading.used_by_pid == {}


def test_no_card_is_left() -> None:
    reading = combined(A, env={"CUDA_VISIBLE_DEVICES": "-1"})
    assert reading.devices == ()
    assert reading.reason == "none of the cards that NVML shows is left to this process (CUDA_VISIBLE_DEVICES=-1)"


def test_what_hami_gave_and_cuda_hides_is_no_riddle() -> None:
    env = {"XINFER_HAMI_DEVICES": "GPU-aa1,NVIDIA,9000,0:GPU-ab2,NVIDIA,8000,0:;", "CUDA_VISIBLE_DEVICES": "1"}
    reading = combined(A, B, env=env)
    assert [(each.device.device_id, each.device.memory_mib) for each in reading.devices] == [("GPU-ab2", 8000)]
    assert not any("NVML does not show it" in warning for warning in reading.warnings)


def test_an_annotation_that_makes_no_sense_is_not_passed_over() -> None:
    reading = combined(A, env={"XINFER_HAMI_DEVICES": "GPU-aa1,NVIDIA,lots,0:;"})
    assert reading.devices[0].device.memory_mib == 20000
    assert "is not what HAMi writes" in reading.warnings[0]


def test_a_mig_instance_given_by_hami_keeps_what_mig_enforces() -> None:
    env = {"XINFER_HAMI_DEVICES": "GPU-c,NVIDIA,20000,0:;"}
    (reading,) = combined(M, env=env).devices
    assert (reading.device.source, reading.device.enforced_by, reading.device.reserve_mib) == ("mig", "mig", 200)
    assert (reading.used_mib, reading.free_mib) == (500, 19300)


def test_limits_of_mps_hold_for_the_sum_of_our_processes() -> None:
    mps = MpsReading(True, "it answers", Path("/pipe"), {"1": 8000}, 30, ("a warning",))
    reading = combined(A, B, mps=mps)
    a, b = (each.device for each in reading.devices)
    assert (a.memory_mib, a.cap_cores, a.view_mib, a.source, a.reserve_mib) == (20000, 30, 0, "mps", 512)
    assert (b.memory_mib, b.cap_cores, b.view_mib, b.source, b.reserve_mib) == (8000, 30, 20000, "mps", 0)
    assert b.enforced_by == ""  # each process alone is held to it, not their sum
    assert reading.warnings == ("a warning",)
    (unlimited,) = combined(A, mps=MpsReading(True, "it answers", Path("/pipe"))).devices
    assert unlimited.device.source == "nvml"


def test_neighbours_are_those_that_are_ours() -> None:
    near = card(0, "GPU-a", pair_scores={"GPU-b": 450, "GPU-c": 10})
    (reading,) = combined(near, card(1, "GPU-b"), env={"CUDA_VISIBLE_DEVICES": "0"}).devices
    assert reading.device.pair_scores == {}
