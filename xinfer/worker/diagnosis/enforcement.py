"""Which mechanisms hold replicas to their slices of each device, how firmly, and why the others do not."""

from collections.abc import Callable, Iterator, Mapping

from xinfer.devices import Device, Hold
from xinfer.worker.diagnosis.facts import MachineFacts
from xinfer.worker.diagnosis.findings import Finding, Level
from xinfer.worker.enforce import torch_allocator
from xinfer.worker.enforce.base import held
from xinfer.worker.enforce.hami_core import obstacle

GROUP = "enforcement"


def enforcement_findings(facts: MachineFacts) -> Iterator[Finding]:
    """One finding for each device that can be used."""
    for reading in facts.readings:
        if reading.device.healthy:
            yield _device(reading.device, facts)


def _device(device: Device, facts: MachineFacts) -> Finding:
    hold = held(device, facts.means)
    lines = []
    if device.enforced_by:
        lines.append(f"{_NAMES.get(device.enforced_by, device.enforced_by)} holds all replicas here together to it")
    if hold.per == "process" and hold.memory != "none":
        lines.append("the limit is for each process: a replica of two could use twice its slice")
    lines += [f"not {name}: {reason}" for name, reason in reasons_against(device, hold, facts).items()]
    return Finding(
        group=GROUP,
        code="hold",
        level=_level(device, hold),
        subject=device.device_id,
        what=f"{device.device_id}: memory {_WORDS[hold.memory]}, cores {_WORDS[hold.cores]}{_by(hold)}",
        why=tuple(lines),
        advice=_advice(device, hold),
    )


def reasons_against(device: Device, hold: Hold, facts: MachineFacts) -> dict[str, str]:
    """Why each other mechanism for such a device does not hold it, by the name of the mechanism."""
    asked = MECHANISMS.get(device.kind, {})
    return {name: reason(device, facts) for name, reason in asked.items() if name not in hold.by}


def _level(device: Device, hold: Hold) -> Level:
    if hold.memory == "hard" or device.enforced_by == "mig":
        return "ok"
    given_by_hami = device.source == "hami"
    if device.kind != "cpu" and not device.enforced_by and (hold.memory == "none" or given_by_hami):
        return "warning"
    return "note"


def _by(hold: Hold) -> str:
    return f" (by {', '.join(hold.by)})" if hold.by else ""


def _advice(device: Device, hold: Hold) -> str:
    if hold.memory == "hard":
        return ""
    if device.source == "hami" and not device.enforced_by:
        return (
            "Nothing holds this container to what HAMi gave it: see that the pod does not set CUDA_DISABLE_CONTROL, "
            "and that nothing is mounted over /usr/local/vgpu."
        )
    if device.kind == "cpu":
        return (
            "With XINFER_OVER_LIMIT=end the worker ends a replica that uses too much; where it may make cgroups "
            "(a service with Delegate=yes), none can."
        )
    if device.kind == "cuda" and device.source not in ("hami", "mig"):
        return "Start the MPS daemon before the worker: nvidia-cuda-mps-control -d"
    return ""


def _why_no_mps(device: Device, facts: MachineFacts) -> str:
    return "it does not serve MIG instances" if facts.means.mps and device.source == "mig" else facts.mps.reason


def _why_no_hami_core(device: Device, facts: MachineFacts) -> str:
    if device.source == "hami" and not device.enforced_by:
        return facts.hami.preload.reason
    return obstacle(device, facts.means) or "it holds the device"


def _why_no_torch(device: Device, facts: MachineFacts) -> str:
    version, since = facts.means.torch, torch_allocator.SINCE
    if version == (0, 0):
        return "torch is not installed here"
    if version < since:
        return f"torch {_dotted(version)} is older than {_dotted(since)}, which has the option"
    return "HAMi-core shows torch the slice as the whole card" if obstacle(device, facts.means) is None else ""


def _why_no_cgroup(_device: Device, facts: MachineFacts) -> str:
    return facts.cgroup_obstacle or "XINFER_CGROUPS=off"


def _why_no_watchdog(_device: Device, facts: MachineFacts) -> str:
    return f"XINFER_OVER_LIMIT={facts.over_limit}: it looks, and ends nobody"


def _why_no_threads(_device: Device, _facts: MachineFacts) -> str:
    return "it bounds no threads here"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


_Reason = Callable[[Device, MachineFacts], str]
MECHANISMS: Mapping[str, Mapping[str, _Reason]] = {
    "cuda": {"mps": _why_no_mps, "hami-core": _why_no_hami_core, "torch": _why_no_torch},
    "cpu": {"cgroup": _why_no_cgroup, "watchdog": _why_no_watchdog, "threads": _why_no_threads},
}
"""Every enforcer that can hold something, by the kind of device that it is for, and why it does not hold one."""
_WORDS = {"hard": "held", "soft": "held softly", "none": "not held"}
_NAMES = {"hami": "HAMi", "mig": "the MIG instance"}
