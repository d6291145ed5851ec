from collections.abc import Sequence
from typing import ClassVar

from xinfer.routing.base import Candidate


class RoundRobin:
    """Each replica in turn, whatever its load. For comparison, and for replicas that report none."""

    name: ClassVar[str] = "round_robin"

    def choose(self, candidates: Sequence[Candidate], turn: int) -> int:
        """The next in turn."""
        return turn % len(candidates)


POLICY = RoundRobin()
