"""A forward pass of our own for plain decoders: Llama, Mistral, Qwen2 and Qwen3.

It computes what the library's classes compute, with fewer and larger operations. At few rows a step of the library is
mostly overhead of small operations, which this leaves out.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xinfer.engines.transformers.attention import grouped_attention
from xinfer.engines.transformers.cache import SlotCache
from xinfer.engines.transformers.lora import AdapterBatch

_FAMILIES = {f"transformers.models.{name}.modeling_{name}" for name in ("llama", "mistral", "qwen2", "qwen3")}
_ROTATIONS = 256
"""The table of rotations starts with so many positions, and grows by doubling."""


def unsuited(model: Any) -> str:
    """Why ``NativeDecoder`` cannot compute what this model of the library computes; empty when it can."""
    config = model.config
    if type(model).__module__ not in _FAMILIES or not type(model).__name__.endswith("ForCausalLM"):
        return f"{type(model).__name__} is none of the architectures that it knows"
    rotation = (config.rope_parameters or {}).get("rope_type")
    rotated = 2 * len(model.model.rotary_emb.inv_freq)
    faults = {
        f"its activation is {config.hidden_act}": config.hidden_act != "silu",
        f"its positions are scaled ({rotation})": rotation != "default",
        "only a part of its heads is rotated": rotated != model.model.layers[0].self_attn.head_dim,
        "its attention has a sliding window": getattr(config, "sliding_window", None) is not None,
        "its layers differ": bool(set(getattr(config, "layer_types", None) or ()) - {"full_attention"}),
        "its weights are quantized, adapted, or of several types": not _is_plain(model),
    }
    return next((reason for reason, found in faults.items() if found), "")


def _is_plain(model: Any) -> bool:
    """Whether every projection is a plain matrix, and all weights are of one type on one device."""
    linears = [part for name, part in model.named_modules() if name.endswith(("_proj", "lm_head"))]
    kinds = {(type(part), part.dtype, part.device) for part in model.parameters()}
    quantized = getattr(model, "hf_quantizer", None) is not None
    return not quantized and len(kinds) == 1 and all(type(part) is nn.Linear for part in linears)


@dataclass(frozen=True, slots=True)
class _Linear:
    """One matrix, [outputs, inputs], which may be several of the library's on top of each other."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual`` plus the result, in one operation; both have two dimensions."""
        if self.bias is not None:
            residual = residual + self.bias
        return torch.addmm(residual, x, self.weight.t())


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: Tensor
    queries_keys_values: _Linear
    head_norm: Tensor | None
    """Scales of normalized queries and keys, [heads + key heads, size]; ``None``: they are not normalized."""
    attention_out: _Linear
    mlp_norm: Tensor
    gate_up: _Linear
    down: _Linear


