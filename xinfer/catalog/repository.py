"""Which files of a repository a model needs."""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from xinfer.catalog.gguf import PART
from xinfer.errors import InvalidRequest
from xinfer.spec import Format

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED = re.compile(r"(?:.*/)?pytorch_model(?:-\d+-of-\d+)?\.bin")
PICKLED_INDEX, PICKLED_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
SMALL_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py", ".yaml")
"""Configuration, tokenizers, templates and code."""
MODULE = re.compile(r"\d+_\w+")
"""A folder with a part of a sentence-transformers model."""
PIPELINE = "model_index.json"
"""Marks the layout of diffusers: each folder is a part of the model."""
MANY = 12
"""Of names that a message lists."""


class RemoteFile(msgspec.Struct, frozen=True):
    """A file as its hub lists it. ``path`` is relative to the repository, ``size`` in bytes."""

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""
    """Of small files, Hugging Face knows the hash that git gives them instead."""

    @property
    def blob(self) -> str:
        """Names its content: the same on every hub that gives the same hash."""
        return self.sha256 or self.git_sha1

    @property
    def is_safe(self) -> bool:
        """Its path stays in the folder that it is put in, and its content is named."""
        path = PurePosixPath(self.path)
        inside = not path.is_absolute() and ".." not in path.parts and str(path) == self.path and "\\" not in self.path
        return inside and self.size >= 0 and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", self.blob) is not None


def unsafe(files: Iterable[RemoteFile]) -> str:
    """What is wrong with files that a hub lists; empty: nothing."""
    wrong = [repr(file.path) for file in files if not file.is_safe]
    return f"{', '.join(wrong[:MANY])}: not inside the repository, or without a hash" if wrong else ""


def index_of(files: Iterable[RemoteFile], weights_format: Format) -> RemoteFile | None:
    """The file that has to be read before ``needed`` can choose; None: there is none."""
    name = {Format.SAFETENSORS: INDEX, Format.MLX: INDEX, Format.PICKLE: PICKLED_INDEX}.get(weights_format)
    return next((file for file in files if file.path == name), None)


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


def indexed_weights(folder: Path, index: RemoteFile | None) -> frozenset[str] | None:
    """The weights that the index in a folder names; None: there is no index.

    Raises:
        InvalidRequest: it is none.
    """
    if index is None:
        return None
    try:
        return frozenset(msgspec.json.decode((folder / index.path).read_bytes(), type=_Index).weight_map.values())
    except (msgspec.MsgspecError, OSError) as error:
        raise InvalidRequest(f"{index.path} is no index of weights: {error}", param="model_path") from error


def needed(
    files: Sequence[RemoteFile], weights_format: Format, pattern: str = "", indexed: frozenset[str] | None = None
) -> list[RemoteFile]:
    """What is to be downloaded, small files first. ``indexed``: the weights that the index names, if there is one.

    Raises:
        InvalidRequest: the repository has no such weights, or several sets of them; says what there is.
    """
    if weights_format is Format.GGUF:
        return _gguf(files, pattern)
    pickled = weights_format is Format.PICKLE
    weights = [file for file in files if (PICKLED.fullmatch if pickled else _is_safetensors)(file.path)]
    if pattern:
        chosen = [file for file in weights if fnmatch.fnmatchcase(file.path, pattern)]
    elif any(file.path == PIPELINE for file in files):
        chosen = [file for file in weights if "/" in file.path]
    else:
        chosen = _main(weights, indexed) + [file for file in weights if MODULE.fullmatch(_folder(file))]
    if not chosen:
        raise _none_such(files, weights_format, pattern)
    small = [file for file in files if file.path.endswith(SMALL_SUFFIXES) and _is_part(file, chosen)]
    return sorted(small, key=_by_size) + sorted(chosen, key=_by_path)


def _is_safetensors(path: str) -> bool:
    return path.endswith(".safetensors")


def _main(weights: list[RemoteFile], indexed: frozenset[str] | None) -> list[RemoteFile]:
    root = [file for file in weights if "/" not in file.path]
    if indexed is None:
        return [file for file in root if file.path in (SINGLE, PICKLED_SINGLE)] or root
    missing = indexed - {file.path for file in weights}
    if missing:
        raise InvalidRequest(
            f"the repository is not complete: its index names {', '.join(sorted(missing)[:MANY])}, and it has no such "
            "file",
            param="model_path",
        )
    return [file for file in weights if file.path in indexed]


def _gguf(files: Sequence[RemoteFile], pattern: str) -> list[RemoteFile]:
    found = [file for file in files if file.path.endswith(".gguf") and fnmatch.fnmatchcase(file.path, pattern or "*")]
    sets = {_set_of(file) for file in found}
    if not found:
        raise _none_such(files, Format.GGUF, pattern)
    if len(sets) > 1:
        raise InvalidRequest(
            f"the repository has several models: {', '.join(sorted(sets)[:MANY])}; name one by its quantization, or by "
            "a pattern: hf:OWNER/NAME#*Q4_K_M*.gguf",
            param="quantization",
        )
    return sorted(found, key=_by_path)


def _set_of(file: RemoteFile) -> str:
    """What the parts of a split GGUF file have in common."""
    part = PART.fullmatch(file.path)
    return part["stem"] if part else file.path


def _none_such(files: Sequence[RemoteFile], weights_format: Format, pattern: str) -> InvalidRequest:
    matching = f" that match {pattern!r}" if pattern else ""
    there = ", ".join(sorted(file.path for file in files)[:MANY]) or "nothing"
    return InvalidRequest(
        f"the repository has no {weights_format} weights{matching}; it has {there}", param="model_path"
    )


def _is_part(file: RemoteFile, chosen: list[RemoteFile]) -> bool:
    """A small file that belongs to these weights: at the top, or in a folder of the model's own."""
    folder = _folder(file)
    return not folder or MODULE.fullmatch(folder) is not None or folder in {_folder(one) for one in chosen}


def _folder(file: RemoteFile) -> str:
    return file.path.rpartition("/")[0]


def _by_size(file: RemoteFile) -> tuple[int, str]:
    return (file.size, file.path)


def _by_path(file: RemoteFile) -> str:
    return file.path
