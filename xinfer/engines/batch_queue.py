"""Which inputs of concurrent requests run together as one batch. Pure: no clock, no thread, no library."""

from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec

Owner = TypeVar("Owner", bound=Hashable)


class BatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds a batch. A single input that is longer than ``max_tokens`` runs alone."""

    max_tokens: int = 16384
    """Tokens with padding: the longest input times the number of inputs."""
    max_items: int = 256
    max_padding: float = 0.25
    """Inputs of very different lengths run apart rather than pad more than this share of a batch ..."""
    free_padding: int = 512
    """... unless the padding is no more than so many tokens, which costs less than another batch."""


class Piece(Generic[Owner]):
    """One prepared input of one request. Compared by identity."""

    __slots__ = ("index", "owner", "payload", "tokens")

    def __init__(self, owner: Owner, index: int, tokens: int, payload: Any) -> None:
        self.owner = owner
        self.index = index
        self.tokens = tokens
        self.payload = payload


class BatchQueue(Generic[Owner]):
    """Which inputs run next, together.

    Owners (requests) take turns. Each batch is led by the first input of the owner whose turn it is: with N owners
    waiting everybody gets ahead at least once in N batches, however much the others bring. The leader is joined by the
    inputs nearest to it in length, out of a window of one input of each owner per round, so that little is padded.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._lines: OrderedDict[Owner, deque[Piece[Owner]]] = OrderedDict()
        self._led_last: Owner | None = None
        self.tokens = 0
        """Tokens that wait."""

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, piece: Piece[Owner]) -> None:
        """Put a piece at the end of its owner's line."""
        line = self._lines.get(piece.owner)
        if line is None:
            self._lines[piece.owner] = deque((piece,))
        else:
            line.append(piece)
        self.tokens += piece.tokens

    def drop(self, owner: Owner) -> None:
        """Forget what an owner still has waiting, if anything."""
        for piece in self._lines.pop(owner, ()):
            self.tokens -= piece.tokens

    def next_batch(self) -> list[Piece[Owner]]:
        """Take the next batch out of the queue; empty when nothing waits."""
        if self._led_last is not None and self._led_last in self._lines:
            # Only now, so that whoever came while its batch ran is before it.
            self._lines.move_to_end(self._led_last)
        window = list(islice(self._in_turn(), 2 * self._limits.max_items))
        if not window:
            return []
        self._led_last = window[0].owner
        batch = self._that_fit(window)
        self._take(batch)
        return batch

    def _in_turn(self) -> Iterator[Piece[Owner]]:
        """The first piece of each owner, then the second of each, and so on."""
        lines = [iter(line) for line in self._lines.values()]
        while lines:
            going = []
            for line in lines:
                for piece in islice(line, 1):
                    going.append(line)
                    yield piece
            lines = going

    def _that_fit(self, window: list[Piece[Owner]]) -> list[Piece[Owner]]:
        """The leader (the window's first) and those nearest to it in length, as many as the limits allow."""
        leader, *others = window
        others.sort(key=lambda piece: abs(piece.tokens - leader.tokens))
        batch = [leader]
        longest = real = leader.tokens
        for piece in others:
            if len(batch) == self._limits.max_items:
                break
            longest_then = max(longest, piece.tokens)
            if self._allows(longest_then * (len(batch) + 1), real + piece.tokens):
                batch.append(piece)
                longest, real = longest_then, real + piece.tokens
        return batch

    def _allows(self, padded: int, real: int) -> bool:
        limits = self._limits
        return padded <= limits.max_tokens and padded - real <= max(limits.free_padding, limits.max_padding * padded)

    def _take(self, batch: list[Piece[Owner]]) -> None:
        taken = set(batch)
        for owner, count in Counter(piece.owner for piece in batch).items():
            line = self._lines[owner]
            if count == len(line):
                del self._lines[owner]
                continue
            window = [line.popleft() for _ in range(_reach(line, taken, count))]
            line.extendleft(piece for piece in reversed(window) if piece not in taken)
        self.tokens -= sum(piece.tokens for piece in batch)


def _reach(line: Iterable[Piece[Owner]], taken: set[Piece[Owner]], count: int) -> int:
    """How many pieces from the start of a line hold ``count`` taken ones."""
    places = (place for place, piece in enumerate(line, 1) if piece in taken)
    return next(islice(places, count - 1, None))
