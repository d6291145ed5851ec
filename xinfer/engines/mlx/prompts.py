"""Prompts that are being read: which of them next, and how much. Pure."""

from collections import deque
from collections.abc import Sequence as Several
from typing import Any

from xinfer.engines.token_engine import Sequence


class Reading:
    """A prompt with the sequences that continue it: the answers to one request share the work on it.

    Its last token is not read here: reading it is the first step of continuing.
    """

    __slots__ = ("filled", "sequences", "states", "tokens")

    def __init__(self, sequences: list[Sequence], states: Any) -> None:
        first = sequences[0]
        self.sequences = sequences
        # What was generated before the sequence lost its row is read again like a prompt.
        self.tokens = first.prompt + first.generated
        self.filled = 0
        self.states = states

    @property
    def remaining(self) -> int:
        """Tokens that are still to be read before it can be continued."""
        return len(self.tokens) - 1 - self.filled

    @property
    def wants_scores(self) -> bool:
        """The log probabilities of the prompt are asked for, and not known yet."""
        wanted = self.sequences[0].prompt_candidates
        return wanted is not None and len(wanted) < len(self.sequences[0].prompt)


def take_group(waiting: deque[Sequence], room: int) -> list[Sequence]:
    """Take the first sequence that waits, and with it the others of its group that have not begun, at most ``room``."""
    first = waiting.popleft()
    group = [first]
    if first.group is None or first.generated:
        return group
    for other in list(waiting):
        if len(group) == room:
            break
        if other.group is first.group and not other.generated:
            waiting.remove(other)
            group.append(other)
    return group


def next_window(readings: Several[Reading], budget: int, *, pads: bool = True) -> tuple[int, int]:
    """How many of the first prompts are read in the next pass, and how many tokens of each at most.

    Prompts are read together (padded to the longest) when none has begun and all of them can be finished with at most
    ``budget`` tokens; else the first one is read alone, and perhaps in parts.

    Args:
        readings: in the order in which they came.
        budget: tokens.
        pads: prompts of different lengths may be read together.
    """
    first = readings[0]
    longest = first.remaining
    if longest > budget or first.wants_scores or first.filled:
        return 1, min(longest, budget)
    count = 1
    for reading in readings[1:]:
        together = max(longest, reading.remaining)
        fits = (count + 1) * together <= budget and (pads or reading.remaining == longest)
        if reading.filled or reading.wants_scores or not fits:
            break
        longest = together
        count += 1
    return count, longest
