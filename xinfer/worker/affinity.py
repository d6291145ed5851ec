"""Which cores a replica on the CPU runs on: one with a share of whole cores is kept to as many, rather to idle ones."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from xinfer.devices import Device, Lease


def cores_for(share: float, available: Sequence[int], taken: Iterable[frozenset[int]]) -> frozenset[int]:
    """The cores for a share of them; empty: any.

    Args:
        share: so many cores; 0: no share was asked for. It is rounded, as the number of threads is.
        available: the numbers of all cores.
        taken: the cores of each replica that is kept to some.
    """
    wanted = round(share)
    if share < 1 or wanted >= len(available):
        return frozenset()  # part of a core, which threads have to share anyway, or all of them
    busy = Counter(core for cores in taken for core in cores)
    return frozenset(sorted(available, key=lambda core: (busy[core], core))[:wanted])


def share_of_cpu(lease: Lease, devices: Mapping[str, Device]) -> float:
    """How many cores a lease has of the CPU."""
    on_cpu = ((piece, devices[piece.device_id]) for piece in lease.slices)
    return sum(piece.cores_percent * cpu.cores / 100 for piece, cpu in on_cpu if cpu.kind == "cpu")


def keep_to_cores(pid: int, share: float, neighbours: Iterable[int]) -> frozenset[int]:
    """Keep a process that has just started, and all that it will start, to a share of our cores; to which.

    ``neighbours`` are the processes of the other replicas. Where the system knows no affinity, nothing happens.
    """
    if not hasattr(os, "sched_setaffinity"):
        return frozenset()
    available = os.sched_getaffinity(0)
    taken = (_cores_of(other) for other in neighbours if other != pid)
    cores = cores_for(share, sorted(available), [found for found in taken if found != available])
    if cores:
        with contextlib.suppress(OSError):  # it has ended already
            os.sched_setaffinity(pid, cores)
    return cores


def _cores_of(pid: int) -> frozenset[int]:
    try:
        return frozenset(os.sched_getaffinity(pid))
    except OSError:
        return frozenset()
