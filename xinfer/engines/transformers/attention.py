"""Attention over the rows of the slot cache, as a function that models of the library can be told to use."""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from xinfer.errors import LoadFailed

IMPLEMENTATION = "xinfer_slots"

_UNKNOWN = ("position_bias", "sinks")
"""Arguments that change the result, and that this function does not know."""


def register() -> None:
    """Make it known to the library. It brings no mask function: the runner's masks reach it as they are."""
    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, slot_attention)


def slot_attention(
    module: torch.nn.Module,  # noqa: ARG001 - the library's interface
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """``grouped_attention`` with what some models add to it.

    Args:
        module: the attention layer.
        query: [rows, heads, new tokens, size].
        key: [rows, key heads, positions, size].
        value: as ``key``.
        attention_mask: what is added to the scores, [rows, 1, new tokens, positions].
        kwargs: ``scaling`` of the scores, and what else models pass.

    Raises:
        LoadFailed: the model's attention has a feature that this function lacks.
    """
    for name in _UNKNOWN:
        if kwargs.get(name) is not None:
            raise LoadFailed(f"the model's attention uses {name!r}, which this engine does not support")
    scaling: float | None = kwargs.get("scaling")
    softcap, sinks = kwargs.get("softcap"), kwargs.get("s_aux")
    if softcap is not None or sinks is not None:
        scaling = scaling or query.shape[3] ** -0.5
        out = _explicit_attention(query, key, value, attention_mask, scaling=scaling, softcap=softcap, sinks=sinks)
        return out.transpose(1, 2), None
    return grouped_attention(query, key, value, attention_mask, scaling), None


def grouped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None = None,
) -> torch.Tensor:
    """Attention with grouped heads, without repeating keys and values, [rows, new tokens, heads, size].

    Query heads that share a key head become further positions of one head; they all read the same keys. Without a mask
    a single new token sees everything, and several see what is before them. The arguments are as in
    ``slot_attention``; the default of ``scaling`` is one over the root of a head's size.
    """
    rows, heads, tokens, size = query.shape
    groups = heads // key.shape[1]
    if tokens > 1 and mask is None:
        out = scaled_dot_product_attention(query, key, value, scale=scaling, is_causal=True, enable_gqa=groups > 1)
        return out.transpose(1, 2)
    if groups > 1:
        query = query.reshape(rows, key.shape[1], groups * tokens, size)
        if mask is not None and tokens > 1:
            mask = mask.repeat(1, 1, groups, 1)
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, heads, tokens, value.shape[3]).transpose(1, 2)


def _explicit_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Step by step, for what the fused kernels cannot: capped scores (Gemma 2), and attention sinks (gpt-oss)."""
    rows, heads, tokens, _ = query.shape
    groups = heads // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    elif tokens > 1:
        scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), float("-inf"))
    if sinks is not None:  # one more place to look at for every head, which holds nothing
        scores = torch.cat([scores, sinks.view(1, heads, 1, 1).expand(rows, heads, tokens, 1)], -1)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return weights[..., : key.shape[2]] @ value
