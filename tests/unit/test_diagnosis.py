"""From the facts of many made-up machines to findings: what holds, what does not and why, and every known trap."""

import re
from pathlib import Path
from typing import Any

import pytest

from xinfer import plugins
from xinfer.devices import Device
from xinfer.protocol import EngineOffer
from xinfer.worker.diagnosis.diagnose import diagnose
from xinfer.worker.diagnosis.enforcement import MECHANISMS
from xinfer.worker.diagnosis.facts import CpuFacts, MachineFacts, SystemFacts, TorchBuild
from xinfer.worker.diagnosis.findings import GROUPS, Finding, summed_up
from xinfer.worker.enforce.means import Means
from xinfer.worker.hami.preload import Preload
from xinfer.worker.hami.slices import read_hami
from xinfer.worker.inventory.base import DeviceReading, InventoryReading
from xinfer.worker.inventory.cards import Card, Fault, Memory, NvmlReading
from xinfer.worker.inventory.mps import MpsReading
from xinfer.worker.inventory.nvidia import nvidia_devices

ROOT = Path(__file__).parents[2]
NO_MPS = MpsReading(False, "no MPS control daemon: there is no /tmp/nvidia-mps/control", Path("/tmp/nvidia-mps"))
MPS = MpsReading(True, "the MPS control daemon answers", Path("/tmp/nvidia-mps"))
LOADED = Preload(True, "libvgpu.so is loaded")
NEW_TORCH = (2, 13)
CPU = Device(device_id="cpu", kind="cpu", name="EPYC", memory_mib=64000, cores=16, reserve_mib=1280, source="cpu")


def card(index: int = 0, uuid: str = "GPU-a", *, parent: str = "", **more: Any) -> Card:
    more.setdefault("memory", Memory(total=23034, used=500, free=22534))
    return Card(
        index=index, uuid=uuid, parent_uuid=parent or uuid, name="NVIDIA L4", compute_capability="8.9", numa=0, **more
    )


def machine(
    *cards: Card,
    env: dict[str, str] | None = None,
    preload: Preload | None = None,
    mps: MpsReading = NO_MPS,
    means: dict[str, Any] | None = None,
    **facts: Any,
) -> MachineFacts:
    """A machine whose cards come through the real inventory."""
    env = env or {}
    hami = read_hami(env, preload=preload or Preload(False, "libvgpu.so is not loaded"))
    nvml = NvmlReading(cards=cards, driver="550.54.15", cuda_version="12.4", reason="" if cards else "no NVIDIA driver")
    nvidia = InventoryReading(reason=nvml.reason)
    if cards:
        nvidia = nvidia_devices(nvml, hami, mps, env, pids_are_ours=True)
    cpu = InventoryReading(devices=(DeviceReading(device=CPU, used_mib=1000, free_mib=63000),))
    means = {"cards": len(cards), "mps": mps.running, "torch": NEW_TORCH, **(means or {})}
    facts.setdefault("nvml_there", bool(cards))
    return MachineFacts(inventories={"cpu": cpu, "nvidia": nvidia}, hami=hami, mps=mps, means=Means(**means), **facts)


def found(facts: MachineFacts, code: str, subject: str = "") -> list[Finding]:
    return [one for one in diagnose(facts) if one.code == code and subject in ("", one.subject)]


def the(facts: MachineFacts, code: str, subject: str = "") -> Finding:
    (finding,) = found(facts, code, subject)
    return finding


def codes(facts: MachineFacts, *levels: str) -> set[str]:
    return {one.code for one in diagnose(facts) if one.level in (levels or ("warning", "problem"))}


# What there is.


def test_a_machine_without_cards_is_fine() -> None:
    facts = machine(cgroup_obstacle="cgroup v2 is not mounted here")
    assert codes(facts) == set()
    assert the(facts, "cpu").what == "CPU EPYC: 16 cores, 64000 MiB (62720 for replicas, 63000 free now)"
    assert "host" in the(facts, "cpu").why[0]
    assert the(facts, "accelerators").level == "note"
    hold = the(facts, "hold", "cpu")
    assert hold.what == "cpu: memory not held, cores held softly (by threads)"
    assert "not cgroup: cgroup v2 is not mounted here" in hold.why
    assert "XINFER_OVER_LIMIT=end" in hold.advice


def test_where_the_size_of_the_cpu_comes_from() -> None:
    cpu = CpuFacts(host_cores=64, allowed_cores=32, quota_cores=2.5, host_memory_mib=256000, memory_limit_mib=64000)
    assert the(machine(cpu=cpu), "cpu").why == (
        "cores: this process may run on 32 of 64 (affinity)",
        "cores: the cgroup has a quota of 2.5",
        "memory: the cgroup is limited to 64000 of 256000 MiB",
    )


