"""The real pynvml, in real processes, on a fake driver."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.nvml import library as fake
from fakes.nvml.library import FakeCard, FakeDriver

from xinfer.worker.hami.annotation import AllocatedDevice, encode

ROOT = Path(__file__).parents[2]
LOOK = Path(fake.__file__).with_name("look.py")
UNKNOWN = 999
TURNED_OFF = "CUDA_DISABLE_CONTROL turns HAMi-core off in this pod"


class Looking:
    """A process that watches its devices; ``look`` is one refresh, without the CPU."""

    def __init__(self, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", LOOK],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def look(self, ours_mib: dict[str, int] | None = None) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(ours_mib or {}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read()
        shown = json.loads(line)
        for key in ("devices", "readings"):
            shown[key] = [each for each in shown[key] if each.get("device", each)["kind"] != "cpu"]
        shown["events"] = [each for each in shown["events"] if subject(each) != "cpu"]
        return shown

    def close(self) -> None:
        self._process.communicate(timeout=30)


def subject(event: dict[str, Any]) -> str:
    return event.get("device_id") or event["device"]["device_id"]


def names(shown: dict[str, Any]) -> list[tuple[str, str]]:
    return [(event["event"], subject(event)) for event in shown["events"]]


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.compile_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(tmp_path: Path) -> FakeDriver:
    return FakeDriver(tmp_path / "cards")


@pytest.fixture
def watching(driver: FakeDriver, nvml: Path) -> Iterator[Callable[..., Looking]]:
    started: list[Looking] = []

    def start(*, library: Path = nvml, **env: str) -> Looking:
        started.append(Looking({**driver.environment(library), **env}))
        return started[-1]

    yield start
    for looking in started:
        looking.close()


def test_cards_with_everything_that_is_known_of_them(driver: FakeDriver, watching) -> None:
    driver.show(
        FakeCard(
            "GPU-a", used=512, more=("reserved 300", "capability 8 9", "numa 1", "nvlink GPU-b 4", "process 77 500")
        ),
        FakeCard("GPU-b", more=("nvlink GPU-a 4",)),
        FakeCard("GPU-c"),
        more=("topology GPU-a GPU-b 10", "topology GPU-a GPU-c 30"),
    )
    shown = watching().look()
    a, b, c = shown["devices"]
    assert (a["device_id"], a["uuid"], a["parent_uuid"], a["kind"], a["source"]) == (
        "GPU-a",
        "GPU-a",
        "GPU-a",
        "cuda",
        "nvml",
    )
    assert (a["memory_mib"], a["reserve_mib"], a["cores"]) == (23034, 512, 100)
    assert (a["name"], a["vendor"], a["compute_capability"], a["numa"]) == ("NVIDIA L4", "nvidia", "8.9", 1)
    assert (a["driver"], a["cuda_version"]) == ("550.54.15", "12.4")
    assert a["pair_scores"] == {"GPU-b": 450, "GPU-c": 30}
    assert b["pair_scores"] == {"GPU-a": 450, "GPU-c": 10}
    assert (b["numa"], c["index"]) == (-1, 2)
    reading = shown["readings"][0]
    assert (reading["used_mib"], reading["free_mib"]) == (512, 23034 - 512 - 300)
    assert (reading["processes"], reading["processes_mib"]) == (1, 500)
    assert names(shown)[:3] == [("DeviceAdded", "GPU-a"), ("ForeignMemoryChanged", "GPU-a"), ("DeviceAdded", "GPU-b")]


def test_cards_on_one_switch_have_as_many_links_as_the_poorer_one(driver: FakeDriver, watching) -> None:
    driver.show(FakeCard("GPU-a", more=("nvlink switch 18",)), FakeCard("GPU-b", more=("nvlink switch 12",)))
    assert watching().look()["devices"][0]["pair_scores"] == {"GPU-b": 1210}


def test_a_card_is_lost_and_returns(driver: FakeDriver, watching) -> None:
    driver.show(FakeCard("GPU-a"), FakeCard("GPU-b"))
    process = watching()
    process.look()
    driver.show(FakeCard("GPU-a"), FakeCard("GPU-b", more=("lost",)))
    shown = process.look()
    assert names(shown) == [("DeviceLost", "GPU-b")]
    assert "lost" in shown["events"][0]["reason"].lower()
    assert [(each["device_id"], each["healthy"]) for each in shown["devices"]] == [("GPU-a", True), ("GPU-b", False)]
    assert [each["device"]["device_id"] for each in shown["readings"]] == ["GPU-a"]
    driver.show(FakeCard("GPU-a"))  # the next initialisation does not see it at all
    assert names(process.look()) == []
    driver.show(FakeCard("GPU-a"), FakeCard("GPU-b"))
    assert names(process.look()) == []  # it may be gone again
    shown = process.look()
    assert names(shown) == [("DeviceReturned", "GPU-b")]
    assert all(each["healthy"] for each in shown["devices"])


def test_a_card_that_is_lost_from_the_beginning(driver: FakeDriver, watching) -> None:
    driver.show(FakeCard("GPU-a"), FakeCard("GPU-b", more=("lost",)))
    process = watching()
    shown = process.look()
    assert [each["device_id"] for each in shown["devices"]] == ["GPU-a"]
    assert "card 1 is left out" in shown["warnings"][0]
    driver.show(FakeCard("GPU-a"), FakeCard("GPU-b"))
    assert names(process.look()) == [("DeviceAdded", "GPU-b")]


def test_the_driver_goes_and_comes(driver: FakeDriver, watching) -> None:
    driver.show(FakeCard("GPU-a"))
    process = watching()
    process.look()
    driver.show(more=("init 9",))
    seen = [process.look() for _ in range(3)]
    assert [names(shown) for shown in seen] == [[("DeviceLost", "GPU-a")], [], []]  # a handle says so at once
    assert "not loaded" in seen[-1]["reasons"]["nvidia"]
    driver.show(FakeCard("GPU-a"))
    assert names(process.look()) + names(process.look()) == [("DeviceReturned", "GPU-a")]


def test_errors_of_a_card_make_it_unhealthy_until_it_was_reset(driver: FakeDriver, watching) -> None:
    driver.show(FakeCard("GPU-a"), FakeCard("GPU-b"))
    process = watching()
    process.look()
    driver.show(FakeCard("GPU-a", more=("xid 13 1", "ecc 2")), FakeCard("GPU-b", more=("xid 48 1",)))
    shown = process.look()
    assert names(shown) == [("DeviceUnhealthy", "GPU-b")]  # Xid 13 is a program's own fault
    assert shown["events"][0]["reason"] == "Xid 48: uncorrectable memory error; it needs a reset"
    assert shown["warnings"] == ["nvidia: GPU-a had 2 uncorrectable memory errors since its driver was loaded"]
    driver.show(FakeCard("GPU-a", more=("lost",)), FakeCard("GPU-b", more=("xid 48 1",)))
    assert names(process.look()) == [("DeviceLost", "GPU-a")]
    driver.show(FakeCard("GPU-a"), FakeCard("GPU-b", more=("xid 48 1",)))
    again = [process.look() for _ in range(3)]
    assert [name for shown in again for name in names(shown)] == [("DeviceReturned", "GPU-a")]
    assert [each["healthy"] for each in again[-1]["devices"]] == [True, False]  # a new session does not forget GPU-b


def test_bad_memory_rows(driver: FakeDriver, watching) -> None:
    driver.show(FakeCard("GPU-a", more=("rows 1 0",)), FakeCard("GPU-b", more=("rows 0 1",)))
    shown = watching().look()
    assert [each["healthy"] for each in shown["devices"]] == [True, False]
    assert "needs service" in shown["devices"][1]["health_reason"]
    assert shown["warnings"] == ["nvidia: GPU-a has a bad memory row, which a reset would remap"]


def test_a_query_that_fails_once_changes_nothing(driver: FakeDriver, watching) -> None:
    driver.show(FakeCard("GPU-a"))
    process = watching()
    process.look()
    driver.show(FakeCard("GPU-a", more=(f"memory_error {UNKNOWN}",)))
    assert [names(process.look()) for _ in range(3)] == [[], [], [("DeviceUnhealthy", "GPU-a")]]
    driver.show(FakeCard("GPU-a"))
    assert [names(process.look()) for _ in range(2)] == [[], [("DeviceHealthy", "GPU-a")]]


def test_memory_of_others_is_noticed(driver: FakeDriver, watching) -> None:
    driver.show(FakeCard("GPU-a", used=100))
    process = watching()
    process.look()
    driver.show(FakeCard("GPU-a", used=9000))
    shown = process.look({"GPU-a": 5000})
    assert names(shown) == [("ForeignMemoryChanged", "GPU-a")]
    assert (shown["events"][0]["foreign_mib"], shown["events"][0]["free_mib"]) == (4000, 14034)
    driver.show(FakeCard("GPU-a", used=5000))
    assert [names(process.look({"GPU-a": 5000})) for _ in range(2)] == [[], [("ForeignMemoryChanged", "GPU-a")]]


def test_mig_instances_are_devices_and_their_card_is_none(driver: FakeDriver, watching) -> None:
    instance = ("name NVIDIA A100 MIG 3g.20gb", "total 19968", "used 20", "reserved 40")
    driver.show(
        FakeCard("GPU-a", name="NVIDIA A100", more=("mig", "instance MIG-1", *instance, "instance MIG-2", *instance)),
        FakeCard("GPU-b", more=("mig",)),
    )
    shown = watching(CUDA_VISIBLE_DEVICES="MIG-2,0").look()  # 0 names MIG-2 again
    assert shown["devices"] == []
    assert "twice" in " ".join(shown["warnings"])
    shown = watching(CUDA_VISIBLE_DEVICES="MIG-2,MIG-1").look()
    assert [each["device_id"] for each in shown["devices"]] == ["MIG-2", "MIG-1"]
    device = shown["devices"][0]
    assert (device["parent_uuid"], device["memory_mib"], device["reserve_mib"]) == ("GPU-a", 19968, 40)
    assert (device["source"], device["enforced_by"], device["pair_scores"]) == ("mig", "mig", {})
    assert "GPU-b (NVIDIA L4) is in MIG mode without instances" in " ".join(shown["warnings"])


def test_cuda_visible_devices_limits_the_view(driver: FakeDriver, watching) -> None:
    driver.show(FakeCard("GPU-a1"), FakeCard("GPU-b2"), FakeCard("GPU-c3"))
    shown = watching(CUDA_VISIBLE_DEVICES="2,GPU-a").look()
    assert [each["device_id"] for each in shown["devices"]] == ["GPU-c3", "GPU-a1"]
    assert shown["devices"][0]["pair_scores"] == {"GPU-a1": 10}
    shown = watching(CUDA_VISIBLE_DEVICES="").look()
    assert shown["devices"] == []
    assert (
        shown["reasons"]["nvidia"]
        == "none of the cards that NVML shows is left to this process (CUDA_VISIBLE_DEVICES=)"
    )


def test_no_driver_says_so(driver: FakeDriver, watching, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    process = watching(library=tmp_path / "empty")
    shown = process.look()
    assert shown["devices"] == []
    assert shown["reasons"] == {"nvidia": "no NVIDIA driver: there is no libnvidia-ml.so.1"}
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / fake.LIBRARY).write_text("not a library")
    assert "cannot be loaded" in watching(library=tmp_path / "broken").look()["reasons"]["nvidia"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (9, "not loaded"),
        (18, "of another version than its libraries"),
        (4, "may not talk"),
        (UNKNOWN, "does not start"),
    ],
)
def test_nvml_that_does_not_start_says_why(driver: FakeDriver, watching, code: int, reason: str) -> None:
    driver.show(more=(f"init {code}",))
    process = watching()
    assert reason in process.look()["reasons"]["nvidia"]
    driver.show(FakeCard("GPU-a"))
    assert names(process.look()) == [("DeviceAdded", "GPU-a")]


def test_a_driver_without_the_newer_calls_is_good_enough(driver: FakeDriver, watching, tmp_path: Path) -> None:
    """What pynvml raises for the processes is no NVMLError (its own version mismatch); the others are optional."""
    old = fake.compile_nvml(
        tmp_path / "old",
        without=(
            "nvmlDeviceGetComputeRunningProcesses_v3",
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetNumaNodeId",
            "nvmlDeviceGetMigMode",
            "nvmlDeviceGetRemappedRows",
            "nvmlDeviceGetTopologyCommonAncestor",
            "nvmlEventSetCreate",
        ),
    )
    driver.show(FakeCard("GPU-a", used=512, more=("reserved 300", "process 1 5")), FakeCard("GPU-b"))
    shown = watching(library=old).look()
    assert [each["healthy"] for each in shown["devices"]] == [True, True]
    assert shown["devices"][0]["pair_scores"] == {"GPU-b": 0}
    reading = shown["readings"][0]
    assert (reading["used_mib"], reading["free_mib"], reading["processes"]) == (812, 23034 - 812, 0)
    wrong = fake.compile_nvml(tmp_path / "wrong", without=("nvmlInitWithFlags",))
    assert "too old, or not NVIDIA's" in watching(library=wrong).look()["reasons"]["nvidia"]


def test_a_slice_by_hami_that_is_enforced(driver: FakeDriver, watching, tmp_path: Path) -> None:
    """HAMi-core is in the process, NVML shows its limit as the total, and what is used over it wraps around."""
    (tmp_path / "empty.c").write_text("int nothing_at_all;\n")
    fake.compile_shared(tmp_path / "empty.c", tmp_path / "libvgpu.so")
    driver.show(FakeCard("GPU-a", total=2000, used=2100, more=(f"free_bytes {2**64 - 100}", "process 4000000 9000")))
    shown = watching(
        LD_PRELOAD=str(tmp_path / "libvgpu.so"),
        CUDA_DEVICE_MEMORY_LIMIT_0="2000m",
        CUDA_DEVICE_SM_LIMIT="20",
        XINFER_HAMI_DEVICES=encode(((), (AllocatedDevice("GPU-a", "NVIDIA", 2000, 20),))),
        XINFER_CONTAINER_INDEX="1",
    ).look()
    (device,) = shown["devices"]
    assert (device["memory_mib"], device["reserve_mib"], device["cap_cores"]) == (2000, 0, 20)
    assert (device["source"], device["enforced_by"], device["view_mib"]) == ("hami", "hami", 0)
    assert (shown["readings"][0]["used_mib"], shown["readings"][0]["free_mib"]) == (2000, 0)
    assert shown["readings"][0]["used_by_pid"] == {}  # processes of all tenants, by ids of the host
    assert shown["warnings"] == []


def test_a_slice_by_hami_that_nothing_enforces(driver: FakeDriver, watching, tmp_path: Path) -> None:
    driver.show(FakeCard("GPU-a", used=20000), FakeCard("GPU-b"))
    annotations = tmp_path / "annotations"
    annotations.write_text(
        'hami.io/bind-phase="success"\n'
        f'hami.io/vgpu-devices-allocated="{encode(((AllocatedDevice("GPU-a", "NVIDIA", 8000, 0),),))}"\n'
    )
    shown = watching(
        XINFER_HAMI_ANNOTATIONS=str(annotations),
        CUDA_DEVICE_MEMORY_LIMIT_0="9000m",
        CUDA_DEVICE_SM_LIMIT="0",
        CUDA_DISABLE_CONTROL="true",
    ).look()
    (device,) = shown["devices"]
    assert (device["memory_mib"], device["view_mib"], device["cap_cores"]) == (8000, 23034, 100)
    assert (device["source"], device["enforced_by"]) == ("hami", "")
    assert (shown["readings"][0]["used_mib"], shown["readings"][0]["free_mib"]) == (None, None)
    assert shown["warnings"] == [
        f"nvidia: GPU-a: {annotations} says 8000 MiB, CUDA_DEVICE_MEMORY_LIMIT_0 says 9000 MiB; 8000 MiB are taken",
        f"nvidia: GPU-a: nothing holds processes to the 8000 MiB that HAMi gave: {TURNED_OFF}",
        "nvidia: GPU-b can be seen here, but HAMi did not give it to this container: it is not used",
    ]
