"""What is written: weights and JSON files in the plain forms that every reader knows, and golden.json over all models.

The folders' JSON files are written by hand rather than by `save_pretrained`, whose output follows the versions of the
libraries: engines read these files with readers of their own, old and new, and know the form that models are shared in.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

GOLDEN_NAME = "golden.json"
MOST_BYTES = 6_000_000
"""How large all files may be together: they are part of the package."""


def write_json(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """Write a JSON file as people read it: indented, and with its letters as they are."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_weights(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write the weights of a model."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))


def read_golden(root: Path) -> dict[str, Any]:
    """Return the golden answers of all models that were made so far."""
    path = root / GOLDEN_NAME
    golden: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return golden


def write_golden(root: Path, model: str, content: Mapping[str, Any] | list[Any]) -> None:
    """Write the golden answers of one model beside those of the others.

    One entry a line: the file is long, and a difference is read line by line.
    """
    golden = {**read_golden(root), model: content}
    (root / GOLDEN_NAME).write_text(_lines(dict(sorted(golden.items()))) + "\n", encoding="utf-8")


def size_of(root: Path) -> int:
    """Return the bytes of all files under `root`."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def _lines(value: object, depth: int = 0) -> str:
    """Return JSON with one line for each golden entry: objects and lists are broken up at the outer levels only."""
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict) and depth < _BROKEN_UP:
        parts = [f"{inner}{json.dumps(key)}: {_lines(part, depth + 1)}" for key, part in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{outer}}}"
    if isinstance(value, list) and value and not isinstance(value[0], int) and depth <= _BROKEN_UP:
        parts = [inner + _lines(part, _BROKEN_UP + 1) for part in value]
        return "[\n" + ",\n".join(parts) + f"\n{outer}]"
    return json.dumps(value, ensure_ascii=False)


_BROKEN_UP = 2