def test_everything_about_a_card() -> None:
    facts = machine(
        card(0, "GPU-a", pair_scores={"GPU-b": 400}, processes={7: 300}), card(1, "GPU-b", pair_scores={"GPU-a": 400})
    )
    finding = the(facts, "card", "GPU-a")
    assert (finding.level, finding.what) == (
        "ok",
        "NVIDIA L4 0: 23034 MiB (22522 for replicas, 22534 free now)",
    )
    assert finding.why == (
        "GPU-a",
        "compute capability 8.9, driver 550.54.15, runs CUDA up to 12.4, NUMA node 0",
        "links: 4 x NVLink to 1",
        "1 process on it now",
    )


def test_a_sick_card_is_a_problem_and_nothing_is_said_to_hold_there() -> None:
    facts = machine(card(fault=Fault("Xid 79: the card fell off the bus")))
    finding = the(facts, "card")
    assert finding.level == "problem"
    assert "not usable: Xid 79: the card fell off the bus" in finding.why
    assert finding.advice
    assert found(facts, "hold", "GPU-a") == []


@pytest.mark.parametrize(
    ("facts", "level", "what"),
    [
        (MachineFacts(inventories={"nvidia": InventoryReading(reason="no NVIDIA driver")}), "note", "no accelerator"),
        (
            MachineFacts(inventories={"nvidia": InventoryReading(reason="no NVIDIA driver")}, nvidia_on_bus=2),
            "warning",
            "2 NVIDIA cards, but no driver",
        ),
        (
            MachineFacts(inventories={"nvidia": InventoryReading(reason="another version")}, nvml_there=True),
            "problem",
            "the NVIDIA driver is there and does not work",
        ),
        (
            MachineFacts(
                inventories={"nvidia": InventoryReading(reason="CUDA_VISIBLE_DEVICES=", cards_shown=1)}, nvml_there=True
            ),
            "warning",
            "1 card, but none is left to this process",
        ),
    ],
)
def test_why_there_is_no_card(facts: MachineFacts, level: str, what: str) -> None:
    finding = the(facts, "accelerators")
    assert finding.level == level
    assert finding.what.startswith(what)
    assert finding.why == (facts.inventories["nvidia"].reason,)


# Slices by HAMi.

POD = {
    "XINFER_HAMI_DEVICES": "GPU-a,NVIDIA,8000,30:;",
    "CUDA_DEVICE_MEMORY_LIMIT_0": "8000m",
    "CUDA_DEVICE_SM_LIMIT": "30",
}


def slice_of(uuid: str = "GPU-a", index: int = 0) -> Card:
    return card(index, uuid, memory=Memory(total=8000, used=0, free=8000))


def test_a_pod_of_hami_says_who_gave_what_and_what_holds_there() -> None:
    facts = machine(slice_of(), env=POD, preload=LOADED)
    assert the(facts, "hami").why == (
        "XINFER_HAMI_DEVICES: GPU-a 8000 MiB, 30 % of its cores",
        "CUDA_DEVICE_MEMORY_LIMIT_0: 8000 MiB",
        "CUDA_DEVICE_SM_LIMIT: 30 % of its cores",
        "libvgpu.so is loaded",
    )
    assert "a slice by HAMi: 8000 MiB" in the(facts, "card").what
    hold = the(facts, "hold", "GPU-a")
    assert hold.what == "GPU-a: memory held softly, cores not held (by torch)"
    assert hold.why[0] == "HAMi holds all replicas here together to it"
    assert any(line.startswith("not hami-core: HAMi has loaded it already") for line in hold.why)
    assert codes(facts) == set()
    assert the(facts, "hami-cores-graphs").level == "note"


def test_sources_that_disagree_are_a_warning() -> None:
    facts = machine(slice_of(), env={**POD, "CUDA_DEVICE_MEMORY_LIMIT_0": "6000m"}, preload=LOADED)
    readings = [finding.what for finding in found(facts, "reading")]
    assert any("CUDA_DEVICE_MEMORY_LIMIT_0 says 6000 MiB" in what and "6000 MiB are taken" in what for what in readings)


def test_a_slice_that_nothing_enforces() -> None:
    off = Preload(False, "CUDA_DISABLE_CONTROL turns HAMi-core off in this pod")
    facts = machine(card(), card(1, "GPU-b"), env={"CUDA_DEVICE_MEMORY_LIMIT": "8000m"}, preload=off)
    hold = the(facts, "hold", "GPU-a")
    assert (hold.level, hold.what) == ("warning", "GPU-a: memory held softly, cores not held (by torch)")
    assert f"not hami-core: {off.reason}" in hold.why
    assert "CUDA_DISABLE_CONTROL" in hold.advice
    assert codes(facts) == {"hold", "reading"}, "HAMi-core is not there to get in the way of NCCL"


