"""The images in one prompt, as the runner reads them: what goes into which pass, and how positions are counted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch


class Span(NamedTuple):
    """The tokens of one image: from its first placeholder to behind its last."""

    start: int
    stop: int


class Window(NamedTuple):
    """What a pass over a part of a prompt needs beside the tokens."""

    rotary: torch.Tensor | None
    """Positions for the rotation, [axes, 1, tokens]; None: those in the cache."""
    inputs: Mapping[str, Any]
    """What the processor made of the image that begins here; empty: none does."""
    blocks: torch.Tensor | None
    """The number of the image that each token belongs to, [positions read], -1: none. Tokens of one image see each
    other, also those behind them. None: nothing of that kind."""


class Pictures:
    """Belongs to one prompt, and is not changed.

    Args:
        spans: of the images, in order.
        inputs: for each of them, what the model wants beside the tokens.
        rotary: positions of the whole prompt for the rotation, [axes, 1, tokens], where they are not those in the
            cache.
        shift: what is added to positions behind the prompt for the rotation.
        blocks: see ``Window``, of the whole prompt.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        inputs: Sequence[Mapping[str, Any]],
        *,
        rotary: torch.Tensor | None = None,
        shift: int = 0,
        blocks: torch.Tensor | None = None,
    ) -> None:
        self.spans = tuple(spans)
        self.shift = shift
        self._inputs = tuple(inputs)
        self._rotary = rotary
        self._blocks = blocks

    def size_of_pass(self, filled: int, wanted: int) -> int:
        """How many of the wanted tokens are read next: an image whole and by itself, or the text before the next one.

        Args:
            filled: tokens read so far.
            wanted: tokens that a pass may read; an image is read even if it has more.
        """
        for start, stop in self.spans:
            if filled == start:
                return stop - start
            if filled < start:
                return min(wanted, start - filled)
        return wanted

    def whole_from(self, filled: int) -> int:
        """Where reading may begin that would begin at ``filled``: not in the middle of an image."""
        return next((start for start, stop in self.spans if start < filled < stop), filled)

    def window(self, filled: int, size: int, device: torch.device) -> Window:
        """What the pass over ``size`` tokens from ``filled`` on needs."""
        index = next((number for number, span in enumerate(self.spans) if span.start == filled), None)
        inputs = {} if index is None else {name: _moved(value, device) for name, value in self._inputs[index].items()}
        blocks = self._blocks if index is not None else None
        return Window(
            None if self._rotary is None else self._rotary_of(filled, size).to(device),
            inputs,
            None if blocks is None else blocks[: filled + size].to(device),
        )

    def _rotary_of(self, filled: int, size: int) -> torch.Tensor:
        assert self._rotary is not None
        known = self._rotary[..., filled : filled + size]
        behind = size - known.shape[-1]
        if not behind:
            return known
        # What was generated before the sequence lost its row.
        first = filled + known.shape[-1] + self.shift
        later = torch.arange(first, first + behind).expand(*known.shape[:-1], behind)
        return torch.cat([known, later], -1)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
