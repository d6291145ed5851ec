"""Toy GGUF models that see, with random weights: a language model and, beside it, the file that reads images for it."""

from pathlib import Path
from typing import Any

import numpy as np
from fakes.gguf_file import gguf_bytes

VISION = {"width": 32, "heads": 2, "inner": 64, "layers": 2, "patch": 14, "image": 56}
SPECIAL = ["<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}"
    "{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}\n{% endfor %}assistant: "
)
WIDTH, INNER, LAYERS = 64, 128, 2
"""Of the language models."""


def write_llava(folder: Path) -> Path:
    """A tiny Llama with an encoder like LLaVA's: images are squares, with one token for each patch."""
    random = np.random.default_rng(1)
    patches = (VISION["image"] // VISION["patch"]) ** 2
    projector = {
        "v.position_embd.weight": random.normal(0, 0.5, (patches, VISION["width"])),
        "mm.0.weight": random.normal(0, 0.4, (WIDTH, VISION["width"])),
        "mm.0.bias": random.normal(0, 0.1, WIDTH),
        "mm.2.weight": random.normal(0, 0.4, (WIDTH, WIDTH)),
        "mm.2.bias": random.normal(0, 0.1, WIDTH),
    }
    _write_projector(folder, "mlp", _encoder(seed=2) | projector)
    return _write_language_model(folder, "llama", {"rope.dimension_count": WIDTH // 2})


def write_qwen2vl(folder: Path) -> Path:
    """A tiny Qwen2-VL: many tokens of an image share a position (M-RoPE), and images are of any shape."""
    random = np.random.default_rng(3)
    merged = 4 * VISION["width"]
    projector = {
        "v.patch_embd.weight.1": random.normal(0, 0.1, (VISION["width"], 3, VISION["patch"], VISION["patch"])),
        "v.post_ln.weight": np.ones(VISION["width"]),
        "v.post_ln.bias": np.zeros(VISION["width"]),
        "mm.0.weight": random.normal(0, 0.2, (merged, merged)),
        "mm.0.bias": np.zeros(merged),
        "mm.2.weight": random.normal(0, 0.3, (WIDTH, merged)),
        "mm.2.bias": np.zeros(WIDTH),
    }
    _write_projector(folder, "qwen2vl_merger", _encoder(seed=4) | projector)
    sections = [np.int32(size) for size in (4, 6, 6, 0)]
    return _write_language_model(folder, "qwen2vl", {"rope.dimension_sections": sections})


def _write_language_model(folder: Path, architecture: str, own: dict[str, Any]) -> Path:
    sizes = {
        "context_length": 1024,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": INNER,
        "attention.head_count": 2,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10000.0,
        **own,
    }
    metadata = {f"{architecture}.{name}": value for name, value in sizes.items()} | byte_tokenizer()
    random = np.random.default_rng(5)
    words = len(metadata["tokenizer.ggml.tokens"])
    tensors = {"token_embd.weight": random.normal(0, 0.5, (words, WIDTH)), "output_norm.weight": np.ones(WIDTH)}
    for layer in range(LAYERS):
        shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
        shapes |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
        tensors |= {f"blk.{layer}.{name}.weight": random.normal(0, 0.4, shape) for name, shape in shapes.items()}
        tensors |= {f"blk.{layer}.{name}.weight": np.ones(WIDTH) for name in ("attn_norm", "ffn_norm")}
        if architecture == "qwen2vl":
            tensors |= {f"blk.{layer}.{name}.bias": np.zeros(WIDTH) for name in ("attn_q", "attn_k", "attn_v")}
    file = folder / "tiny.gguf"
    file.write_bytes(gguf_bytes({"general.architecture": architecture, **metadata}, tensors))
    return file


def _encoder(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    width, inner = VISION["width"], VISION["inner"]
    tensors = {"v.patch_embd.weight": random.normal(0, 0.1, (width, 3, VISION["patch"], VISION["patch"]))}
    for layer in range(VISION["layers"]):
        shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (width, width))
        shapes |= {"ffn_up": (inner, width), "ffn_down": (width, inner)}
        for name, shape in shapes.items():
            tensors[f"v.blk.{layer}.{name}.weight"] = random.normal(0, 0.3, shape)
            tensors[f"v.blk.{layer}.{name}.bias"] = np.zeros(shape[0])
        for name in ("ln1", "ln2"):
            tensors[f"v.blk.{layer}.{name}.weight"] = np.ones(width)
            tensors[f"v.blk.{layer}.{name}.bias"] = np.zeros(width)
    return tensors


def _write_projector(folder: Path, kind: str, tensors: dict[str, Any]) -> None:
    sizes = {
        "embedding_length": VISION["width"],
        "feed_forward_length": VISION["inner"],
        "block_count": VISION["layers"],
        "projection_dim": WIDTH,
        "attention.head_count": VISION["heads"],
        "attention.layer_norm_epsilon": 1e-5,
        "image_size": VISION["image"],
        "patch_size": VISION["patch"],
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
    metadata = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": kind,
        "clip.use_gelu": True,
        **{f"clip.vision.{name}": value for name, value in sizes.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mmproj-tiny.gguf").write_bytes(gguf_bytes(metadata, tensors))


def byte_tokenizer() -> dict[str, Any]:
    """Every byte is a token, written as GPT-2 writes it; special ones come last."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + n) for n, byte in enumerate(others)}}
    tokens = [*(letters[byte] for byte in range(256)), "th", *SPECIAL]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [np.int32(1)] * 257 + [np.int32(3)] * len(SPECIAL),
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }
