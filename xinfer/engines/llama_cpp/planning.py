"""How the granted memory is divided: layers on accelerators, sequences, and the context of each. Pure."""

from collections.abc import Mapping, Sequence

import msgspec

from xinfer.devices import Budget
from xinfer.engines.llama_cpp.options import CacheType, LlamaCppOptions
from xinfer.errors import LoadFailed

MIB = 1024 * 1024
WORKSPACE_MIB = 256
"""What the library and the work of one step take beside weights and cache, and on a CPU what Python does."""
LEAST_CACHE_MIB = 64
"""A lease that is smaller than it should be still gets so much cache: the enforcer of the lease decides, not we."""
UNLEASED_CACHE_MIB = 2048
"""The cache without a lease, at most."""
SEQUENCES = 16
"""How many sequences run at once where nobody says; more make every one of them slower and the batch little faster."""
LEAST_CONTEXT = 4096
"""Rather fewer sequences than less context for each, where nobody says."""
LEAST_TOKENS = 16
"""No sequence is of use with less."""
CONTEXT_STEP = 256
"""The library rounds contexts up to a multiple."""

_BYTES_PER_32: Mapping[CacheType, int] = {
    "f32": 128,
    "f16": 64,
    "bf16": 64,
    "q8_0": 34,
    "q5_1": 24,
    "q5_0": 22,
    "q4_1": 20,
    "q4_0": 18,
    "iq4_nl": 18,
}
"""Quantized numbers come in blocks of 32."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's file says about its size."""

    layers: int
    key_width: int
    """Numbers of one token's keys in one layer."""
    value_width: int
    trained_context: int
    weight_bytes: int

    def token_bytes(self, options: LlamaCppOptions) -> int:
        """What one token takes in the cache, in all layers."""
        keys = self.key_width * _BYTES_PER_32[options.key_type]
        values = self.value_width * _BYTES_PER_32[options.value_type]
        return max(1, self.layers * (keys + values) // 32)


class CachePlan(msgspec.Struct, frozen=True, kw_only=True):
    """How the cache is divided; in tokens. ``context``: of each sequence; ``tokens``: of the whole cache."""

    sequences: int
    context: int
    tokens: int


def padded(context: int) -> int:
    """What a sequence of so many tokens takes in the cache."""
    return -(-context // CONTEXT_STEP) * CONTEXT_STEP


def cache_plan(shape: Shape, options: LlamaCppOptions, cache_mib: int) -> CachePlan:
    """Divide the cache.

    Args:
        shape: of the model.
        options: what was asked for.
        cache_mib: the memory for it.

    Raises:
        LoadFailed: what was asked for does not fit; says what it would take.
    """
    room = cache_mib * MIB // shape.token_bytes(options)
    asked = options.sequence_tokens
    if asked is None and shape.trained_context < 1:
        raise LoadFailed("the file does not say how long a context the model was made for: give max_model_len")
    if asked is not None and asked > shape.trained_context > 0 and not options.rope_scaling_type:
        raise LoadFailed(
            f"a context of {asked} tokens was asked for, and the model was made for {shape.trained_context}; "
            "give rope_scaling_type as well to go beyond"
        )
    longest = asked or shape.trained_context
    _check_room(options)
    total = options.n_ctx or room
    plan = _shared(longest, options, total) if options.kv_unified else _divided(longest, options, total)
    needed = plan.tokens * shape.token_bytes(options) // MIB
    if plan.context < (asked or 1) or needed > max(cache_mib, LEAST_CACHE_MIB):
        raise LoadFailed(
            f"{plan.sequences} sequences of {max(plan.context, asked or CONTEXT_STEP)} tokens take {needed} MiB of "
            f"cache, and the memory that was granted leaves {cache_mib} MiB for it; give it more, or lower n_ctx or "
            "n_parallel"
        )
    return plan


def _check_room(options: LlamaCppOptions) -> None:
    """Whether the sequences that were asked for have room in the cache that was asked for."""
    if not options.n_ctx:
        return
    together = 1 if options.kv_unified else options.sequences or 1
    each = options.sequence_tokens or LEAST_TOKENS
    if together * each > options.n_ctx:
        raise LoadFailed(
            f"n_ctx={options.n_ctx} has no room for {together} sequences of {each} tokens: raise it, or ask for fewer "
            "(n_parallel) or shorter ones (max_model_len)"
        )


def _divided(longest: int, options: LlamaCppOptions, total: int) -> CachePlan:
    """Every sequence has a part for itself."""
    least = options.sequence_tokens or min(longest, LEAST_CONTEXT)
    sequences = options.sequences or min(SEQUENCES, max(1, total // padded(least)))
    share = total // sequences
    if not options.n_ctx:
        share = share // CONTEXT_STEP * CONTEXT_STEP  # what the library rounds up has to fit, too
    context = options.sequence_tokens or min(longest, share)
    return CachePlan(sequences=sequences, context=context, tokens=sequences * padded(context))


def _shared(longest: int, options: LlamaCppOptions, total: int) -> CachePlan:
    """All of them use the same."""
    sequences = options.sequences or SEQUENCES
    tokens = min(total, sequences * padded(longest)) // CONTEXT_STEP * CONTEXT_STEP
    return CachePlan(sequences=sequences, context=min(longest, tokens), tokens=tokens)


def cache_budget(shape: Shape, granted_mib: int | None, on_device: float = 1.0) -> int:
    """MiB for the cache: what the lease leaves beside the weights.

    Args:
        shape: of the model.
        granted_mib: of the lease; ``None``: there is none.
        on_device: the share (0..1) of weights and cache that is on the leased devices; the rest is in main memory.
    """
    if granted_mib is None or not on_device:
        return UNLEASED_CACHE_MIB
    left = granted_mib - WORKSPACE_MIB - on_device * shape.weight_bytes / MIB
    return max(int(left / on_device), LEAST_CACHE_MIB)


class Offload(msgspec.Struct, frozen=True, kw_only=True):
    """What goes to accelerators. ``layers`` counts the output as one; ``split``: the share of each device."""

    layers: int
    split: tuple[float, ...] = ()


def offload(shape: Shape, options: LlamaCppOptions, budgets: Sequence[Budget]) -> Offload:
    """How many layers go to accelerators: all that fit, each with its part of the cache.

    Args:
        shape: of the model.
        options: what was asked for.
        budgets: what may be used of each accelerator.
    """
    split = options.shares or (tuple(float(budget.memory_mib) for budget in budgets) if len(budgets) > 1 else ())
    asked = options.n_gpu_layers
    everything = shape.layers + 1
    if isinstance(asked, int) and asked >= 0:
        return Offload(layers=asked, split=split)
    if asked in (-1, "all"):
        return Offload(layers=everything, split=split)
    room = sum(max(0, budget.memory_mib - WORKSPACE_MIB) for budget in budgets) * MIB
    cache = (options.n_ctx or LEAST_CONTEXT * (options.sequences or 1)) * shape.token_bytes(options)
    on_device = cache if options.offload_kqv else 0
    per_layer = (shape.weight_bytes + on_device) / everything
    return Offload(layers=min(everything, int(room / max(per_layer, 1))), split=split)
