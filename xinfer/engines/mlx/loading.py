"""Reading a model: import the library, read weights and tokenizer, and find out what fits."""

import logging
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.utils import load_model as read_model

from xinfer.devices import Grant
from xinfer.engines.base import Progress
from xinfer.engines.mlx.batch import States, evaluate, fresh, merges
from xinfer.engines.mlx.options import MlxOptions
from xinfer.engines.mlx.runner import BatchLimits, BatchRunner
from xinfer.engines.mlx.trial import batches, pads
from xinfer.engines.token_engine import Limits, LoadedModel
from xinfer.engines.token_engine.model_folder import recommended_sampling, stop_ids
from xinfer.engines.transformers.tokenizer import FastTokenizer
from xinfer.errors import LoadFailed
from xinfer.generation.chat_template import load_chat_template
from xinfer.generation.marks import shown_marks
from xinfer.spec import ModelSpec

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
PROCESS_MIB = 400
"""What Python and mlx take beside weights and cache, with the work of one step."""
LEAST_POSITIONS = 256
"""Of a cache: with fewer tokens nobody is served."""
LONGEST_REASON = 400
"""Characters of what the library says that are shown."""
FREE_BUFFERS_MIB = 128
"""Memory that mlx keeps for later instead of giving it back."""


def load_model(spec: ModelSpec, options: MlxOptions, grant: Grant, progress: Progress) -> LoadedModel:
    """Read a model and make it ready. Works in any thread.

    Raises:
        LoadFailed: the model cannot be served by this engine, or does not fit; says why.
        Exception: whatever the library raises while it reads the files.
    """
    folder = Path(spec.source)
    if grant.lease.slices:
        mx.set_memory_limit(grant.lease.slices[0].memory_mib * MIB)
    mx.set_cache_limit(FREE_BUFFERS_MIB * MIB)
    progress("reading weights", 0.2)
    try:
        model, config = read_model(folder, lazy=True, trust_remote_code=options.trust_remote_code)
    except ValueError as error:  # which parameters are missing, for instance, over many lines
        raise LoadFailed(" ".join(str(error).split())[:LONGEST_REASON]) from error
    _set_dtype(model, config, options.dtype)
    mx.eval(model.parameters())
    progress("warming up", 0.8)
    vocabulary_size, states = _first_step(model)
    context = _context_length(spec, options, config)
    limits = _limits(model, states, options, grant, context)
    template = load_chat_template(folder)
    tokenizer = FastTokenizer(folder, vocabulary_size, shown_marks(template.source if template else ""))
    return LoadedModel(
        runner=BatchRunner(model, limits, options.prefill_chunk),
        tokenizer=tokenizer,
        control_tokens=tokenizer.control_tokens,
        template=template,
        limits=Limits(
            context_length=min(context, limits.positions),
            vocabulary_size=vocabulary_size,
            stop_ids=stop_ids(folder, tokenizer.id_of),
            defaults=recommended_sampling(folder),
        ),
    )


def _set_dtype(model: Any, config: dict[str, Any], wanted: str) -> None:
    if wanted == "auto":
        if mx.default_device() != mx.Device(mx.cpu) or config.get("quantization"):
            return
        wanted = "float32"
    model.set_dtype(getattr(mx, wanted))


def _first_step(model: Any) -> tuple[int, States]:
    """Let the model read one token: how many tokens it knows, and what its caches look like then."""
    states = fresh(model)
    logits = model(mx.array([[0]]), cache=states)
    evaluate(states)
    if not bool(mx.isfinite(logits).all()):
        raise LoadFailed(f"{type(model).__module__} computes numbers that are not finite; try another dtype")
    return int(logits.shape[-1]), states


def _context_length(spec: ModelSpec, options: MlxOptions, config: dict[str, Any]) -> int:
    made_for = int(spec.context_length or config.get("max_position_embeddings") or 2048)
    if options.max_model_len is not None and options.max_model_len > made_for:
        raise LoadFailed(
            f"a context of {options.max_model_len} tokens was asked for, and the model was made for {made_for}"
        )
    return options.max_model_len or made_for


def _limits(model: Any, states: States, options: MlxOptions, grant: Grant, context: int) -> BatchLimits:
    """How many tokens may run at once: what the lease leaves beside the weights."""
    positions = options.max_num_seqs * context
    per_position = sum(_position_bytes(layer) for layer in states)
    if grant.lease.slices and per_position:
        granted = grant.lease.slices[0].memory_mib
        weights = sum(array.nbytes for _, array in _arrays(model))
        # A cache that grows, and rows that join others, are copied: for a moment both are there.
        room = (granted - PROCESS_MIB - FREE_BUFFERS_MIB - weights // MIB) // 2
        positions = min(positions, max(0, room) * MIB // per_position)
    if positions < min(context, LEAST_POSITIONS):
        raise LoadFailed(
            f"the memory that was granted leaves room for {positions} tokens, which is less than {LEAST_POSITIONS}; "
            "give it more MiB"
        )
    if not merges(model) or not batches(model):
        logger.warning("%s computes one sequence at a time: requests wait for each other", type(model).__module__)
        return BatchLimits(max_rows=1, positions=positions, pads=False)
    return BatchLimits(max_rows=options.max_num_seqs, positions=positions, pads=pads(model))


def _position_bytes(layer: Any) -> int:
    """What one token takes in the cache of a layer; 0 where that does not grow with tokens."""
    keys = getattr(layer, "keys", None)
    return int(layer.nbytes) // int(keys.shape[2]) if isinstance(keys, mx.array) else 0


def _arrays(model: Any) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten  # noqa: PLC0415

    found: list[tuple[str, mx.array]] = tree_flatten(model.parameters())
    return found
