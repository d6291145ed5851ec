"""What a placement policy is given, and what it answers. Policies are pure: same input, same answer.

To add one, write a module in this package that exposes ``POLICY`` with a ``name`` and ``place``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from xinfer.devices import Placement
from xinfer.slices.place import place
from xinfer.slices.request import SliceRequest
from xinfer.slices.rooms import Rooms
from xinfer.spec import Policy


class PlacementPolicy(Protocol):
    """Chooses where one replica runs."""

    @property
    def name(self) -> str:
        """What it is chosen by."""

    def place(self, request: SliceRequest, workers: Sequence[Rooms]) -> Placement | None:
        """A place where the request fits now, or None. ``workers``: with the devices that may be used at all."""


@dataclass(frozen=True)
class ByScore:
    """Takes workers and devices by how full they are; what a request says about that itself goes first."""

    name: str
    worker_policy: Policy
    device_policy: Policy

    def place(self, request: SliceRequest, workers: Sequence[Rooms]) -> Placement | None:
        """The best place by the scores of HAMi, or None."""
        decided = msgspec.structs.replace(
            request,
            worker_policy=request.worker_policy or self.worker_policy,
            device_policy=request.device_policy or self.device_policy,
        )
        return place(decided, workers)
