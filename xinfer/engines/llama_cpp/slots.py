"""Which sequence of the library's cache serves whom, and what it still knows of those it served before. Pure.

By default every sequence has a part of the cache for itself: it pays for its own tokens only, and what a finished one
leaves there costs nothing until its slot is needed. A new prompt goes where most of it is known already; where that is
a slot that is busy, or too good to be overwritten, what is known is copied.
"""

import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

from xinfer.engines.llama_cpp.images import ImageSpan, before_image, image_at, position_of, whole_images
from xinfer.engines.token_engine import Sequence as TokenSequence

LEAST_SHARED = 32
"""Fewer tokens than this are read again: that is cheaper than a copy."""
WIDEST_GAP = 2
"""So many free slots between busy ones are computed along with them."""


class Slot:
    """One sequence of the cache.

    Attributes:
        number: the library's id.
        sequence: whom it serves; ``None``: it is free.
        tokens: all tokens of that, or, of a free slot, those that the cache still holds.
        filled: how many of ``tokens`` the cache holds.
        since: when it was taken, or of a free slot when it was freed, as a count.
        weights: stands for the adapter that ``tokens`` were computed with; ``None``: they were computed without one.
        images: in ``tokens``.
        begins: the first position that all layers have; those with a window may have lost what is before it.
    """

    __slots__ = ("begins", "filled", "images", "number", "sequence", "since", "tokens", "weights")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sequence: TokenSequence | None = None
        self.tokens: list[int] = []
        self.filled = 0
        self.since = 0
        self.weights: object = None
        self.images: Sequence[ImageSpan] = ()
        self.begins = 0

    @property
    def remaining(self) -> int:
        """Tokens that are still to be read before it can be continued."""
        return len(self.tokens) - self.filled

    @property
    def readable(self) -> int:
        """Those of them that come before the next image."""
        return before_image(self.filled, len(self.tokens), self.images) if self.images else self.remaining

    @property
    def image(self) -> ImageSpan | None:
        """The image that is to be read next."""
        return image_at(self.filled, self.images) if self.images else None

    @property
    def position(self) -> int:
        """Of what is to be read next."""
        return position_of(self.filled, self.images) if self.images else self.filled


class Found(NamedTuple):
    """A place for a prompt. The first ``shared`` tokens are known to ``source``, which may be the slot itself."""

    slot: Slot
    source: Slot
    shared: int


class Coming(NamedTuple):
    """Another prompt that begins alike is being read; once it is ``until`` tokens far, that can be shared."""

    leader: Slot
    sequence: TokenSequence | None
    """Whom the leader serves."""
    until: int