def test_one_model_over_several_slices_is_a_trap_of_nccl() -> None:
    env = {"CUDA_DEVICE_MEMORY_LIMIT": "8000m"}
    facts = machine(slice_of(), slice_of("GPU-b", 1), env=env, preload=LOADED)
    assert "NCCL_P2P_DISABLE=1" in the(facts, "hami-tensor-parallel").advice
    assert found(machine(slice_of(), env=env, preload=LOADED), "hami-tensor-parallel") == []


# What holds.


def test_mps_holds_and_the_others_say_why_not() -> None:
    hold = the(machine(card(), mps=MPS), "hold", "GPU-a")
    assert (hold.level, hold.what) == ("ok", "GPU-a: memory held, cores held (by mps, torch)")
    assert hold.advice == ""
    assert hold.why == (
        "the limit is for each process: a replica of two could use twice its slice",
        "not hami-core: there is no libvgpu.so to load (XINFER_HAMI_CORE)",
    )


@pytest.mark.parametrize(
    ("torch", "level", "reason"),
    [
        (NEW_TORCH, "note", ""),
        ((2, 9), "warning", "not torch: torch 2.9 is older than 2.10, which has the option"),
        ((0, 0), "warning", "not torch: torch is not installed here"),
    ],
)
def test_a_bare_card(torch: tuple[int, int], level: str, reason: str) -> None:
    hold = the(machine(card(), means={"torch": torch}), "hold", "GPU-a")
    assert hold.level == level
    assert f"not mps: {NO_MPS.reason}" in hold.why
    assert not reason or reason in hold.why
    assert "nvidia-cuda-mps-control" in hold.advice


def test_hami_core_on_bare_metal() -> None:
    hold = the(machine(card(), means={"hami_core": "/opt/libvgpu.so"}), "hold", "GPU-a")
    assert (hold.level, hold.what) == ("ok", "GPU-a: memory held, cores held softly (by hami-core)")
    assert "not torch: HAMi-core shows torch the slice as the whole card" in hold.why
    two = machine(card(), card(1, "GPU-b"), means={"hami_core": "/opt/libvgpu.so"})
    assert any("NVML shows a process all 2 cards" in line for line in the(two, "hold", "GPU-b").why)


def test_mig_instances_hold_by_themselves_also_where_mps_runs() -> None:
    facts = machine(card(0, "MIG-m", parent="GPU-a"), mps=MPS)
    hold = the(facts, "hold", "MIG-m")
    assert hold.level == "ok"
    assert "the MIG instance holds all replicas here together to it" in hold.why
    assert "not mps: it does not serve MIG instances" in hold.why
    assert the(facts, "mig-mps").level == "note"
    assert "a MIG instance of GPU-a" in the(facts, "card").what


def test_no_enforcer_is_forgotten() -> None:
    names = {enforcer.name for enforcer in plugins.exposed("xinfer.worker.enforce", "ENFORCER")}
    assert {name for of_kind in MECHANISMS.values() for name in of_kind} == names - {"visibility"}, "that holds nothing"


def test_cgroups_hold_the_cpu() -> None:
    hold = the(machine(means={"cgroups": True}), "hold", "cpu")
    assert (hold.level, hold.what) == ("ok", "cpu: memory held, cores held (by cgroup, threads)")


# Traps.


@pytest.mark.parametrize(
    ("cuda", "code", "level"),
    [
        ("", "torch-for-cpu", "warning"),
        ("12.4", "", ""),
        ("12.1", "", ""),
        ("11.8", "", ""),
        ("12.8", "driver-too-old", "warning"),
        ("13.0", "driver-too-old", "problem"),
        ("soon", "", ""),
    ],
)
def test_a_torch_and_the_driver(cuda: str, code: str, level: str) -> None:
    facts = machine(card(), torches=(TorchBuild(where="this Python", version="2.13.0", cuda=cuda),))
    told = {one.code: one.level for one in diagnose(facts) if one.subject == "this Python"}
    assert told == ({code: level} if code else {})


def test_a_torch_is_nobodys_trap_without_cards_or_for_other_accelerators() -> None:
    build = TorchBuild(where="this Python", version="2.13.0+rocm6", is_for_other_accelerators=True)
    assert found(machine(card(), torches=(build,)), "torch-for-cpu") == []
    assert found(machine(torches=(TorchBuild(where="this Python", version="2.13.0+cpu"),)), "torch-for-cpu") == []


