"""Known traps: what is set up in a way that has cost others a day."""

import re
from collections.abc import Iterator

from xinfer.worker.diagnosis.facts import MachineFacts, TorchBuild
from xinfer.worker.diagnosis.findings import Finding
from xinfer.worker.enforce.hami_core import LIBRARY

LEAST_OPEN_FILES = 4096
"""Every client, and every connection of a gateway to a replica, is an open file."""
LEAST_SHM_MIB = 1024
"""Engines that run one model on several devices pass activations through /dev/shm; containers start with 64."""
LOW_DISK_MIB, NO_DISK_MIB = 10 * 1024, 1024
"""An environment of a large engine takes about ten GiB; logs and the store need some anyway."""
LEAST_MEMORY_MIB = 2048
"""An engine takes about 1 GiB before it has loaded any weights."""
SWAPPED_MIB = 1024
ALL_CORES = 100


def trap_findings(facts: MachineFacts) -> Iterator[Finding]:
    """Everything that is known to go wrong on such a machine; nothing where all is well."""
    yield from _hami_traps(facts)
    yield from _mig_with_mps(facts)
    for build in facts.torches:
        yield from _torch_traps(build, facts)
    yield from _memory_traps(facts)
    yield from _scheduler_traps(facts)
    yield from _limits(facts)
    yield from _disk(facts)
    yield from _surroundings(facts)


def _hami_traps(facts: MachineFacts) -> Iterator[Finding]:
    slices = [card for card in facts.cards if card.source == "hami"] if facts.hami.preload.loaded else []
    if len(slices) > 1:
        yield Finding(
            group="enforcement",
            code="hami-tensor-parallel",
            level="warning",
            what="one model on several slices by HAMi may hang or crash in NCCL",
            why=("HAMi-core does not pass on the memory handles with which cards reach each other directly",),
            advice="Give each model one slice; or launch it with --disable-custom-all-reduce true (vLLM) and "
            "--env NCCL_P2P_DISABLE=1, and if it still hangs, --env NCCL_SHM_DISABLE=1.",
        )
    by_core = slices if any(card.cap_cores < ALL_CORES for card in slices) else []
    if by_core or (facts.means.hami_core and not facts.means.mps and facts.cards):
        yield Finding(
            group="enforcement",
            code="hami-cores-graphs",
            level="note",
            what="HAMi-core does not slow down work that is launched as a CUDA graph",
            why=("vLLM and SGLang decode with CUDA graphs, so a share of the cores hardly holds them",),
            advice="Where the share matters, launch with --enforce-eager true (vLLM), or use MPS.",
        )


def _mig_with_mps(facts: MachineFacts) -> Iterator[Finding]:
    if facts.mps.running and any(card.source == "mig" for card in facts.cards):
        yield Finding(
            group="enforcement",
            code="mig-mps",
            level="note",
            what="MPS runs, and does not divide MIG instances further",
            why=("the instance itself is the limit, for all replicas on it together",),
            advice="Launch one replica for each instance (--gpucores 100), or make smaller instances.",
        )


def _torch_traps(build: TorchBuild, facts: MachineFacts) -> Iterator[Finding]:
    if not facts.cards or build.is_for_other_accelerators:
        return
    named = f"torch {build.version} in {build.where}"
    if not build.cuda:
        yield Finding(
            group="engines",
            code="torch-for-cpu",
            level="warning",
            subject=build.where,
            what=f"{named} is built for CPUs: it would not use the cards here",
            why=("engines on it refuse a replica that was given a card, and run on the CPU where it was not",),
            advice="Install a torch that is built for CUDA, or launch with --n-gpu none.",
        )
        return
    newest = _version(min(card.cuda_version for card in facts.cards))
    needed = _version(build.cuda)
    if not newest or not needed or needed <= newest:
        return
    driver = facts.cards[0].driver
    works = needed[0] == newest[0]
    yield Finding(
        group="engines",
        code="driver-too-old",
        level="warning" if works else "problem",
        subject=build.where,
        what=f"{named} is built for CUDA {build.cuda}, driver {driver} runs CUDA up to {facts.cards[0].cuda_version}",
        why=(
            "within one major version that works, but for code that is compiled while it runs (Triton, PTX)"
            if works
            else "it will not find a card: CUDA runs on drivers of the same major version, or newer ones",
        ),
        advice=f"Install a driver for CUDA {build.cuda}, or a torch that is built for an older CUDA.",
    )


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else ()


