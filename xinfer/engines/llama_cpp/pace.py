"""How many tokens of prompts are read in one step, so that nobody who waits for the step waits long. Pure."""

FIRST = 64
"""Tokens, as long as nobody knows how long they take."""
LEAST = 16
"""Fewer than this would take hardly less time."""
BESIDE_S = 0.15
"""How long reading may hold up sequences that run, in seconds a step."""
ALONE_S = 0.5
"""How long it may take where none runs: until then nobody is let in, and nothing is aborted."""
_WEIGHT = 0.3
"""Of the last step in the mean."""


class Pace:
    """Learns how fast prompts are read.

    Args:
        most: tokens a step.
        fixed: read exactly so many, however long that takes.
    """

    def __init__(self, most: int, fixed: int | None = None) -> None:
        self._most = most
        self._fixed = fixed
        self._token_s = 0.0

    def note(self, tokens: int, seconds: float) -> None:
        """A step took so long, in which so many tokens were read. Small ones say little."""
        if tokens >= LEAST:
            seen = seconds / tokens
            self._token_s = (1 - _WEIGHT) * self._token_s + _WEIGHT * seen if self._token_s else seen

    def tokens(self, *, alone: bool) -> int:
        """How many to read in the next step.

        Args:
            alone: no sequence runs that would have to wait for it.
        """
        if self._fixed is not None:
            return max(self._fixed, self._most) if alone else self._fixed
        if not self._token_s:
            return min(self._most, FIRST)
        return max(min(self._most, LEAST), min(self._most, int((ALONE_S if alone else BESIDE_S) / self._token_s)))
