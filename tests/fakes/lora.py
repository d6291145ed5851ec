"""Toy LoRA adapters, made by hand: they turn what a model says into something else, visibly and always the same way."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

DEMO_MODULES = {"self_attn.o_proj": (512, 128), "mlp.down_proj": (384, 128)}
"""Of demo-chat: how many values go in and come out."""


def write_lora(
    folder: Path,
    *,
    seed: int,
    rank: int = 4,
    layers: Sequence[int] = (0, 1, 2),
    modules: Mapping[str, tuple[int, int]] = DEMO_MODULES,
    strength: float = 0.5,
    base: str = "demo-chat",
) -> Path:
    """Write an adapter of random weights; ``strength`` 0 changes nothing."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in layers:
        for module, (inner, outer) in modules.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = random.normal(0, 1, (rank, inner)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = (strength * random.normal(0, 1, (outer, rank))).astype(np.float32)
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
