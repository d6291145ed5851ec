"""Keys and values of all running sequences: a row each, without gaps, so that a step reads views and copies nothing."""

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from xinfer.engines.transformers.shape import CacheShape


class SlotCache(Cache):  # type: ignore[misc]  # the library has no types
    """A cache whose layers write at a position of its own for every row.

    Before a forward pass, ``focus`` says which rows it is about and where their new tokens go.
    """

    def __init__(self, layers: int) -> None:
        self._window = _Window()
        super().__init__(layers=[_SlotLayer(self._window) for _ in range(layers)])
        self.shape = CacheShape(0, 0)

    def focus(self, rows: slice, positions: torch.Tensor, length: int) -> None:
        """Set up the next forward pass.

        Args:
            rows: the rows that it reads and writes, one for each row of its input.
            positions: where each new token goes, [rows, new tokens].
            length: how many positions are read.
        """
        window = self._window
        window.rows = rows
        window.row_index = torch.arange(rows.start, rows.stop, device=positions.device)[:, None]
        window.positions = positions
        window.length = length

    @property
    def focused_length(self) -> int:
        """Positions read by the next forward pass."""
        return self._window.length

    def resize(self, shape: CacheShape) -> None:
        """Give every layer this many rows and positions; what fits is kept."""
        self.shape = self._window.shape = shape
        for layer in self.layers:
            layer.resize(shape)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a row to another one."""
        for layer in self.layers:
            layer.copy_row(source, target, length)

    def clear_row(self, row: int) -> None:
        """Forget all that a row holds."""
        for layer in self.layers:
            layer.clear_row(row)

    def position_bytes(self) -> int:
        """Bytes per token over all layers; known after the first forward pass."""
        return sum(layer.position_bytes() for layer in self.layers)


class _Window:
    """What the layers share: the part of the cache that the next forward pass is about."""

    rows: slice
    row_index: torch.Tensor
    positions: torch.Tensor
    length: int = 0
    shape = CacheShape(0, 0)


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # the library has no types
    """Not initialized, it is one that reads what another layer wrote, and has nothing of its own."""

    is_sliding = False

    def __init__(self, window: _Window) -> None:
        super().__init__()
        self._window = window

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Heads, sizes and types are known once the model shows them."""
        self.keys = self._empty(key_states, self._window.shape)
        self.values = self._empty(value_states, self._window.shape)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values, [rows, heads, tokens, size], and return all of these rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self._window
        place = (window.row_index, slice(None), window.positions)
        self.keys[place] = key_states.transpose(1, 2)
        self.values[place] = value_states.transpose(1, 2)
        return self.keys[window.rows, :, : window.length], self.values[window.rows, :, : window.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 - the library's interface
        """Length and offset for masks; the runner brings its own."""
        return self._window.length, 0

    def get_seq_length(self) -> int:
        """Positions read by this pass."""
        return self._window.length

    def get_max_length(self) -> int:
        """No bound of its own."""
        return -1

    def resize(self, shape: CacheShape) -> None:
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            setattr(self, name, None)
            new = self._empty(old, shape)
            rows, length = min(old.shape[0], shape.rows), min(old.shape[2], shape.length)
            new[:rows, :, :length] = old[:rows, :, :length]
            setattr(self, name, new)

    def copy_row(self, source: int, target: int, length: int) -> None:
        if not self.is_initialized:
            return
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def clear_row(self, row: int) -> None:
        if self.is_initialized:
            self.keys[row] = self.values[row] = 0

    def position_bytes(self) -> int:
        if not self.is_initialized:
            return 0
        return sum(part.shape[1] * part.shape[3] * part.element_size() for part in (self.keys, self.values))

    @staticmethod
    def _empty(like: torch.Tensor, shape: CacheShape) -> torch.Tensor:
        # Zeros, not rubbish: masked positions have weight zero, and zero times NaN would be NaN.
        return like.new_zeros((shape.rows, like.shape[1], shape.length, like.shape[3]))
