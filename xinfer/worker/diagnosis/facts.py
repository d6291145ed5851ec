"""What is known of a machine before anybody judges it. Memory and disk in MiB; None: not known, or no limit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from xinfer.devices import Device
from xinfer.protocol import EngineOffer
from xinfer.worker.enforce.means import Means
from xinfer.worker.hami.limits import EnvironmentLimits
from xinfer.worker.hami.preload import Preload
from xinfer.worker.hami.slices import HamiReading
from xinfer.worker.inventory.base import DeviceReading, InventoryReading
from xinfer.worker.inventory.mps import MpsReading

NO_HAMI = HamiReading(annotated={}, container=None, limits=EnvironmentLimits({}, {}, ()), preload=Preload(False, ""))
NO_MPS = MpsReading(False, "no MPS control daemon", Path("/tmp/nvidia-mps"))  # noqa: S108  where CUDA looks


@dataclass(frozen=True, kw_only=True)
class CpuFacts:
    """Where the size of the CPU device comes from."""

    host_cores: int = 1
    allowed_cores: int = 1
    """That this process may run on (its affinity)."""
    quota_cores: float | None = None
    """Of the tightest cgroup."""
    host_memory_mib: int = 0
    memory_limit_mib: int | None = None
    """Of the tightest cgroup."""
    swap_mib: int = 0
    swap_used_mib: int = 0
    overcommit: int = 0
    """vm.overcommit_memory: 2 refuses memory that is only reserved."""
    sessions_first: bool = False
    """The scheduler shares the cores between sessions before it does between processes (autogroup)."""


@dataclass(frozen=True, kw_only=True)
class SystemFacts:
    """The system that servers and replicas run in."""

    home: Path = Path("/")
    home_writable: bool = True
    home_free_mib: int = 1 << 20
    shm_mib: int | None = None
    """Size of /dev/shm; None: there is none."""
    open_files: int | None = None
    """The limit of this process."""
    open_files_most: int | None = None
    """What it could raise the limit to."""
    proxies: tuple[str, ...] = ()
    """Variables with proxies that requests to this machine itself would go through."""
    preload: tuple[tuple[str, bool], ...] = ()
    """Each library of LD_PRELOAD, and whether it is there. A name without a folder counts as there."""


@dataclass(frozen=True, kw_only=True)
class TorchBuild:
    """A torch that replicas may import."""

    where: str
    """For people: "this Python", or the name of an environment."""
    version: str
    cuda: str = ""
    """The CUDA that it was built for; empty: for none."""
    is_for_other_accelerators: bool = False
    """ROCm and the like."""


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """Everything that the findings about a machine are made from."""

    inventories: Mapping[str, InventoryReading] = field(default_factory=dict)
    """By the name of the source."""
    means: Means = field(default_factory=Means)
    cpu: CpuFacts = field(default_factory=CpuFacts)
    system: SystemFacts = field(default_factory=SystemFacts)
    hami: HamiReading = NO_HAMI
    mps: MpsReading = NO_MPS
    nvml_there: bool = False
    """NVIDIA's management library can be loaded."""
    nvidia_on_bus: int = 0
    """Cards by NVIDIA that the PCI bus shows, with a driver or without."""
    cgroup_obstacle: str = ""
    """Why replicas cannot have cgroups of their own; empty: they can."""
    over_limit: Literal["report", "throttle", "end"] = "report"
    offers: Mapping[str, EngineOffer] = field(default_factory=dict)
    broken_engines: Mapping[str, str] = field(default_factory=dict)
    """Engines of third parties that cannot be loaded, and why."""
    unusable_environments: Mapping[str, str] = field(default_factory=dict)
    """Environments that no replica here would run in, and why."""
    torches: tuple[TorchBuild, ...] = ()

    @property
    def readings(self) -> tuple[DeviceReading, ...]:
        """Every device."""
        return tuple(reading for source in self.inventories.values() for reading in source.devices)

    @property
    def cards(self) -> tuple[Device, ...]:
        """Every device that CUDA runs on."""
        return tuple(reading.device for reading in self.readings if reading.device.kind == "cuda")
