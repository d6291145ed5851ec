"""BERT, RoBERTa and XLM-RoBERTa encoders in plain torch, on packed tokens.

All tokens of a batch stand one after the other without padding, so the linear layers, where nearly all the work is,
compute nothing for padding; only attention sees padded rows. Importing the same models from transformers takes three
seconds and 200 MB, this file nothing beyond torch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from xinfer.engines.sentence_transformers.folder import EncoderPlan, NotNative

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


class Linear(NamedTuple):
    """A linear layer."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        return functional.linear(x, self.weight, self.bias)


class Norm(NamedTuple):
    """A layer norm."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Layer(NamedTuple):
    """One transformer layer; queries, keys and values come from one matrix."""

    query_key_value: Linear
    attended: Linear
    attention_norm: Norm
    widen: Linear
    narrow: Linear
    output_norm: Norm


class Weights:
    """The tensors of a checkpoint, by name. Every name has to be used, so that nothing in a file is ignored."""

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> None:
        self._tensors = dict(tensors)
        self._device = device
        self._dtype = dtype

    def take(self, name: str) -> Tensor:
        """A tensor in the dtype and on the device of the model.

        Raises:
            NotNative: there is no such tensor.
        """
        try:
            return self._tensors.pop(name).to(device=self._device, dtype=self._dtype)
        except KeyError:
            raise NotNative(f"its weights have no {name}") from None

    def linear(self, name: str) -> Linear:
        """A linear layer with a bias."""
        return Linear(self.take(f"{name}.weight"), self.take(f"{name}.bias"))

    def norm(self, name: str, eps: float) -> Norm:
        """A layer norm."""
        return Norm(self.take(f"{name}.weight"), self.take(f"{name}.bias"), eps)

    def finish(self, unused: Sequence[str]) -> None:
        """Check that only tensors whose names start with one of ``unused`` are left.

        Raises:
            NotNative: the checkpoint has a tensor that we do not know.
        """
        for name in self._tensors:
            if not name.startswith(tuple(unused)):
                raise NotNative(f"its weights have an unknown {name}")


class Batch(NamedTuple):
    """Sequences of token ids, packed."""

    ids: Tensor
    """All tokens, one sequence after the other."""
    positions: Tensor
    """The place of each token in its sequence."""
    types: Tensor | None
    """The type of each token; ``None``: all 0."""
    starts: Tensor
    """Where each sequence starts in ``ids``."""
    lengths: Tensor
    unpack: Tensor | None
    """For each place of the padded rows the packed token that stands there; ``None``: no row is padded."""
    pack: Tensor | None
    """For each packed token its place in the padded rows."""
    mask: Tensor | None
    """Which places of the padded rows hold tokens: rows x 1 x 1 x places."""

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None, device: torch.device) -> "Batch":
        """Pack sequences."""
        lengths = torch.tensor([len(row) for row in ids])
        longest = int(lengths.max())
        ends = lengths.cumsum(0)
        starts = ends - lengths
        places = torch.arange(longest)
        mask = places < lengths[:, None]
        flat = torch.tensor([token for row in ids for token in row])
        flat_types = None if types is None else torch.tensor([kind for row in types for kind in row])
        padded = len(ids) * longest != len(flat)
        parts = (
            flat,
            places.expand(len(ids), longest)[mask] if padded else places.repeat(len(ids)),
            flat_types,
            starts,
            lengths,
            (starts[:, None] + places.minimum(lengths[:, None] - 1)).view(-1) if padded else None,
            mask.view(-1).nonzero().view(-1) if padded else None,
            mask[:, None, None, :] if padded else None,
        )
        if device.type == "cpu":
            return cls(*parts)
        return cls(*(None if part is None else part.to(device, non_blocking=True) for part in parts))


class Encoder:
    """A BERT-like encoder: batches in, the packed vectors of all tokens out."""

    def __init__(self, plan: EncoderPlan, weights: Weights, prefix: str) -> None:
        self._heads = plan.heads
        self._activation = _ACTIVATIONS[plan.activation]
        self._words = weights.take(f"{prefix}embeddings.word_embeddings.weight")
        self._types = weights.take(f"{prefix}embeddings.token_type_embeddings.weight")
        positions = weights.take(f"{prefix}embeddings.position_embeddings.weight")
        # Nearly all tokens are of type 0: with its vector in the table of positions that costs nothing.
        self._positions = positions[plan.position_offset :] + self._types[0]
        self._type_steps = self._types - self._types[0]
        self._norm = weights.norm(f"{prefix}embeddings.LayerNorm", plan.norm_eps)
        self._layers = [
            _layer(weights, f"{prefix}encoder.layer.{index}", plan.norm_eps) for index in range(plan.layers)
        ]

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        return int(self._words.shape[0])

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._words.dtype

    @property
    def hidden(self) -> int:
        """The size of a token's vector."""
        return int(self._words.shape[1])

    def __call__(self, batch: Batch) -> Tensor:
        """The last layer's vectors: tokens x hidden."""
        x = functional.embedding(batch.ids, self._words) + functional.embedding(batch.positions, self._positions)
        if batch.types is not None:
            x += functional.embedding(batch.types, self._type_steps)
        x = self._norm(x)
        for layer in self._layers:
            x = layer.attention_norm(layer.attended(self._attention(layer.query_key_value(x), batch)) + x)
            x = layer.output_norm(layer.narrow(self._activation(layer.widen(x))) + x)
        return x

    def _attention(self, query_key_value: Tensor, batch: Batch) -> Tensor:
        rows = len(batch.lengths)
        if batch.unpack is not None:
            query_key_value = query_key_value.index_select(0, batch.unpack)
        split = query_key_value.view(rows, -1, 3, self._heads, self.hidden // self._heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=batch.mask)
        flat = attended.transpose(1, 2).reshape(-1, self.hidden)
        return flat if batch.pack is None else flat.index_select(0, batch.pack)


def _layer(weights: Weights, name: str, eps: float) -> Layer:
    query, key, value = (weights.linear(f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
    joined = Linear(
        torch.cat([query.weight, key.weight, value.weight]),
        torch.cat([weights_.bias for weights_ in (query, key, value) if weights_.bias is not None]),
    )
    return Layer(
        query_key_value=joined,
        attended=weights.linear(f"{name}.attention.output.dense"),
        attention_norm=weights.norm(f"{name}.attention.output.LayerNorm", eps),
        widen=weights.linear(f"{name}.intermediate.dense"),
        narrow=weights.linear(f"{name}.output.dense"),
        output_norm=weights.norm(f"{name}.output.LayerNorm", eps),
    )