@pytest.mark.parametrize(
    ("facts", "code", "level"),
    [
        ({"cpu": CpuFacts(host_memory_mib=64000, memory_limit_mib=1024)}, "little-memory", "warning"),
        ({"cpu": CpuFacts(host_memory_mib=64000, swap_mib=8000, swap_used_mib=3000)}, "swapping", "warning"),
        ({"cpu": CpuFacts(overcommit=2)}, "overcommit", "warning"),
        ({"system": SystemFacts(open_files=1024, open_files_most=4096)}, "open-files", "warning"),
        ({"system": SystemFacts(home_writable=False)}, "home", "problem"),
        ({"system": SystemFacts(home_free_mib=5000)}, "disk", "warning"),
        ({"system": SystemFacts(home_free_mib=50)}, "disk", "problem"),
        ({"system": SystemFacts(proxies=("http_proxy",))}, "proxy", "warning"),
        ({"system": SystemFacts(preload=(("/gone/lib.so", False),))}, "preload", "warning"),
        ({"system": SystemFacts(preload=(("/opt/libvgpu.so", True),))}, "preload", "problem"),
        ({"broken_engines": {"toy": "toy:Engine cannot be loaded: ImportError"}}, "engine", "problem"),
    ],
)
def test_each_trap_is_found_and_says_what_to_do(facts: dict[str, Any], code: str, level: str) -> None:
    made = machine(**facts)
    assert codes(made) == {code}
    assert next(one.level for one in diagnose(made) if one.code == code and one.level != "ok") == level
    assert all(one.advice for one in diagnose(made) if one.level in ("warning", "problem"))


def test_the_hard_limit_of_open_files_needs_another_advice() -> None:
    assert "ulimit" in the(machine(system=SystemFacts(open_files=1024, open_files_most=None)), "open-files").advice
    assert "LimitNOFILE" in the(machine(system=SystemFacts(open_files=1024, open_files_most=1024)), "open-files").advice


def test_sessions_matter_where_engines_compute_on_the_cores() -> None:
    cpu = CpuFacts(sessions_first=True)
    assert the(machine(cpu=cpu), "autogroup").level == "note"
    assert found(machine(card(), cpu=cpu), "autogroup") == []


def test_shared_memory_matters_to_several_cards() -> None:
    small = SystemFacts(shm_mib=64)
    assert codes(machine(card(), system=small)) == set()
    assert codes(machine(card(), card(1, "GPU-b"), system=small)) == {"shm"}


# Engines, and the whole.


def test_engines_here_in_an_environment_and_nowhere() -> None:
    offers = {
        "vllm": EngineOffer(ok=False, reason="not installed; xinfer engine install vllm builds one", installable=True),
        "transformers": EngineOffer(ok=True, version="5.19.0"),
        "sglang": EngineOffer(ok=True, version="0.5.1", environment="sglang-0123456789ab"),
        "toy": EngineOffer(ok=False, reason="toy:Engine cannot be loaded: ImportError"),
    }
    facts = machine(
        offers=offers,
        broken_engines={"toy": "toy:Engine cannot be loaded: ImportError"},
        unusable_environments={"vllm-0": "it is unfinished, or its Python is gone"},
    )
    assert [(one.subject, one.level, one.what) for one in found(facts, "engine")] == [
        ("sglang", "ok", "sglang 0.5.1, in the environment sglang-0123456789ab"),
        ("transformers", "ok", "transformers 5.19.0, in this Python"),
        ("vllm", "note", "vllm: not installed; xinfer engine install vllm builds one"),
        ("toy", "problem", "toy: it is installed and cannot be loaded"),
    ]
    assert the(facts, "environment").advice.endswith("xinfer engine remove vllm-0")


def test_every_code_is_documented_with_its_group() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text()
    documented = {
        (row[1].strip(" `"), code)
        for row in (line.split("|") for line in page.splitlines() if line.startswith("| `") and line.count("|") == 3)
        for code in re.findall(r"`([\w-]+)`", row[2])
        if row[1].strip(" `") in GROUPS
    }
    sources = [*(ROOT / "xinfer/worker/diagnosis").glob("*.py"), ROOT / "xinfer/cli/doctor.py"]
    used = set()
    for text in (source.read_text() for source in sources):
        (named,) = set(re.findall(r'^GROUP = "(\w+)"', text, re.MULTILINE)) or {""}
        for group, code in re.findall(r'group=(\w+|"\w+"),\s+code="([\w-]+)"', text):
            used.add((named if group == "GROUP" else group.strip('"'), code))
    assert used == documented


def test_the_whole_is_in_order_and_counted() -> None:
    facts = machine(card(), broken_engines={"toy": "no"}, system=SystemFacts(home_free_mib=5000))
    whole = summed_up("1.2", reversed(list(diagnose(facts))))
    groups = [list(GROUPS).index(finding.group) for finding in whole.findings]
    assert groups == sorted(groups)
    assert not whole.healthy
    assert sum(whole.counts.values()) == len(whole.findings)
    assert whole.counts["problem"] == 1
    assert summed_up("1.2", diagnose(machine(card()))).healthy
