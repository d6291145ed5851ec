"""Whether a model has what the engine serves, as its ``config.json`` says."""

import json
from pathlib import Path
from typing import Any

from xinfer.ops import Kind

CAUSAL = ("ForCausalLM", "LMHeadModel")
"""Ends of the names of architectures that continue text."""
ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers whose state is keys and values of past tokens, and nothing else."""


def unfit(config: dict[str, Any], kind: Kind = Kind.LLM) -> str:
    """Why a model with this ``config.json`` cannot be served here; empty when it can, as far as the file says."""
    sees = kind is Kind.VISION_LANGUAGE
    text = {**config, **(config.get("text_config") or {})}
    if text.get("is_encoder_decoder"):
        return "it is an encoder-decoder model; this engine serves decoder-only ones"
    architectures = config.get("architectures") or []
    suffixes = (*CAUSAL, "ForConditionalGeneration") if sees else CAUSAL
    if architectures and not any(name.endswith(suffixes) for name in architectures):
        return f"its architecture {architectures[0]} is no causal language model"
    if text.get("cross_attention_layers"):
        return "it looks at images in layers of their own, rather than among the tokens"
    other = sorted(set(text.get("layer_types") or ()) - ATTENTION_LAYERS)
    if other:
        return f"it has layers of the kind {other[0]}, whose state is not a cache of keys and values"
    return ""


def read_config(folder: Path) -> dict[str, Any]:
    """Its ``config.json``; empty where there is none to read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the catalog judges folders; a hub id is looked at once it is downloaded
    return config if isinstance(config, dict) else {}
