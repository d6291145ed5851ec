"""The line of replicas that start. An engine that profiles memory starts alone on devices that hold nobody to a slice.

Pure. A line is made anew for every decision: first those whose processes are starting, then those who wait, in the
order in which they came. Whoever waits keeps those behind it from its devices, so everybody's turn comes.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Claim(NamedTuple):
    """A replica that starts, or wants to."""

    replica_id: str
    devices: frozenset[str]
    """Those of its devices on which replicas can disturb one another."""
    profiles: bool
    """It measures what memory is free while it starts."""


class StartLine:
    """Those who come before, in one decision."""

    def __init__(self, starting: Iterable[Claim]) -> None:
        self._ahead = list(starting)

    def join(self, claim: Claim) -> None:
        """It starts now, or waits: either way it comes before those who ask after it."""
        self._ahead.append(claim)

    def obstacle(self, claim: Claim) -> str:
        """Why it has to wait, for people; empty: it may start."""
        for other in self._ahead:
            shared = claim.devices & other.devices
            if not shared or other.replica_id == claim.replica_id:
                continue
            if other.profiles:
                return f"{other.replica_id} profiles device {min(shared)}"
            if claim.profiles:
                return f"{other.replica_id} starts on device {min(shared)}, which is to be profiled"
        return ""
