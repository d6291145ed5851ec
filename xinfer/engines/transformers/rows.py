"""The sequences in the cache, and which of them are read next. Pure."""

from collections.abc import Sequence as Rows
from typing import TYPE_CHECKING

from xinfer.engines.token_engine import Sequence

if TYPE_CHECKING:  # it imports the library
    from xinfer.engines.transformers.pictures import Pictures


class Row:
    """A sequence with a row of the cache. ``filled``: how many of its tokens the cache holds."""

    __slots__ = ("filled", "pictures", "sequence", "tokens")

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        # What was generated before the sequence lost its row is read again like a prompt.
        self.tokens = sequence.prompt + sequence.generated
        self.filled = 0
        self.pictures: Pictures | None = sequence.images

    @property
    def shift(self) -> int:
        """What is added to positions behind the prompt where the model rotates by them."""
        return self.pictures.shift if self.pictures else 0

    @property
    def remaining(self) -> int:
        """Tokens that are still to be read before it can be continued."""
        return len(self.tokens) - self.filled

    @property
    def wants_scores(self) -> bool:
        """The log probabilities of its prompt are asked for, and not known yet."""
        wanted = self.sequence.prompt_candidates
        return wanted is not None and len(wanted) < len(self.sequence.prompt)


def next_window(rows: Rows[Row], budget: int) -> tuple[int, int]:
    """How many of the first rows are read in the next pass, and how many tokens of each.

    Rows are read together (padded to the longest) when they have the same number of tokens in the cache and all of
    them can be finished with at most ``budget`` tokens; else the first one is read alone, and perhaps in parts. So is
    one with images.
    """
    first = rows[0]
    longest = first.remaining
    if first.pictures:
        return 1, first.pictures.size_of_pass(first.filled, min(longest, budget))
    if longest > budget or first.wants_scores:
        return 1, min(longest, budget)
    count = 1
    for row in rows[1:]:
        together = max(longest, row.remaining)
        if row.filled != first.filled or row.wants_scores or row.pictures or (count + 1) * together > budget:
            break
        longest = together
        count += 1
    return count, longest
