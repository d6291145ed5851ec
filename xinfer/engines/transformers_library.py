"""What the installed transformers library knows, told without importing it."""

import functools
import importlib.util
import re
from pathlib import Path

MODEL_TYPE = re.compile(r'^\s*\("([^"]+)",', re.MULTILINE)
"""A line of the library's tables of model types."""


@functools.cache
def known_model_types() -> frozenset[str]:
    """Every ``model_type`` that it has classes for; empty: it is not installed here."""
    found = importlib.util.find_spec("transformers")
    if found is None or not found.submodule_search_locations:
        return frozenset()
    tables = (Path(folder) / "models" / "auto" for folder in found.submodule_search_locations)
    texts = (file.read_text(encoding="utf-8") for folder in tables for file in sorted(folder.glob("*auto*.py")))
    return frozenset(name for text in texts for name in MODEL_TYPE.findall(text))
