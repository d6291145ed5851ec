"""From what a worker told to what ``xinfer devices`` shows."""

import io
from typing import Any

import msgspec
from rich.console import Console

from xinfer.api.cards import device_cards
from xinfer.cli.devices import devices_table, held, label
from xinfer.client import DeviceStatus
from xinfer.devices import Device, DeviceSlice, DeviceUse, Hold
from xinfer.protocol import ReplicaStatus, WorkerHello, WorkerInfo
from xinfer.spec import ReplicaState

CARD = Device(
    device_id="GPU-a",
    kind="cuda",
    index=1,
    name="NVIDIA L4",
    uuid="GPU-a",
    memory_mib=23034,
    reserve_mib=512,
    cores=100,
    source="nvml",
)
CPU = Device(device_id="cpu", kind="cpu", name="EPYC", memory_mib=1000, reserve_mib=100, cores=8, source="cpu")


def replica(replica_id: str, state: ReplicaState, *slices: DeviceSlice) -> ReplicaStatus:
    return ReplicaStatus(
        replica_id=replica_id,
        model_uid=replica_id.partition("-")[0],
        generation=1,
        revision=1,
        state=state,
        slices=slices,
    )


def on_card(memory_mib: int, cores_percent: int = 0, **fields: Any) -> DeviceSlice:
    return DeviceSlice(device_id="GPU-a", memory_mib=memory_mib, cores_percent=cores_percent, **fields)


def worker(*replicas: ReplicaStatus, uses: tuple[DeviceUse, ...] = (), card: Device = CARD) -> WorkerInfo:
    hello = WorkerHello(
        worker_id="1",
        incarnation="i",
        name="node",
        address="127.0.0.1:1",
        host_id="h",
        version="0",
        devices=(CPU, card),
        engines={},
    )
    return WorkerInfo(hello=hello, alive=True, last_seen_s_ago=0.0, replicas=replicas, uses=uses)


def shown(info: WorkerInfo) -> list[DeviceStatus]:
    return msgspec.convert(device_cards(info), list[DeviceStatus])


def printed(devices: list[DeviceStatus]) -> list[list[str]]:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(devices_table(devices))
    lines = console.export_text().splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


USE = DeviceUse(
    device_id="GPU-a",
    used_mib=9000,
    free_mib=14034,
    by_replica={"a-0": 7000},
    hold=Hold(memory="soft", per="process", by=("torch",)),
)


def test_a_device_is_the_sum_of_its_slices() -> None:
    info = worker(
        replica("a-0", ReplicaState.READY, on_card(6000, 20)),
        replica("b-0", ReplicaState.STARTING, on_card(2000, 10), DeviceSlice(device_id="cpu", memory_mib=50)),
        replica("c-0", ReplicaState.FAILED, on_card(4000)),  # it has given its memory back
        uses=(USE,),
    )
    cpu, card = shown(info)
    assert (card.capacity_mib, card.reserved_mib, card.free_mib) == (22522, 8000, 14522)
    assert (card.used_mib, card.reserved_cores_percent) == (9000, 30)
    assert [(one.replica_id, one.memory_mib, one.used_mib) for one in card.slices] == [
        ("a-0", 6000, 7000),
        ("b-0", 2000, None),
    ]
    assert (cpu.capacity_mib, cpu.reserved_mib, cpu.used_mib, cpu.enforced) == (900, 50, None, None)


def test_the_card_of_a_device_says_everything_about_its_hardware() -> None:
    card = device_cards(worker(uses=(USE,)))[1]
    assert (card["worker"], card["uuid"], card["source"], card["healthy"]) == ("node", "GPU-a", "nvml", True)
    assert (card["memory_mib"], card["reserve_mib"], card["device_free_mib"]) == (23034, 512, 14034)
    assert card["enforced"] == {"memory": "soft", "cores": "none", "view": "device", "per": "process", "by": ("torch",)}


def test_the_table_has_a_row_for_each_device_and_each_slice() -> None:
    info = worker(
        replica("a-0", ReplicaState.READY, on_card(6000, 100, exclusive=True)),
        replica("b-0", ReplicaState.STARTING, DeviceSlice(device_id="cpu", memory_mib=50)),
        uses=(USE,),
    )
    assert printed(shown(info)) == [
        ["node", "CPU EPYC", "healthy", "50", "900", "850", "?", "0/100", ""],
        ["", "b-0", "STARTING", "50", "-", "", "?", "-", ""],
        [
            "",
            "cuda:1 NVIDIA L4",
            "healthy",
            "6000",
            "22522",
            "16522",
            "9000",
            "100/100",
            "memory soft, cores none (torch)",
        ],
        ["", "a-0", "READY", "6000", "6000", "", "7000", "exclusive", ""],
    ]


def test_a_lost_card_and_a_lost_worker_show() -> None:
    lost = msgspec.structs.replace(CARD, healthy=False, health_reason="GPU is lost", enforced_by="hami")
    info = worker(card=lost)
    assert printed(shown(info))[1][2:7] == ["unhealthy", "0", "22522", "0", "?"]
    assert held(shown(info)[1]) == "all together by hami"
    gone = msgspec.structs.replace(info, alive=False)
    assert [row[2] for row in printed(shown(gone))] == ["worker lost", "worker lost"]


def test_a_device_without_a_name_is_called_by_its_id() -> None:
    assert label(DeviceStatus(worker_id="1", device_id="GPU-x", kind="cuda", index=3)) == "cuda:3 GPU-x"