class SlotTable:
    """All slots.

    Args:
        count: how many there are.
        shares: whether the cache can keep a part of what a sequence knows.
        neighbours: slots are computed together only where their numbers follow one another.
        window: so many tokens back some layers look, which may lose those before; 0: all keep all.
    """

    def __init__(self, count: int, *, shares: bool = True, neighbours: bool = True, window: int = 0) -> None:
        self._slots = [Slot(number) for number in range(count)]
        self._shares = shares
        self._neighbours = neighbours
        self._window = window
        self._clock = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def busy(self) -> list[Slot]:
        """Those that serve somebody, by number."""
        return [slot for slot in self._slots if slot.sequence is not None]

    def gaps(self, batch: Sequence[Slot]) -> list[Slot]:
        """Free slots that stand between those of a batch, where there are no more than ``WIDEST_GAP`` in a row.

        With a token in each of them all is computed at once, which takes less than doing it in two parts.
        """
        if not self._neighbours:
            return []
        gaps = [self._slots[before.number + 1 : after.number] for before, after in itertools.pairwise(batch)]
        return [
            slot
            for gap in gaps
            if len(gap) <= WIDEST_GAP and all(slot.sequence is None for slot in gap)
            for slot in gap
        ]

    @property
    def fading(self) -> list[Slot]:
        """Those that may have lost tokens: ``begins`` is to be set anew before the next prompt is placed."""
        return [slot for slot in self._slots if slot.filled] if self._window else []

    @property
    def has_room(self) -> bool:
        """Whether one is free."""
        return any(slot.sequence is None for slot in self._slots)

    def place(
        self,
        tokens: Sequence[int],
        *,
        anew: bool = False,
        weights: object = None,
        images: Sequence[ImageSpan] = (),
    ) -> Found | Coming:
        """Where a prompt goes; there has to be room. At least its last token is read again, for its logits.

        Args:
            tokens: the prompt.
            anew: all of it is to be read, whatever is known.
            weights: stands for its adapter; what was computed with other ones is of no use.
            images: in the prompt. Of each, all or nothing is shared.
        """
        source, shared = self._slots[0], 0
        coming = Coming(source, None, 0)
        if self._shares and not anew:
            longest = len(tokens) - 1
            for slot in self._slots:
                if slot.weights is not weights:
                    continue
                common = whole_images(min(common_prefix(slot.tokens, tokens), longest), images)
                known = whole_images(min(common, slot.filled), images)
                if known > shared and self._begins_early(slot, known):
                    source, shared = slot, known
                if (
                    slot.sequence is not None
                    and self._begins_early(slot, common)
                    and common > max(slot.filled, coming.until)
                ):
                    coming = Coming(slot, slot.sequence, common)
        if coming.until >= shared + LEAST_SHARED:
            return coming
        if shared < LEAST_SHARED:
            slot = self._least_useful(())
            return Found(slot, slot, 0)
        if source.sequence is None and source.filled - shared <= shared:
            return Found(source, source, shared)  # most of what it knows stays of use
        slot = self._least_useful((source,))
        return Found(slot, source, shared)

    def take(self, found: Found, sequence: TokenSequence, tokens: list[int], weights: object = None) -> Slot:
        """Give a slot to a sequence whose tokens, prompt and what was generated before, are ``tokens``."""
        self._clock += 1
        slot = found.slot
        slot.weights = weights
        slot.images = sequence.images or ()
        slot.begins = 0
        slot.sequence, slot.tokens, slot.filled, slot.since = sequence, tokens, found.shared, self._clock
        return slot

    def free(self, slot: Slot) -> None:
        """End serving; what the cache holds stays known."""
        self._clock += 1
        slot.sequence, slot.since = None, self._clock
        del slot.tokens[slot.filled :]

    def oldest_memory(self) -> Slot | None:
        """Of the free slots that know something, the one that has been free for longest."""
        known = [slot for slot in self._slots if slot.sequence is None and slot.filled]
        return min(known, key=lambda slot: slot.since, default=None)

    @staticmethod
    def forget(slot: Slot) -> None:
        """A free slot knows nothing any more."""
        slot.tokens, slot.filled = [], 0

    def forget_all(self) -> None:
        """None of the slots knows anything any more; all of them are free."""
        for slot in self._slots:
            self.forget(slot)

    def _least_useful(self, spared: Collection[Slot]) -> Slot:
        """The free slot to give away: one of ``spared`` only if there is no other.

        Rather one beside a busy slot than one further away, and of those the one that has been free for longest.
        """
        free = [slot for slot in self._slots if slot.sequence is None]
        return min(free, key=lambda slot: (slot in spared, -self._busy_beside(slot), slot.since))

    def _begins_early(self, slot: Slot, known: int) -> bool:
        """Whether all is there that the first token behind so many looks at."""
        return slot.begins <= max(0, position_of(known, slot.images) - self._window)

    def _busy_beside(self, slot: Slot) -> int:
        """How many of its neighbours are busy."""
        if not self._neighbours:
            return 0
        beside = self._slots[max(0, slot.number - 1) : slot.number + 2]
        return sum(other.sequence is not None for other in beside)


def common_prefix(one: Sequence[int], other: Sequence[int], block: int = 64) -> int:
    """How many tokens two lists have in common from their beginning."""
    end = min(len(one), len(other))
    start = 0
    while start < end and one[start : start + block] == other[start : start + block]:
        start += block
    if start >= end:
        return end
    for index in range(start, min(start + block, end)):
        if one[index] != other[index]:
            return index
    return end


def shares_of(remaining: Sequence[int], budget: int) -> list[int]:
    """How many tokens of each prompt are read in one step.

    The shortest ones come first, so that nobody waits behind a long prompt; a quarter is the oldest one's in any case,
    so that it does not wait for ever.

    Args:
        remaining: what is left of each prompt, in the order in which they came.
        budget: tokens of all of them together.
    """
    shares = [0] * len(remaining)
    if not remaining:
        return shares
    shares[0] = min(remaining[0], max(1, budget // 4))
    budget -= shares[0]
    for index in sorted(range(len(remaining)), key=lambda index: remaining[index] - shares[index]):
        more = min(remaining[index] - shares[index], budget)
        shares[index] += more
        budget -= more
    return shares
