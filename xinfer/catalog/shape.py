"""From what a model's files say about it to its ModelShape: a config.json of Hugging Face, or GGUF metadata.

Every library names the same few numbers differently; each table here lists the names of one number, the most usual
first. What no file says is what the library's own configuration class would assume.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from xinfer.catalog.gguf import GgufFile
from xinfer.catalog.weights import Tensors
from xinfer.spec import ModelShape

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
INTERMEDIATE = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "hidden_dim", "decoder_ffn_dim")
EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk")
FEED_FORWARD_FACTOR = 4
"""A feed-forward part is so many times as wide as the model, where nothing else is said."""

SLIDING_PATTERN = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3_text": 6,
    "cohere2": 4,
    "gpt_oss": 2,
    "gpt-oss": 2,
    "llama4": 4,
    "llama4_text": 4,
}
"""Model types in which every layer but each n-th one slides, also where their files do not say so."""
ALL_SLIDE = frozenset({"mistral", "mixtral", "phi3", "phimoe", "starcoder2"})
"""Model types in which all layers slide as soon as there is a window. Of others that would be a guess, and too low."""
ASSUMED: Mapping[str, Mapping[str, int]] = {
    "gemma2": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096},
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
    },
}
"""By model type, what the configuration classes of the library say. Published files leave these out."""


class _Layers(NamedTuple):
    """How many layers keep all keys and values, and how many those of a window."""

    full: int
    sliding: int


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config.json that is about the language model, with what its files leave to the library."""
    nested = config.get("text_config")
    own = nested if isinstance(nested, dict) else config
    assumed = ASSUMED.get(str(own.get("model_type", "")), {})
    return {**assumed, **{key: value for key, value in own.items() if value is not None or key not in assumed}}


