"""GGUF files made by hand: the smallest one, and toys with tensors, for environments without the gguf package."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ALIGNMENT = 32
_KINDS = {bool: (7, "<?"), int: (4, "<I"), np.int32: (5, "<i"), float: (6, "<f")}
"""By the type of a value, its number in the file and how it is packed."""


def smallest_gguf(architecture: str = "llama") -> bytes:
    """An architecture and no weights, for tests that need a model file and do not look inside."""
    return gguf_bytes({"general.architecture": architecture}, {})


def write_gguf_lora(
    path: Path,
    *,
    seed: int,
    shapes: Mapping[str, tuple[int, int]],
    architecture: str = "llama",
    rank: int = 4,
    strength: float = 0.5,
) -> Path:
    """Write a LoRA adapter of random weights.

    Args:
        path: of the file.
        seed: of the weights.
        shapes: for each tensor of the model that it changes, how many values go in and come out.
        architecture: of the model.
        rank: of all of them.
        strength: 0 changes nothing.
    """
    random = np.random.default_rng(seed)
    tensors = {}
    for name, (inner, outer) in shapes.items():
        tensors[f"{name}.lora_a"] = random.normal(0, 1, (rank, inner))
        tensors[f"{name}.lora_b"] = strength * random.normal(0, 1, (outer, rank))
    metadata = {
        "general.architecture": architecture,
        "general.type": "adapter",
        "general.base_model.0.name": "toy",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(rank),
    }
    path.write_bytes(gguf_bytes(metadata, tensors))
    return path


def gguf_bytes(metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> bytes:
    """A file with these values and float32 tensors."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(_text(key) + _value(value) for key, value in metadata.items())
    body = b""
    for name, values in tensors.items():
        shape = np.shape(values)[::-1]
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(body))
        body += _padded(np.asarray(values, np.float32).tobytes())
    return _padded(head) + body if tensors else head


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    kind, data = _packed(value)
    return struct.pack("<I", kind) + data


def _packed(value: Any) -> tuple[int, bytes]:
    """The number of a type, and a value of it."""
    if isinstance(value, str):
        return 8, _text(value)
    if isinstance(value, Sequence):
        items = [_packed(item) for item in value]
        return 9, struct.pack("<IQ", items[0][0], len(items)) + b"".join(data for _, data in items)
    kind, layout = _KINDS[type(value)]
    return kind, struct.pack(layout, value)
