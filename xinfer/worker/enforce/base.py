"""From a lease to a Grant: one module per enforcer in this package, each exposing ``ENFORCER``."""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Protocol

from xinfer import plugins
from xinfer.devices import Budget, Device, DeviceSlice, Grant, Hold, Lease, Strength
from xinfer.spec import Deployment, Format
from xinfer.worker.enforce.cpu import granted_threads
from xinfer.worker.enforce.means import ALLOCATOR, PRELOAD, Means
from xinfer.worker.leases import per_device

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""For weights that are on disk: libraries would ask the hub for newer ones, and wait where there is no network."""


class Enforcer(Protocol):
    """One mechanism that holds replicas to their slices."""

    name: ClassVar[str]

    def hold(self, device: Device, means: Means, /) -> Hold | None:
        """What it holds on a device, and how firmly; None: nothing, there or here."""

    def environment(
        self, lease: Lease, devices: Mapping[str, Device], means: Means, instance: str, /
    ) -> dict[str, str]:
        """Variables that hold a process to its lease. ``instance`` names the process, once for ever.

        Asked for every replica, also for one that has no slice of a device that it is for.
        """


LISTS = {ALLOCATOR: ",", PRELOAD: ":"}
"""Variables that hold a list, and what separates its entries: a deployment adds to ours, and does not replace them."""


def grant(
    lease: Lease, deployment: Deployment, devices: Mapping[str, Device], means: Means, instance: str = ""
) -> Grant:
    """The lease with the environment of the engine's process; the deployment's own variables win.

    Raises:
        KeyError: a slice is of a device that is not in ``devices``.
    """
    env: dict[str, str] = {}
    if deployment.spec.format is not Format.NONE:
        env |= OFFLINE
    engine = plugins.engines().get(deployment.engine)
    env |= getattr(engine, "environment", {})  # engines of third parties may be older than the attribute
    for enforcer in _enforcers():
        env |= enforcer.environment(lease, devices, means, instance)
    wanted = dict(deployment.envs)
    for variable, separator in LISTS.items():
        if variable in env and variable in wanted:
            wanted[variable] = f"{env[variable]}{separator}{wanted[variable]}"
    return Grant(
        lease=lease,
        env=env | wanted,
        threads=granted_threads(lease, devices),
        budgets=tuple(budget(piece, devices[piece.device_id], means) for piece in per_device(lease.slices)),
    )


def budget(piece: DeviceSlice, device: Device, means: Means) -> Budget:
    """A slice as the engine's process sees it."""
    shown = piece.memory_mib if held(device, means).view == "slice" else device.view_mib or device.memory_mib
    return Budget(
        device_id=piece.device_id,
        kind=device.kind,
        memory_mib=piece.memory_mib,
        total_mib=shown,
        cores_percent=piece.cores_percent,
    )


def held(device: Device, means: Means) -> Hold:
    """How replicas are held to their slices of a device by all enforcers together: the firmest of each."""
    holds = {enforcer.name: hold for enforcer in _enforcers() if (hold := enforcer.hold(device, means)) is not None}
    by = list(holds.values())
    memory = _firmest(hold.memory for hold in by)
    decisive = [hold for hold in by if hold.memory == memory]
    return Hold(
        memory=memory,
        cores=_firmest(hold.cores for hold in by),
        view="slice" if any(hold.view == "slice" for hold in by) else "device",
        per="process" if decisive and all(hold.per == "process" for hold in decisive) else "replica",
        by=tuple(holds),
    )


def _firmest(strengths: Iterable[Strength]) -> Strength:
    order: tuple[Strength, ...] = ("none", "soft", "hard")
    return max(strengths, key=order.index, default="none")


def _enforcers() -> list[Enforcer]:
    return plugins.exposed("xinfer.worker.enforce", "ENFORCER")
