"""Weights in PyTorch's older files: which they are, and that they hold tensors and nothing else. Imports no torch.

A pickle is a small program: it names functions and has them called. Those of weights name what rebuilds a tensor. This
looks at every name without running anything, so that a launch can be refused; an engine that reads such a file does so
with PyTorch's own reader for weights alone, which has the same rule.
"""

import pickletools
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from xinfer.catalog.weights import LFS_POINTER, Tensors, indexed_files
from xinfer.errors import InvalidRequest

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
CONTENT = "data.pkl"
"""The pickle in the archive that PyTorch writes since 1.6."""
LONGEST = 256 * 1024 * 1024
"""Bytes of a pickle: it has the names of tensors, and not their numbers."""
PARTS_BEFORE_1_6 = 4
"""Pickles one after the other: a magic number, a version, the machine, and the tensors."""
NAMING = ("GLOBAL", "INST")
NAMING_OTHERWISE = ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "PERSID")
"""Instructions that name something in ways that PyTorch never uses."""
HARMLESS = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch", "Size"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch.nn.parameter", "Parameter"),
        *(("torch", name) for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8")),
    }
)
TYPES = {"float16": "F16", "bfloat16": "BF16", "float64": "F64"}
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def pickled_in(folder: Path) -> list[Path]:
    """The pickled files that libraries would load from a folder; none: there are no such.

    Raises:
        InvalidRequest: the index is none, or a file that it names is missing.
    """
    index, single = folder / INDEX, folder / SINGLE
    if index.is_file():
        return indexed_files(index)
    return [single] if single.is_file() else []


def pickled_tensors(files: Iterable[Path], dtype: str) -> Tensors:
    """What they hold, by their size: nearly all of it are numbers of the type that the config.json names."""
    kind = TYPES.get(dtype, "F32")
    size = sum(file.stat().st_size for file in files)
    return Tensors(size // WIDTHS[kind], {kind: size})


def require_harmless(file: Path) -> None:
    """Whether a pickled file would do nothing but make tensors.

    Raises:
        InvalidRequest: it names something else, is cut off, or is no such file; says what.
    """
    try:
        with file.open("rb") as content:
            for module, name in _names(file, content):
                if (module, name) not in HARMLESS and not (module == "torch" and name.endswith("Storage")):
                    raise InvalidRequest(
                        f"{file} is not loaded: the pickle in it calls {module}.{name}, and weights call nothing but "
                        "what makes tensors; take the model from somebody you trust, in safetensors",
                        param="model_path",
                    )
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"{file} is cut off or no file of PyTorch's ({error}); download it again", param="model_path"
        ) from error
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}", param="model_path") from error


def _names(file: Path, content: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Everything that its pickles name."""
    beginning = content.read(len(LFS_POINTER))
    content.seek(0)
    if beginning == LFS_POINTER:
        raise InvalidRequest(
            f"{file} is not the file itself but Git's pointer to it; run 'git lfs pull' in its folder",
            param="model_path",
        )
    if beginning and not any(beginning):
        return  # the place of a file that is still on its hub
    if not beginning.startswith(b"PK"):
        for _ in range(PARTS_BEFORE_1_6):
            yield from _named_by(content)
        return
    with zipfile.ZipFile(content) as archive:
        entry = next((entry for entry in archive.infolist() if entry.filename.rpartition("/")[2] == CONTENT), None)
        if entry is None or entry.file_size > LONGEST:
            raise ValueError(f"no {CONTENT} of a usual size")
        with archive.open(entry) as pickle:
            yield from _named_by(pickle)


def _named_by(pickle: IO[bytes]) -> Iterator[tuple[str, str]]:
    for instruction, argument, _ in pickletools.genops(pickle):
        if instruction.name in NAMING:
            module, _, name = str(argument).partition(" ")
            yield module, name
        elif instruction.name in NAMING_OTHERWISE:
            yield "something by", instruction.name
