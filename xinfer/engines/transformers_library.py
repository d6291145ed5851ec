"""What the installed transformers library knows, told without importing it."""

import functools
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

MODEL_TYPE = re.compile(r'^\s*\("([^"]+)",', re.MULTILINE)
"""A line of the library's tables of model types."""
LONGROPE, DYNAMIC = "longrope", "dynamic"
"""Rotations that depend on the length; of the second there are several."""


@functools.cache
def known_model_types() -> frozenset[str]:
    """Every ``model_type`` that it has classes for; empty: it is not installed here."""
    found = importlib.util.find_spec("transformers")
    if found is None or not found.submodule_search_locations:
        return frozenset()
    tables = (Path(folder) / "models" / "auto" for folder in found.submodule_search_locations)
    texts = (file.read_text(encoding="utf-8") for folder in tables for file in sorted(folder.glob("*auto*.py")))
    return frozenset(name for text in texts for name in MODEL_TYPE.findall(text))


def cache_argument(model: Any) -> str:
    """What a model of the library calls the cache that it is given: since 5.24 it is no longer past_key_values."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def rotates_by_length(module: Any) -> bool:
    """Whether a module of the library scales positions by how long the longest input of a batch is."""
    return _is_by_length(getattr(module, "rope_type", None))


def _is_by_length(way: Any) -> bool:
    if isinstance(way, dict):  # of several kinds of layers
        return any(_is_by_length(one) for one in way.values())
    return isinstance(way, str) and (way == LONGROPE or DYNAMIC in way)
