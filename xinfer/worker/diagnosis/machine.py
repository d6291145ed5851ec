"""What a machine offers: its CPU, its cards, the slices of them by HAMi, MPS, and what the sources warn of."""

from collections.abc import Iterable, Iterator

from xinfer.devices import Device
from xinfer.worker.diagnosis.facts import MachineFacts
from xinfer.worker.diagnosis.findings import Finding
from xinfer.worker.hami.slices import HamiReading
from xinfer.worker.inventory.base import MIB, DeviceReading

GROUP = "machine"
NVLINK_SCORE = 100
"""Pair scores from here on are NVLinks, this much for each; below, PCIe."""


def machine_findings(facts: MachineFacts) -> Iterator[Finding]:
    """The devices, one finding each, and everything about where they come from."""
    for reading in facts.readings:
        yield _cpu(reading, facts) if reading.device.kind == "cpu" else _card(reading, facts.cards)
    yield from _nvidia(facts)
    if facts.hami.given:
        yield _hami(facts.hami)
    if facts.mps.running:
        yield _mps(facts)
    for name, source in facts.inventories.items():
        for warning in source.warnings:
            yield Finding(group=GROUP, code="reading", level="warning", subject=name, what=warning)


def _cpu(reading: DeviceReading, facts: MachineFacts) -> Finding:
    device, cpu = reading.device, facts.cpu
    bounds = []
    if cpu.allowed_cores < cpu.host_cores:
        bounds.append(f"cores: this process may run on {cpu.allowed_cores} of {cpu.host_cores} (affinity)")
    if cpu.quota_cores is not None:
        bounds.append(f"cores: the cgroup has a quota of {cpu.quota_cores:g}")
    if cpu.memory_limit_mib is not None and cpu.memory_limit_mib < cpu.host_memory_mib:
        bounds.append(f"memory: the cgroup is limited to {cpu.memory_limit_mib} of {cpu.host_memory_mib} MiB")
    return Finding(
        group=GROUP,
        code="cpu",
        subject=device.device_id,
        what=f"CPU {device.name}: {_count(device.cores, 'core')}, {_memory(reading)}",
        why=tuple(bounds) or ("cores and memory are those of the host; no cgroup limits them",),
    )


def _card(reading: DeviceReading, cards: Iterable[Device]) -> Finding:
    device = reading.device
    kinds = {"hami": "a slice by HAMi", "mig": f"a MIG instance of {device.parent_uuid}", "mps": "limited by MPS"}
    kind = kinds.get(device.source, "")
    return Finding(
        group=GROUP,
        code="card",
        level="ok" if device.healthy else "problem",
        subject=device.device_id,
        what=f"{device.name or device.kind} {device.index}{f', {kind}' if kind else ''}: {_memory(reading)}",
        why=tuple(_card_lines(reading, {card.device_id: card.index for card in cards})),
        advice="" if device.healthy else "It takes nothing new until that is mended; reset the card, or restart.",
    )


def _card_lines(reading: DeviceReading, indices: dict[str, int]) -> Iterator[str]:
    device = reading.device
    if not device.healthy:
        yield f"not usable: {device.health_reason}"
    yield device.uuid or device.device_id
    known = {
        "compute capability": device.compute_capability,
        "driver": device.driver,
        "runs CUDA up to": device.cuda_version,
        "NUMA node": "" if device.numa < 0 else str(device.numa),
    }
    if any(known.values()):
        yield ", ".join(f"{name} {value}" for name, value in known.items() if value)
    if device.cap_cores < 100:
        yield f"{device.cap_cores} % of its cores are ours"
    if device.view_mib:
        yield f"a process sees {device.view_mib} MiB as its total"
    links = [f"{_link(score)} to {indices[other]}" for other, score in device.pair_scores.items() if other in indices]
    if links:
        yield f"links: {', '.join(links)}"
    if reading.processes:
        yield f"{_count(reading.processes, 'process', 'processes')} on it now"


def _link(score: int) -> str:
    return f"{score // NVLINK_SCORE} x NVLink" if score >= NVLINK_SCORE else "PCIe"


def _memory(reading: DeviceReading) -> str:
    device = reading.device
    lease = device.cap_mib or device.memory_mib - device.reserve_mib
    free = "" if reading.free_mib is None else f", {reading.free_mib} free now"
    return f"{device.memory_mib} MiB ({lease} for replicas{free})"


def _nvidia(facts: MachineFacts) -> Iterator[Finding]:
    """Why there is no card, where one could be."""
    source = facts.inventories.get("nvidia")
    if source is None or source.devices:
        return
    if not facts.nvml_there:
        on_bus = facts.nvidia_on_bus
        yield Finding(
            group=GROUP,
            code="accelerators",
            level="warning" if on_bus else "note",
            what=f"{_count(on_bus, 'NVIDIA card')}, but no driver"
            if on_bus
            else "no accelerator: models run on the CPU",
            why=(source.reason,),
            advice="Install NVIDIA's driver; in a container, start it with --gpus all." if on_bus else "",
        )
    elif source.cards_shown:
        yield Finding(
            group=GROUP,
            code="accelerators",
            level="warning",
            what=f"{_count(source.cards_shown, 'card')}, but none is left to this process",
            why=(source.reason,),
            advice="Set CUDA_VISIBLE_DEVICES to what workers may use, or unset it.",
        )
    else:
        yield Finding(
            group=GROUP,
            code="accelerators",
            level="problem",
            what="the NVIDIA driver is there and does not work",
            why=(source.reason,),
            advice="See what nvidia-smi says; after an update of the driver, restart the machine.",
        )


def _hami(hami: HamiReading) -> Finding:
    said = [
        f"{source}: {device.uuid} {device.memory_mib} MiB, {device.cores or 100} % of its cores"
        for source, containers in hami.annotated.items()
        for number, devices in enumerate(containers)
        for device in devices
        if hami.container in (None, number)
    ]
    for limits, variable, unit in (
        (hami.limits.memory_mib, "CUDA_DEVICE_MEMORY_LIMIT", "MiB"),
        (hami.limits.cores, "CUDA_DEVICE_SM_LIMIT", "% of its cores"),
    ):
        said += [f"{variable}{'' if at is None else f'_{at}'}: {value} {unit}" for at, value in limits.items()]
    if hami.region is not None:
        said += [
            f"the shared region: {device.uuid} {device.memory_limit // MIB} MiB, "
            f"{hami.region.used(position) // MIB} of them used"
            for position, device in enumerate(hami.region.devices)
        ]
    said.append(hami.preload.reason)
    return Finding(
        group=GROUP, code="hami", what="HAMi gave this container its slices; who says what:", why=tuple(said)
    )


def _mps(facts: MachineFacts) -> Finding:
    mps = facts.mps
    lines = [mps.reason]
    lines += [f"each process may have {mib} MiB of device {device}" for device, mib in mps.memory_mib.items()]
    if mps.cores_percent < 100:
        lines.append(f"each process may have {mps.cores_percent} % of the cores")
    return Finding(group=GROUP, code="mps", what="CUDA's Multi-Process Service runs", why=tuple(lines))


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"
