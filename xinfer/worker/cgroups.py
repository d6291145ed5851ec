"""Cgroups (v2) for replicas: a pure plan of where they may be made, and a thin hand that makes and removes them.

Only below a cgroup that was delegated to us: one that the service manager marked as such (``Delegate=yes``), or one in
which there is nobody but us. Processes can only be in leaves of the tree, so whoever is in that cgroup moves to one.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from xinfer.devices import Device, Lease
from xinfer.errors import describe
from xinfer.worker.inventory.base import MIB
from xinfer.worker.inventory.cpu import CGROUP_ROOT, OWN_CGROUPS
from xinfer.worker.leases import per_device

log = logging.getLogger(__name__)

NEEDED = ("memory", "cpu")
OWN_LEAF = "xinfer"
"""Where the worker itself goes, and whatever shares its cgroup."""
PREFIX = "replica-"
DELEGATED = "user.delegate"
"""How systemd marks a cgroup that it leaves to its processes (an extended attribute, "1")."""
PERIOD_US = 100_000
LOWEST_WEIGHT, NORMAL_WEIGHT = 1, 100


@dataclass(frozen=True)
class Cgroup:
    """What there is to know of a cgroup before one is made below it."""

    path: Path
    writable: bool = True
    """We may make cgroups below it and put processes there."""
    is_root: bool = False
    """Of the whole machine: it is nobody's to hand out."""
    delegated: bool = False
    available: frozenset[str] = frozenset(NEEDED)
    """Controllers that it may enable for those below."""
    enabled: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()
    """The processes in it, not in those below."""


@dataclass(frozen=True)
class Plan:
    """What to do once, before cgroups for replicas can be made in ``parent``."""

    parent: Path
    move: tuple[int, ...] = ()
    """Processes that leave ``parent`` for a leaf of their own."""
    enable: tuple[str, ...] = ()


def plan(own: Cgroup | None, above: Cgroup | None, family: Iterable[int]) -> Plan | str:
    """Where replicas can have cgroups; a text says why nowhere.

    Args:
        own: the cgroup that this process is in; None: there is no cgroup v2.
        above: the one that this is in.
        family: this process and those that it started.
    """
    if own is None:
        return "cgroup v2 is not mounted here"
    if above is not None and above.delegated and not above.pids:
        parent, move = above, frozenset[int]()
    else:
        parent, move = own, own.pids
    missing = [name for name in NEEDED if name not in parent.available]
    if missing:
        return f"{parent.path} does not have the controller {missing[0]!r}"
    if parent.is_root:
        return f"{parent.path} is the cgroup of the whole machine; run the worker as a service with Delegate=yes"
    if not parent.writable:
        return f"{parent.path} is not ours to write; run the worker as a service with Delegate=yes"
    strangers = move - frozenset(family)
    if strangers:
        return f"{parent.path} has processes in it that are not ours (such as {min(strangers)})"
    return Plan(parent.path, tuple(sorted(move)), tuple(name for name in NEEDED if name not in parent.enabled))