def shape_of_config(config: Mapping[str, Any], tensors: Tensors) -> ModelShape:
    """The shape of a model in the Hugging Face layout."""
    text = text_config(config)
    hidden, heads = _first(text, HIDDEN), _first(text, HEADS)
    head_dim = _first(text, ("head_dim", "attention_head_dim")) or (hidden // heads if heads else 0)
    latent, rope = _first(text, ("kv_lora_rank",)), _first(text, ("qk_rope_head_dim",))
    layers = _first(text, LAYERS)
    window = _first(text, ("sliding_window", "attention_chunk_size"))
    kinds = _layers_of_config(text, layers, window)
    return ModelShape(
        layers=layers,
        attention_layers=kinds.full,
        sliding_layers=kinds.sliding,
        window=window if kinds.sliding else 0,
        hidden=hidden,
        intermediate=_intermediate(text, hidden),
        heads=heads,
        kv_heads=heads if latent else _first(text, KV_HEADS) or (1 if text.get("multi_query") is True else heads),
        head_dim=(_first(text, ("qk_nope_head_dim",)) + rope) if latent else head_dim,
        value_dim=_first(text, ("v_head_dim",)) or head_dim,
        kv_lora_rank=latent,
        qk_rope_head_dim=rope if latent else 0,
        vocabulary=_first(text, ("vocab_size",)) or _first(config, ("vocab_size",)),
        embedding_tables=1 if text.get("tie_word_embeddings", config.get("tie_word_embeddings")) is True else 2,
        parameters=tensors.parameters,
        dtype=_dtype(text) or _dtype(config),
        weight_bytes=tensors.bytes_by_type,
    )


def shape_of_gguf(file: GgufFile) -> ModelShape:
    """The shape of the model in a GGUF file."""
    hidden, heads, layers = (file.number(key) for key in ("embedding_length", "attention.head_count", "block_count"))
    key_dim = file.number("attention.key_length") or (hidden // heads if heads else 0)
    latent = file.number("attention.kv_lora_rank")
    window = file.number("attention.sliding_window")
    kinds = _layers_of_gguf(file, layers, window)
    sizes: dict[str, int] = {}
    for tensor in file.tensors:
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.size
    experts = file.number("expert_used_count") * file.number("expert_feed_forward_length")
    vocabulary = file.metadata.get("tokenizer.ggml.tokens", 0)  # a long array is kept as its length
    return ModelShape(
        layers=layers,
        attention_layers=kinds.full,
        sliding_layers=kinds.sliding,
        window=window if kinds.sliding else 0,
        hidden=hidden,
        intermediate=max(file.number("feed_forward_length"), experts),
        heads=heads,
        kv_heads=heads if latent else file.number("attention.head_count_kv") or heads,
        head_dim=file.number("attention.key_length_mla") or key_dim,
        value_dim=file.number("attention.value_length_mla") or file.number("attention.value_length") or key_dim,
        kv_lora_rank=latent,
        qk_rope_head_dim=file.number("rope.dimension_count") if latent else 0,
        vocabulary=file.number("vocab_size") or (vocabulary if isinstance(vocabulary, int) else 0),
        parameters=sum(tensor.parameters for tensor in file.tensors),
        weight_bytes=sizes,
    )


def _layers_of_config(text: Mapping[str, Any], layers: int, window: int) -> _Layers:
    kinds = text.get("layer_types") or text.get("layers_block_type")
    if isinstance(kinds, list):
        found = _counted([str(kind) for kind in kinds], layers, window)
    else:
        attending = _attending(text, layers)
        sliding = _sliding(text, attending) if window else 0
        found = _Layers(attending - sliding, sliding)
    # The last ones of some models (Gemma 3n) read the keys and values of layers before them.
    shared = min(_first(text, ("num_kv_shared_layers",)), layers)
    if not shared or not layers:
        return found
    return _Layers(*(round(count * (layers - shared) / layers) for count in found))


def _counted(kinds: Sequence[str], layers: int, window: int) -> _Layers:
    kinds = kinds[:layers] if layers else kinds
    sliding = sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds) if window else 0
    attending = sum(("attention" in kind and "linear" not in kind) or kind == "hybrid" for kind in kinds)
    return _Layers(attending - sliding, sliding)


def _attending(text: Mapping[str, Any], layers: int) -> int:
    """How many layers attend to tokens of the past one by one; in hybrids the others keep a state of fixed size."""
    pattern, indices = text.get("hybrid_override_pattern"), text.get("attn_layer_indices")
    if isinstance(pattern, str):
        return pattern.count("*")
    if isinstance(indices, list):
        return len(indices)
    if interval := _first(text, ("full_attention_interval",)):
        return layers // interval
    if period := _first(text, ("attn_layer_period",)):
        return len(range(_first(text, ("attn_layer_offset",)), layers, period))
    if _first(text, ("state_size", "ssm_state_size")) and not _first(text, HEADS):
        return 0
    return layers


def _sliding(text: Mapping[str, Any], layers: int) -> int:
    if text.get("use_sliding_window") is False:
        return 0
    model_type, letters = str(text.get("model_type", "")), text.get("sliding_window_pattern")
    if isinstance(letters, str) and letters:  # "LLLG": local, local, local, global
        return sum(letters[layer % len(letters)] == "L" for layer in range(layers))
    if pattern := _first(text, ("sliding_window_pattern",)) or SLIDING_PATTERN.get(model_type, 0):
        return layers - layers // pattern
    if text.get("use_sliding_window") is True:
        return max(0, layers - _first(text, ("max_window_layers",)))
    return layers if model_type in ALL_SLIDE else 0


def _layers_of_gguf(file: GgufFile, layers: int, window: int) -> _Layers:
    per_layer = file.own("attention.head_count_kv")
    if isinstance(per_layer, tuple):
        attending = sum(bool(heads) for heads in per_layer)
    else:
        interval = file.number("full_attention_interval")
        attending = layers // interval if interval else 0 if file.own("ssm.state_size") and per_layer == 0 else layers
    if not window:
        return _Layers(attending, 0)
    pattern = file.own("attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        sliding = min(attending, sum(bool(slides) for slides in pattern))
    else:
        every = int(pattern) if isinstance(pattern, int) and pattern > 0 else SLIDING_PATTERN.get(file.architecture)
        sliding = attending - attending // every if every else 0  # llama.cpp slides where it knows a pattern
    return _Layers(attending - sliding, sliding)


def _intermediate(text: Mapping[str, Any], hidden: int) -> int:
    dense = _first(text, INTERMEDIATE)
    per_token = _first(text, EXPERTS)
    expert = _first(text, ("moe_intermediate_size",)) or (dense if per_token else 0)
    shared = _first(text, ("shared_expert_intermediate_size",)) or expert * _first(text, ("n_shared_experts",))
    return max(dense, expert * per_token + shared) or FEED_FORWARD_FACTOR * hidden


def _dtype(config: Mapping[str, Any]) -> str:
    return str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")


def _first(config: Mapping[str, Any], names: Iterable[str]) -> int:
    """The first of these that is a number above 0; else 0."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**53:
            return int(value)
    return 0
