from collections.abc import Sequence
from typing import ClassVar

from xinfer.routing.base import Candidate


class LeastLoaded:
    """Join the shortest queue, counting what the reports cannot know yet.

    work = running + queued + own calls since the report. Crediting one's own calls keeps a burst from herding onto
    the replica whose report looked best (the "incast" of stale load data); ties go round in turn.
    """

    name: ClassVar[str] = "least_loaded"

    def choose(self, candidates: Sequence[Candidate], turn: int) -> int:
        """The least work; among equals the next in turn."""
        work = [c.running + c.queued + c.own_since_report for c in candidates]
        least = min(work)
        best = [index for index, amount in enumerate(work) if amount == least]
        return best[turn % len(best)]


POLICY = LeastLoaded()
