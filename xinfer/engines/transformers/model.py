"""A causal language model of the library, run on rows of the slot cache."""

from collections.abc import Sequence
from typing import Any

import torch

from xinfer.engines.transformers.cache import SlotCache
from xinfer.engines.transformers.lora import AdapterBatch
from xinfer.engines.transformers.native import NativeDecoder
from xinfer.engines.transformers.pictures import Window
from xinfer.engines.transformers.rotation import LengthRotation
from xinfer.engines.transformers_library import cache_argument

_BLOCK = 1024


class SlotModel:
    """Forward passes with masks and positions of our own.

    Args:
        model: a model that was told to use ``attention.slot_attention``.
        context_length: positions above it are never used, not even for padding.
    """

    def __init__(self, model: Any, context_length: int) -> None:
        config = model.config.get_text_config()
        self.device: torch.device = model.device
        self.vocabulary_size = int(model.get_input_embeddings().weight.shape[0])
        self.cache = SlotCache(config.num_hidden_layers)
        self.model = model
        self._cache_argument = cache_argument(model)
        self.native: NativeDecoder | None = None
        """Computes what ``model`` does, for less; ``None``: the model runs itself."""
        self.rotation = LengthRotation.of_model(model)
        """``None``: tokens are rotated by their place alone."""
        self._dtype: torch.dtype = model.dtype
        self._context_length = context_length
        kinds = set(getattr(config, "layer_types", None) or ())
        window = getattr(config, "sliding_window", None)
        if not getattr(config, "use_sliding_window", True) or (kinds and "sliding_attention" not in kinds):
            window = None
        self._window: int | None = window
        self._kinds = kinds if window else set()
        """Kinds of layers that need different masks; empty: one mask for all."""
        self._index = torch.arange(_BLOCK, device=self.device)

    def run(
        self,
        rows: slice,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        length: int,
        *,
        plain: bool,
        keep: int | torch.Tensor,
        adapters: AdapterBatch | None = None,
        seen: Window | None = None,
        lengths: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Read tokens into the cache, and return logits, [rows, kept tokens, vocabulary].

        Args:
            rows: which rows of the cache.
            tokens: ids, [rows, new tokens].
            positions: where they go, of the same shape.
            length: how many positions are looked at.
            plain: a new token sees all positions before it in this view, so no mask is needed.
            keep: which new tokens to give logits for: the last so many (0: all), or their indices.
            adapters: of these rows; only a native model has any.
            seen: what images add to this pass; those of one row at most, except for the rotation.
            lengths: tokens of each row, those not read yet included; needed where there is a ``rotation``.
        """
        self.cache.focus(rows, positions, length)
        blocks = None if seen is None else seen.blocks
        masks = self._masks(positions, length, plain=plain and blocks is None, blocks=blocks)
        if self.native is not None:
            return self.native.run(tokens, positions, masks, self.cache, keep, adapters=adapters)
        if self.rotation is not None:
            self.rotation.lengths = lengths
        rotary = positions if seen is None or seen.rotary is None else seen.rotary
        output = self.model(
            input_ids=tokens,
            attention_mask=masks,
            position_ids=rotary.clamp(max=self._context_length - 1),
            use_cache=True,
            logits_to_keep=keep,
            **{self._cache_argument: self.cache},
            **({} if seen is None else seen.inputs),
        )
        logits: torch.Tensor = output.logits
        return logits

    def run_without_cache(self, tokens: torch.Tensor) -> torch.Tensor:
        """The library's logits of all tokens, [rows, tokens, vocabulary], read at once and then forgotten."""
        size = tokens.shape[1]
        positions = torch.arange(size, device=self.device).expand(tokens.shape)
        masks = self._masks(positions, size, plain=False)
        if self.rotation is not None:
            self.rotation.lengths = None
        logits: torch.Tensor = self.model(
            input_ids=tokens, attention_mask=masks, position_ids=positions, use_cache=False
        ).logits
        return logits

    def _masks(self, positions: torch.Tensor, length: int, *, plain: bool, blocks: torch.Tensor | None = None) -> Any:
        if self._window is None or length <= self._window:
            full = None if plain else self._mask(positions, length, None, blocks)
            return dict.fromkeys(self._kinds, full) if self._kinds else full
        sliding = self._mask(positions, length, self._window, blocks)
        if not self._kinds:
            return sliding
        full = None if plain else self._mask(positions, length, None, blocks)
        return {kind: sliding if kind == "sliding_attention" else full for kind in self._kinds}

    def _mask(
        self, positions: torch.Tensor, length: int, window: int | None, blocks: torch.Tensor | None
    ) -> torch.Tensor:
        """What is added to the scores: nothing where a token may look, minus infinity elsewhere."""
        while self._index.shape[0] < length:
            self._index = torch.arange(2 * self._index.shape[0], device=self.device)
        index = self._index[:length]
        own = positions[:, :, None]
        hidden = index > own
        if blocks is not None:
            block = blocks[positions][:, :, None]
            hidden &= (block != blocks) | (block < 0)
        if window is not None:
            hidden |= index <= own - window
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self.device)
        return mask.masked_fill_(hidden, float("-inf"))[:, None]
