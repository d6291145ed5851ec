"""The CPU: cores are held softly, by the number of threads that libraries start; memory is not held, only booked."""

from collections.abc import Mapping
from typing import ClassVar

from xinfer.devices import Device, Hold, Lease
from xinfer.worker.enforce.means import Means

DEFAULT_THREADS = 4
"""More threads speed up small batches little, and several replicas share the machine."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
"""Every library has its own; without them each starts one thread per core of the machine, in every replica."""
HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ASCEND_RT_VISIBLE_DEVICES": ""}
"""A replica that was placed on the CPU must not use an accelerator that nobody gave it."""


class CpuEnforcer:
    """Bounds threads; keeps replicas that have only CPU slices off the accelerators."""

    name: ClassVar[str] = "threads"

    def hold(self, device: Device, _means: Means) -> Hold | None:
        """Cores, softly."""
        return Hold(cores="soft") if device.kind == "cpu" else None

    def environment(self, lease: Lease, devices: Mapping[str, Device], _means: Means, _instance: str) -> dict[str, str]:
        """Thread counts of the numeric libraries."""
        threads = str(granted_threads(lease, devices))
        # The tokenizers' own thread pool deadlocks after a fork, and gains nothing on single prompts.
        env = dict.fromkeys(THREAD_VARIABLES, threads) | {"TOKENIZERS_PARALLELISM": "false"}
        on_cpu_only = all(devices[one.device_id].kind == "cpu" for one in lease.slices)
        return env | HIDDEN if on_cpu_only else env


ENFORCER = CpuEnforcer()


def granted_threads(lease: Lease, devices: Mapping[str, Device]) -> int:
    """How many CPU threads a replica may start.

    The booked percent of the CPU's cores, at least one. With nothing booked: half of the cores, at most
    ``DEFAULT_THREADS``, so that two such replicas do not fight for one core.
    """
    cpu = next((device for device in devices.values() if device.kind == "cpu"), None)
    cores = cpu.cores if cpu is not None else 1
    percent = sum(one.cores_percent for one in lease.slices if devices[one.device_id].kind == "cpu")
    if percent:
        return max(1, round(cores * percent / 100))
    return max(1, min(DEFAULT_THREADS, cores // 2))