def limits(lease: Lease, devices: Mapping[str, Device]) -> dict[str, str]:
    """The files of a replica's cgroup and what goes into them; empty: it has no slice of the CPU."""
    pieces = [piece for piece in per_device(lease.slices) if devices[piece.device_id].kind == "cpu"]
    if not pieces:
        return {}
    memory_mib = sum(piece.memory_mib for piece in pieces)
    share_us = sum(PERIOD_US * piece.cores_percent * devices[piece.device_id].cores // 100 for piece in pieces)
    return {
        "memory.max": str(memory_mib * MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",  # half a replica is of no use to anybody
        "cpu.max": f"{share_us or 'max'} {PERIOD_US}",
    }


class Cgroups:
    """The cgroups of a worker's replicas, below ``parent``, by instance."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent

    @classmethod
    def carry_out(cls, plan: Plan) -> "Cgroups":
        """Prepare what was planned.

        Raises:
            OSError: the kernel refuses; processes may have moved already, which changes nothing for them.
        """
        if plan.move:
            leaf = plan.parent / OWN_LEAF
            leaf.mkdir(exist_ok=True)
            for pid in plan.move:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    (leaf / "cgroup.procs").write_text(str(pid))
        if plan.enable:
            (plan.parent / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in plan.enable))
        return cls(plan.parent)

    def create(self, instance: str, limits: Mapping[str, str]) -> None:
        """Make a cgroup with these limits.

        Raises:
            OSError: the kernel refuses; nothing is left of the cgroup.
        """
        self.sweep()
        path = self._of(instance)
        path.mkdir(exist_ok=True)
        try:
            for name, value in limits.items():
                if name != "memory.swap.max" or (path / name).exists():  # a kernel without swap does not have it
                    (path / name).write_text(value)
        except OSError:
            with contextlib.suppress(OSError):
                path.rmdir()
            raise

    def has(self, instance: str) -> bool:
        """Whether there is a cgroup for an instance."""
        return self._of(instance).is_dir()

    def enter(self, instance: str, pid: int) -> None:
        """Put a process that has just started into its cgroup, and with it all that it will start.

        What it took before, some MiB of an interpreter, stays counted where it was.

        Raises:
            OSError: the kernel refuses, or the process has ended.
        """
        (self._of(instance) / "cgroup.procs").write_text(str(pid))

    def slow_down(self, instance: str, slow: bool) -> bool:
        """Give a replica the least share of busy cores, or its normal one; whether it has a cgroup for that."""
        try:
            (self._of(instance) / "cpu.weight").write_text(str(LOWEST_WEIGHT if slow else NORMAL_WEIGHT))
        except OSError:
            return False
        return True

    def was_killed(self, instance: str) -> bool:
        """Whether the kernel killed processes of the replica because it needed more than its limit."""
        try:
            events = (self._of(instance) / "memory.events").read_text().split()
        except OSError:
            return False
        return dict(zip(events[::2], events[1::2], strict=False)).get("oom_kill", "0") != "0"

    def remove(self, instance: str) -> None:
        """End whatever is left in a replica's cgroup, and remove it; if that takes a moment, ``sweep`` does."""
        path = self._of(instance)
        with contextlib.suppress(OSError):  # it has none, or the kernel is older than this file
            if (path / "cgroup.kill").exists():
                (path / "cgroup.kill").write_text("1")
        with contextlib.suppress(OSError):
            path.rmdir()

    def sweep(self) -> None:
        """Remove the cgroups that nobody is in any more."""
        for path in self._parent.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):  # the kernel refuses while it is in use
                path.rmdir()

    def _of(self, instance: str) -> Path:
        return self._parent / f"{PREFIX}{instance}"


def open_cgroups(root: Path = CGROUP_ROOT, membership: Path = OWN_CGROUPS) -> Cgroups | None:
    """Cgroups for replicas, if this process may make them; the log says why not."""
    own, above = read_own(root, membership)
    family = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    planned = plan(own, above, family)
    if isinstance(planned, str):
        log.info("replicas have no cgroups of their own: %s", planned)
        return None
    try:
        cgroups = Cgroups.carry_out(planned)
    except OSError as error:
        log.warning("replicas have no cgroups of their own: %s", describe(error))
        return None
    log.info("replicas have cgroups of their own in %s", planned.parent)
    return cgroups


def read_own(root: Path, membership: Path) -> tuple[Cgroup | None, Cgroup | None]:
    """The cgroup (v2) of this process and the one that it is in; None where there is none."""
    if not (root / "cgroup.controllers").exists():  # v1, or both at once, where v2 controls nothing
        return None, None
    try:
        named = [line[3:] for line in membership.read_text().splitlines() if line.startswith("0::")]
    except OSError:
        named = []
    path = root / named[0].lstrip("/") if named else root
    if not path.is_dir():  # in a container the kernel may name it as the host does
        path = root
    return _read(path), _read(path.parent) if path != root else None


def _read(path: Path) -> Cgroup:
    return Cgroup(
        path=path,
        writable=os.access(path, os.W_OK) and os.access(path / "cgroup.subtree_control", os.W_OK),
        is_root=not (path / "cgroup.events").exists(),
        delegated=_is_delegated(path),
        available=frozenset(_words(path / "cgroup.controllers")),
        enabled=frozenset(_words(path / "cgroup.subtree_control")),
        pids=frozenset(int(word) for word in _words(path / "cgroup.procs") if word.isdigit()),
    )


def _is_delegated(path: Path) -> bool:
    try:
        return os.getxattr(path, DELEGATED) == b"1"
    except (OSError, AttributeError):  # not marked, or no system that knows such marks
        return False


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
