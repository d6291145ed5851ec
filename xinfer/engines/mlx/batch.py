"""The states of running sequences (keys and values, or whatever a layer keeps), in mlx-lm's own caches."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

States = list[Any]
"""One cache of mlx-lm for each layer."""


def fresh(model: Any) -> States:
    """The states of one sequence that has not begun."""
    found: States = make_prompt_cache(model)
    return found


def merged(sequences: Sequence[States]) -> States:
    """The states of several sequences as the rows of one batch; copies them."""
    return [layers[0].merge(layers) for layers in zip(*sequences, strict=True)]


def read_together(model: Any, prompts: Sequence[Sequence[int]], padding: int = 0) -> States:
    """Read several prompts from their beginnings, padded on their right; their states as the rows of one batch.

    Args:
        model: of mlx-lm.
        prompts: token ids; there may be prompts without any.
        padding: the token that fills them up.
    """
    size = max(map(len, prompts))
    if any(len(prompt) < size for prompt in prompts):
        size = max(size, 2)  # caches of a window take single tokens for the continuation, which has no padding
    missing = [size - len(prompt) for prompt in prompts]
    states = merged([fresh(model) for _ in prompts])
    if any(missing):
        for layer in states:
            layer.prepare(lengths=[len(prompt) for prompt in prompts], right_padding=missing)
    if size:  # else each has one token only, which the first step reads
        padded = [[*prompt, *[padding] * count] for prompt, count in zip(prompts, missing, strict=True)]
        model(mx.array(padded), cache=states)
    if any(missing):
        for layer in states:
            layer.finalize()
    return states


def merges(model: Any) -> bool:
    """Whether all the caches of a model know batches."""
    return all(hasattr(layer, "merge") for layer in fresh(model))


def evaluate(states: States) -> None:
    """Compute what is in them. Logits that nobody asked for are left uncomputed."""
    mx.eval([layer.state for layer in states])


class Batch:
    """The rows that are being continued."""

    def __init__(self) -> None:
        self.states: States = []

    def join(self, rows: States) -> None:
        """Append rows."""
        if not self.states:
            self.states = rows
            return
        for own, new in zip(self.states, rows, strict=True):
            own.extend(new)

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        if not rows:
            self.states = []
            return
        for layer in self.states:
            layer.filter(rows)