class NativeDecoder:
    """Runs a model for which ``unsuited`` has no reason.

    The weights are the model's own: those that are multiplied together are moved into one tensor, and the model's
    parameters become views of it. So the model still works, and nothing is held twice.

    Args:
        model: the library's model.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        self._heads: int = config.num_attention_heads
        self._key_heads: int = config.num_key_value_heads
        self._head_size: int = model.model.layers[0].self_attn.head_dim
        self._epsilon: float = config.rms_norm_eps
        self._embeddings: Tensor = model.model.embed_tokens.weight.detach()
        with torch.no_grad():
            self._layers = [self._read_layer(layer) for layer in model.model.layers]
        self._norm: Tensor = model.model.norm.weight.detach()
        self._head = _fused(model.lm_head)
        self._frequencies: Tensor = model.model.rotary_emb.inv_freq.float()
        self._cosines, self._sines = self._rotations(_ROTATIONS)

    def _read_layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        head_norm = None
        if hasattr(attention, "q_norm"):
            scales = (
                attention.q_norm.weight.expand(self._heads, -1),
                attention.k_norm.weight.expand(self._key_heads, -1),
            )
            head_norm = torch.cat(scales)
        return _Layer(
            attention_norm=layer.input_layernorm.weight.detach(),
            queries_keys_values=_fused(attention.q_proj, attention.k_proj, attention.v_proj),
            head_norm=head_norm,
            attention_out=_fused(attention.o_proj),
            mlp_norm=layer.post_attention_layernorm.weight.detach(),
            gate_up=_fused(mlp.gate_proj, mlp.up_proj),
            down=_fused(mlp.down_proj),
        )

    def run(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: SlotCache,
        keep: int | Tensor,
        *,
        adapters: AdapterBatch | None = None,
    ) -> Tensor:
        """Read tokens into the part of the cache that is focused, and return logits, [rows, kept tokens, vocabulary].

        Args:
            tokens: ids, [rows, new tokens].
            positions: where they go, of the same shape.
            mask: what is added to the scores of attention, [rows, 1, new tokens, positions]; ``None``: every token
                sees what is before it.
            cache: keys and values.
            keep: which new tokens to give logits for: the last so many (0: all), or their indices.
            adapters: which rows have which; ``None``: none has.
        """
        rows, count = tokens.shape
        x = functional.embedding(tokens.flatten(), self._embeddings)
        cosines, sines = self._rotations_at(positions, cache.focused_length)
        for index, layer in enumerate(self._layers):
            normed = self._normalized(x, layer.attention_norm)
            projected = layer.queries_keys_values(normed)
            if adapters is not None:
                adapters.add((index, "queries_keys_values"), normed, projected)
            queries, keys, values = self._split(layer, projected, cosines, sines)
            keys, values = cache.layers[index].update(keys, values)
            seen = grouped_attention(queries, keys, values, mask).reshape(rows * count, -1)
            x = layer.attention_out.added_to(x, seen)
            if adapters is not None:
                adapters.add((index, "attention_out"), seen, x)
            x = self._fed_forward(index, x, adapters)
        x = x.view(rows, count, -1)
        kept = x[:, -keep:] if isinstance(keep, int) else x[:, keep]
        return self._head(self._normalized(kept, self._norm))

    def _fed_forward(self, index: int, x: Tensor, adapters: AdapterBatch | None) -> Tensor:
        """``x`` plus what the second half of a layer makes of it."""
        layer = self._layers[index]
        normed = self._normalized(x, layer.mlp_norm)
        both = layer.gate_up(normed)
        if adapters is not None:
            adapters.add((index, "gate_up"), normed, both)
        gate, up = both.chunk(2, -1)
        inner = functional.silu(gate).mul_(up)
        x = layer.down.added_to(x, inner)
        if adapters is not None:
            adapters.add((index, "down"), inner, x)
        return x

    def _split(self, layer: _Layer, projected: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [rows, heads, new tokens, size], the first two rotated to their positions."""
        turned = self._heads + self._key_heads
        projected = projected.view(*cosines.shape[:2], turned + self._key_heads, self._head_size)
        heads = projected[:, :, :turned]
        if layer.head_norm is not None:
            heads = self._normalized(heads, None) * layer.head_norm
        first, second = heads.chunk(2, -1)
        heads = torch.addcmul(heads * cosines, torch.cat((second, first), -1), sines).transpose(1, 2)
        return heads[:, : self._heads], heads[:, self._heads :], projected[:, :, turned:].transpose(1, 2)

    def _normalized(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, self._epsilon)

    def _rotations_at(self, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions below ``length``, each [rows, new tokens, 1, size]."""
        if length > len(self._cosines):
            self._cosines, self._sines = self._rotations(max(length, 2 * len(self._cosines)))
        return self._cosines[positions][:, :, None], self._sines[positions][:, :, None]

    def _rotations(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines for the first positions. The sines of a head's first half are negative."""
        index = torch.arange(length, device=self._frequencies.device)
        angles = torch.outer(index.float(), self._frequencies)
        cosines, sines = angles.cos(), angles.sin()
        dtype = self._embeddings.dtype
        return torch.cat((cosines, cosines), -1).to(dtype), torch.cat((-sines, sines), -1).to(dtype)


def _fused(*linears: nn.Linear) -> _Linear:
    """Layers that read the same input as one; the parameters of each become views of its tensors."""
    biases = [linear.bias for linear in linears if linear.bias is not None]
    bias = _joined(biases) if biases else None
    return _Linear(_joined([linear.weight for linear in linears]), bias)


def _joined(parameters: list[nn.Parameter]) -> Tensor:
    if len(parameters) == 1:
        return parameters[0].detach()
    joined = torch.cat([parameter.data for parameter in parameters])
    for parameter, view in zip(parameters, joined.split([len(part) for part in parameters]), strict=True):
        parameter.data = view
    return joined
