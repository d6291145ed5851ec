"""Which tensors GGUF files have, as the library reads them. Its Python package has no functions for that."""

import ctypes
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llama_cpp._ggml import libggml

PART = re.compile(r"(.*)-00001-of-(\d{5})\.gguf")
"""The name of the first file of a model that is split."""

NOT_THERE = -1


class _ReadingParams(ctypes.Structure):
    """``gguf_init_params``; by default the tensors themselves are left where they are."""

    _fields_ = [("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p)]


def parts_of(path: Path) -> list[Path]:
    """The files of a model, of which ``path`` is the first."""
    first = PART.fullmatch(path.name)
    return [path] if first is None else sorted(path.parent.glob(f"{first[1]}-*-of-{first[2]}.gguf"))


def has_tensor(path: Path, names: Collection[str]) -> bool:
    """Whether a model has one of these tensors.

    Args:
        path: its file, the first one of a model that is split.
        names: of the tensors, as the file writes them.
    """
    return any(_is_in(part, names) for part in parts_of(path))


def _is_in(file: Path, names: Collection[str]) -> bool:
    header = _function("gguf_init_from_file", ctypes.c_void_p, ctypes.c_char_p, _ReadingParams)(
        os.fsencode(file), _ReadingParams(no_alloc=True)
    )
    if not header:
        return False
    find = _function("gguf_find_tensor", ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p)
    try:
        return any(find(header, name.encode()) != NOT_THERE for name in names)
    finally:
        _function("gguf_free", None, ctypes.c_void_p)(header)


def _function(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(result, *arguments)((name, libggml))
