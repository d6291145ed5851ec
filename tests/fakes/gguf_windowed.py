"""A toy GGUF model with a sliding window in its layers, with random weights."""

from pathlib import Path

import numpy as np
from fakes.gguf_file import gguf_bytes
from fakes.gguf_vision import WIDTH, byte_tokenizer

WINDOW = 32
"""Tokens that its layers look back."""
INNER, LAYERS, HEADS = 128, 3, 2


def write_gemma3(path: Path, *, broken_token: int | None = None) -> Path:
    """A tiny Gemma 3; tokens are bytes. ``broken_token``: one whose weights are no numbers."""
    sizes = {
        "context_length": 1024,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": HEADS,
        "attention.key_length": WIDTH // HEADS,
        "attention.value_length": WIDTH // HEADS,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": WINDOW,
        "rope.freq_base": 10000.0,
    }
    metadata = {f"gemma3.{name}": value for name, value in sizes.items()} | byte_tokenizer()
    random = np.random.default_rng(5)
    words = len(metadata["tokenizer.ggml.tokens"])
    tensors = {"token_embd.weight": random.normal(0, 0.08, (words, WIDTH)), "output_norm.weight": np.ones(WIDTH)}
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
    shapes |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
    norms = dict.fromkeys(("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"), WIDTH)
    norms |= dict.fromkeys(("attn_q_norm", "attn_k_norm"), WIDTH // HEADS)
    for layer in range(LAYERS):
        tensors |= {f"blk.{layer}.{name}.weight": random.normal(0, 0.4, shape) for name, shape in shapes.items()}
        tensors |= {f"blk.{layer}.{name}.weight": np.ones(size) for name, size in norms.items()}
    if broken_token is not None:
        tensors["output.weight"] = tensors["token_embd.weight"].copy()
        tensors["token_embd.weight"][broken_token] = np.nan
    path.write_bytes(gguf_bytes({"general.architecture": "gemma3", **metadata}, tensors))
    return path
