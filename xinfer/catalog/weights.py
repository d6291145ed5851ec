"""What safetensors headers say, without reading the weights."""

import math
from pathlib import Path

import msgspec

from xinfer.errors import InvalidRequest

MIB = 1024 * 1024
MAX_HEADER_BYTES = 100 * MIB
"""As in the safetensors library: a longer header is no header."""


class _Tensor(msgspec.Struct, frozen=True):
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]
    """Where its bytes begin and end, after the header."""


def size_mib(files: list[Path]) -> int:
    """Size on disk in whole MiB, at least 1."""
    return max(1, math.ceil(sum(file.stat().st_size for file in files) / MIB))


def count_parameters(files: list[Path]) -> int:
    """Elements of all tensors.

    Raises:
        InvalidRequest: a file is cut off (a download that was interrupted) or is no safetensors file.
    """
    return sum(math.prod(tensor.shape) for file in files for tensor in _tensors(file))


def _tensors(file: Path) -> list[_Tensor]:
    try:
        size = file.stat().st_size
        with file.open("rb") as source:
            length = int.from_bytes(source.read(8), "little")
            if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
                raise InvalidRequest(f"{file} is cut off or no safetensors file", param="model_path")
            header = msgspec.json.decode(source.read(length), type=dict[str, msgspec.Raw])
        tensors = [msgspec.json.decode(raw, type=_Tensor) for name, raw in header.items() if name != "__metadata__"]
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}", param="model_path") from error
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{file} is no safetensors file: {error}", param="model_path") from error
    expected = 8 + length + max((tensor.data_offsets[1] for tensor in tensors), default=0)
    if size < expected:
        raise InvalidRequest(
            f"the safetensors file {file} is cut off: {size} of {expected} bytes; download it again", param="model_path"
        )
    return tensors
