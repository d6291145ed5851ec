"""From a lease to a Grant: one module per enforcer in this package, each exposing ``ENFORCER``."""

from collections.abc import Mapping
from typing import ClassVar, Protocol

from xinfer import plugins
from xinfer.devices import Device, Grant, Lease
from xinfer.spec import Deployment, Format
from xinfer.worker.enforce.cpu import granted_threads

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""For weights that are on disk: libraries would ask the hub for newer ones, and wait where there is no network."""


class Enforcer(Protocol):
    """Holds replicas to their slices of one kind of device."""

    kind: ClassVar[str]
    """The ``Device.kind`` it is for."""

    def environment(self, lease: Lease, devices: Mapping[str, Device]) -> dict[str, str]:
        """Variables that hold a process to its lease.

        Asked for every replica, also for one that has no slice of this kind: that one has to be kept off it.
        """


def grant(lease: Lease, deployment: Deployment, devices: Mapping[str, Device]) -> Grant:
    """The lease with the environment of the engine's process; the deployment's own variables win."""
    enforcers: list[Enforcer] = plugins.exposed("xinfer.worker.enforce", "ENFORCER")
    env: dict[str, str] = {}
    if deployment.spec.format is not Format.NONE:
        env |= OFFLINE
    for enforcer in enforcers:
        env |= enforcer.environment(lease, devices)
    return Grant(lease=lease, env=env | deployment.envs, threads=granted_threads(lease, devices))
