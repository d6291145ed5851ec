"""The contract of a routing policy: pure, synchronous, a few microseconds."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

import msgspec


class Candidate(msgspec.Struct, frozen=True):
    """One READY replica as this gateway sees it. ``running``, ``queued`` and tokens are from its last load report."""

    instance: str
    running: int
    queued: int
    tokens_queued: int
    tokens_per_s: float
    own_since_report: int
    """Calls that this gateway sent after that report, so that it cannot know of."""


class RoutingPolicy(Protocol):
    """Chooses a replica."""

    name: ClassVar[str]

    def choose(self, candidates: Sequence[Candidate], turn: int) -> int:
        """The index of the chosen candidate; ``candidates`` is not empty, ``turn`` counts the choices made so far."""
