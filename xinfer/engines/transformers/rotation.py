"""Rotations that depend on how long a sequence is: LongRoPE, and dynamic NTK scaling.

The library's classes decide by the last position of the whole batch, so that a long sequence would change what its
neighbours say. Here every row is rotated by its own length.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xinfer.engines.transformers_library import LONGROPE, rotates_by_length
from xinfer.errors import LoadFailed


class LengthRotation:
    """Takes the place of the forward pass in one rotary embedding of the library, which still computes everything.

    Args:
        module: the embedding; ``of_model`` finds it.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._forward = module.forward
        way = module.rope_type
        self._is_switched = way == LONGROPE
        self._threshold = int(
            module.config.rope_parameters["original_max_position_embeddings"]
            if self._is_switched
            else module.original_max_seq_len
        )
        """Sequences of up to so many tokens are rotated as the model was made."""
        self.lengths: Sequence[int] | None = None
        """Tokens of each row of the next pass, those not read yet included; None: as many as the pass looks at."""
        module.forward = self._rotate

    @classmethod
    def of_model(cls, model: Any) -> "LengthRotation | None":
        """For a model whose rotation depends on the length; None: it does not.

        Raises:
            LoadFailed: it does so in several ways, or in one that is not the library's own.
        """
        found = [part for part in model.modules() if rotates_by_length(part)]
        if len(found) > 1 or not all(hasattr(part, "original_inv_freq") for part in found):
            raise LoadFailed(
                "it scales positions by the length of a text, in a way of its own or in several, which this engine "
                "does not support"
            )
        return cls(found[0]) if found else None

    def changes(self, before: int, after: int) -> bool:
        """Whether what a sequence of ``before`` tokens has in the cache is wrong once it has ``after`` tokens."""
        return self._is_switched and before <= self._threshold < after

    def _rotate(self, x: Tensor, position_ids: Tensor, **kwargs: Any) -> Any:
        lengths = self.lengths
        if lengths is None:
            return self._as_long_as(x, position_ids, int(position_ids.max()) + 1, **kwargs)
        members: dict[int, list[int]] = {}
        for row, length in enumerate(lengths):
            members.setdefault(self._kind(length), []).append(row)
        if len(members) == 1:
            return self._as_long_as(x, position_ids, max(lengths), **kwargs)
        parts = [
            self._as_long_as(x, position_ids[..., rows, :], max(lengths[row] for row in rows), **kwargs)
            for rows in members.values()
        ]
        order = torch.tensor([row for rows in members.values() for row in rows], device=x.device).argsort()
        if isinstance(parts[0], Tensor):
            return torch.cat(parts, -3).index_select(-3, order)
        return tuple(torch.cat(same, -3).index_select(-3, order) for same in zip(*parts, strict=True))

    def _kind(self, length: int) -> int:
        """Equal for lengths that are rotated the same way."""
        if length <= self._threshold:
            return 0
        return 1 if self._is_switched else length

    def _as_long_as(self, x: Tensor, positions: Tensor, length: int, **kwargs: Any) -> Any:
        """What the library does in a sequence of this length: it is shown one more position, the last one."""
        module = self._module
        if not self._is_switched:  # the longest of all so far is what the library remembers
            module.max_seq_len_cached, module.inv_freq = module.original_max_seq_len, module.original_inv_freq
        last = positions.new_full((*positions.shape[:-1], 1), length - 1)
        found = self._forward(x, torch.cat([positions.clamp(max=length - 1), last], -1), **kwargs)
        if isinstance(found, Tensor):
            return found[..., :-1, :]
        return tuple(part[..., :-1, :] for part in found)
