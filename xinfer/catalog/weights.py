"""What safetensors headers say, without reading the weights."""

import math
from collections.abc import Iterable
from pathlib import Path

import msgspec

from xinfer.errors import InvalidRequest

MIB = 1024 * 1024
MAX_HEADER_BYTES = 100 * MIB
"""As in the safetensors library: a longer header is no header."""
INDEX = "model.safetensors.index.json"
"""Which file holds which tensor, where there are several files."""


LFS_POINTER = b"version "
"""How the text begins that Git leaves in the place of a large file."""

PACKED_BITS = {"I32": 32, "U32": 32, "U8": 8, "I8": 8}
"""Types into which quantised weights are packed, and how many bits one element has."""
BESIDE_PACKED = (
    *(".scales", "_scales", ".qzeros", ".g_idx", ".biases"),
    *(".weight_scale", ".weight_scale_inv", ".weight_zero_point", ".weight_shape", ".input_scale"),
    *(".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"),
)
"""Names of what quantised weights need to be read, and what is no weight itself."""


class Tensors(msgspec.Struct, frozen=True):
    """The tensors of some files together. ``parameters`` is how many weights they hold, packed ones unpacked."""

    parameters: int
    bytes_by_type: dict[str, int]
    """Bytes by the type of the elements, as the files have it: "BF16", "Q4_K"."""


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]
    """Where its bytes begin and end, after the header."""


class _Header(msgspec.Struct, frozen=True):
    tensors: dict[str, _Tensor]
    metadata: dict[str, str]


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


def size_mib(files: Iterable[Path]) -> int:
    """Size on disk in whole MiB, at least 1."""
    return max(1, math.ceil(sum(file.stat().st_size for file in files) / MIB))


def safetensors_in(folder: Path) -> list[Path]:
    """The files that hold the weights: those that an index names, else the one that libraries load, else all.

    A folder may hold the same weights twice, in the layout of the library and in the publisher's own.

    Raises:
        InvalidRequest: the index is none, or a file that it names is missing.
    """
    index = folder / INDEX
    if not index.is_file():
        single = folder / "model.safetensors"
        return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    return indexed_files(index)


def indexed_files(index: Path) -> list[Path]:
    """The files that an index of weights names, which lie beside it.

    Raises:
        InvalidRequest: it is none, or a file that it names is missing.
    """
    try:
        named = sorted(set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()))
    except (msgspec.MsgspecError, OSError) as error:
        raise InvalidRequest(f"{index} is no index of weights: {error}", param="model_path") from error
    for name in named:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise InvalidRequest(f"{index} names {name}, which is missing; download it again", param="model_path")
    return [index.parent / name for name in named]


def read_tensors(files: Iterable[Path], bits: int = 0) -> Tensors:
    """What the tensors of some safetensors files are.

    Args:
        files: all files of a model.
        bits: of a quantised weight; 0: nothing is quantised.

    Raises:
        InvalidRequest: a file is cut off (a download that was interrupted) or is no safetensors file.
    """
    parameters, sizes = 0, dict[str, int]()
    for file in files:
        for name, tensor in _header(file).tensors.items():
            begin, end = tensor.data_offsets
            parameters += _weights(name, tensor, bits)
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + max(0, end - begin)
    return Tensors(parameters, sizes)


def _weights(name: str, tensor: _Tensor, bits: int) -> int:
    """How many weights a tensor holds."""
    elements = math.prod(tensor.shape)
    if not bits:
        return elements
    if name.endswith(BESIDE_PACKED):
        return 0
    return elements * max(1, PACKED_BITS.get(tensor.dtype, 0) // bits)


def written_for(files: Iterable[Path]) -> str:
    """The library that the files' headers name ("pt", "mlx"); empty: none.

    Raises:
        InvalidRequest: as ``read_tensors``.
    """
    return next((found for file in files if (found := _header(file).metadata.get("format"))), "")


def tensor_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of some safetensors files, by its name.

    Raises:
        InvalidRequest: as ``read_tensors``.
    """
    return {name: tensor.shape for file in files for name, tensor in _header(file).tensors.items()}


def _header(file: Path) -> _Header:
    try:
        size = file.stat().st_size
        with file.open("rb") as source:
            beginning = source.read(8)
            if beginning == LFS_POINTER:
                raise InvalidRequest(
                    f"{file} is not the file itself but Git's pointer to it; run 'git lfs pull' in its folder",
                    param="model_path",
                )
            length = int.from_bytes(beginning, "little")
            if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
                raise InvalidRequest(f"{file} is cut off or no safetensors file", param="model_path")
            header = msgspec.json.decode(source.read(length), type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(header.pop("__metadata__", b"{}"), type=dict[str, str])
        tensors = {name: msgspec.json.decode(raw, type=_Tensor) for name, raw in header.items()}
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}", param="model_path") from error
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{file} is no safetensors file: {error}", param="model_path") from error
    expected = 8 + length + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    if size < expected:
        raise InvalidRequest(
            f"the safetensors file {file} is cut off: {size} of {expected} bytes; download it again", param="model_path"
        )
    return _Header(tensors, metadata)