def _memory_traps(facts: MachineFacts) -> Iterator[Finding]:
    cpu = facts.cpu
    usable = min(cpu.host_memory_mib, cpu.memory_limit_mib or cpu.host_memory_mib)
    if 0 < usable < LEAST_MEMORY_MIB:
        yield Finding(
            group="system",
            code="little-memory",
            level="warning",
            what=f"{usable} MiB of memory are little",
            why=("an engine takes about 1 GiB before it has loaded any weights",),
            advice="Raise the memory limit of the container; xinfer estimate MODEL says what a model needs.",
        )
    if cpu.swap_used_mib > SWAPPED_MIB:
        yield Finding(
            group="system",
            code="swapping",
            level="warning",
            what=f"{cpu.swap_used_mib} MiB of memory are swapped out",
            why=("weights that are read from a disk again for every token make a model hundreds of times slower",),
            advice="Run less on this machine, or turn swap off (swapoff -a) to see at once what does not fit.",
        )
    if cpu.overcommit == 2:
        yield Finding(
            group="system",
            code="overcommit",
            level="warning",
            what="the kernel refuses memory that is reserved and not used (vm.overcommit_memory=2)",
            why=("CUDA and torch reserve far more than they use, so engines may fail to start",),
            advice="sysctl vm.overcommit_memory=0",
        )


def _scheduler_traps(facts: MachineFacts) -> Iterator[Finding]:
    if facts.cpu.sessions_first and not facts.cards:
        yield Finding(
            group="system",
            code="autogroup",
            level="note",
            what="Linux shares the cores between sessions here (autogroup), and only then between processes",
            why=(
                "beside an engine that keeps all cores busy, clients in other terminals were seen to wait for seconds",
            ),
            advice="sysctl kernel.sched_autogroup_enabled=0, or run servers as services or in containers.",
        )


def _limits(facts: MachineFacts) -> Iterator[Finding]:
    system = facts.system
    several = len(facts.cards) > 1
    if system.shm_mib is not None and system.shm_mib < LEAST_SHM_MIB and several:
        yield Finding(
            group="system",
            code="shm",
            level="warning",
            what=f"shared memory (/dev/shm) of {system.shm_mib} MiB is too little for one model on several cards",
            advice="Start the container with --shm-size 8g; in Kubernetes mount a memory-backed volume there.",
        )
    if system.open_files is not None and system.open_files < LEAST_OPEN_FILES:
        could = system.open_files_most is None or system.open_files_most > system.open_files
        yield Finding(
            group="system",
            code="open-files",
            level="warning",
            what=f"a process may have {system.open_files} open files; every client takes one",
            advice="ulimit -n 65536" if could else "Raise the hard limit: LimitNOFILE= of the service, or limits.conf.",
        )


def _disk(facts: MachineFacts) -> Iterator[Finding]:
    system = facts.system
    if not system.home_writable:
        yield Finding(
            group="system",
            code="home",
            level="problem",
            what=f"{system.home} cannot be written, and a server keeps its state there",
            advice="Give this user the right to, or set XINFER_HOME to another folder.",
        )
    elif system.home_free_mib < LOW_DISK_MIB:
        yield Finding(
            group="system",
            code="disk",
            level="problem" if system.home_free_mib < NO_DISK_MIB else "warning",
            what=f"the disk of {system.home} has {system.home_free_mib} MiB free",
            why=("environments of engines take about 10 GiB each, logs and the store a little",),
            advice="Free some, or set XINFER_HOME to a larger disk.",
        )
    else:
        yield Finding(group="system", code="disk", what=f"{system.home}: {system.home_free_mib} MiB free")


def _surroundings(facts: MachineFacts) -> Iterator[Finding]:
    system = facts.system
    if system.proxies:
        yield Finding(
            group="system",
            code="proxy",
            level="warning",
            what=f"{', '.join(system.proxies)} would catch requests to this machine itself",
            why=("xinfer goes around it, but curl and the openai client do not",),
            advice="export no_proxy=127.0.0.1,localhost",
        )
    for library, there in system.preload:
        if not there:
            yield Finding(
                group="system",
                code="preload",
                level="warning",
                subject=library,
                what=f"LD_PRELOAD names {library}, which is not there",
                why=("every process says so when it starts, and goes on without it",),
                advice="Correct LD_PRELOAD, or unset it.",
            )
        elif library.endswith(LIBRARY) and not facts.hami.limits.memory_mib:
            yield Finding(
                group="system",
                code="preload",
                level="problem",
                subject=library,
                what="LD_PRELOAD loads HAMi-core, and nothing sets a memory limit",
                why=("it then shows every process a card of 0 bytes",),
                advice="Take it out of LD_PRELOAD. For replicas, set XINFER_HAMI_CORE to it: they get it with limits.",
            )
