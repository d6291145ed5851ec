"""What the header of a GGUF file says, without reading the weights. Versions 2 and 3, little-endian.

The layout is that of the specification (docs/gguf.md in the repository of ggml): magic, version, counts, then
key-value pairs, then one entry for each tensor, then the tensors. A file comes from anywhere, so every length in it is
checked against what is left of the file before it is believed.
"""

import itertools
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from xinfer.errors import InvalidRequest

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TEXT_BYTES = 16 * 1024 * 1024
"""A longer text is no text; chat templates have some kilobytes."""
MAX_KEPT_ITEMS = 4096
"""Of longer arrays (the words of a vocabulary) only the length is kept."""
MAX_DEPTH = 4
"""Of arrays in arrays."""
DEFAULT_ALIGNMENT = 32
PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
"""The name of a part of a model that was split."""

TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
"""By number, a type's name, how many weights make a block of it, and how many bytes a block has."""

_STRING, _ARRAY = 8, 9
_NUMBERS: Mapping[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
"""By the number of its type, how a value is written."""

Scalar = str | int | float | bool
Value = Scalar | tuple[Scalar, ...] | int
"""Metadata: a value, a short flat array, or of any other array its length."""


class GgufTensor(msgspec.Struct, frozen=True):
    """A tensor by its header. ``size`` is in bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    size: int

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)


class GgufFile(msgspec.Struct, frozen=True):
    """The header of a file, or of all parts of a split one: the metadata of the first, the tensors of all."""

    metadata: dict[str, Value]
    tensors: tuple[GgufTensor, ...]
    files: tuple[Path, ...]

    @property
    def architecture(self) -> str:
        """The name before the model's own keys."""
        return str(self.metadata.get("general.architecture", ""))

    def text(self, key: str) -> str:
        """A text, or nothing."""
        found = self.metadata.get(key)
        return found if isinstance(found, str) else ""

    def own(self, key: str) -> Value | None:
        """A value of the model's architecture: "block_count" is the key "llama.block_count" of a llama."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def number(self, key: str) -> int:
        """An own value as a number; 0: there is none. Of one number for each layer, the largest."""
        found = self.own(key)
        numbers = found if isinstance(found, tuple) else (found,)
        return max((int(item) for item in numbers if isinstance(item, int) and item >= 0), default=0)


def read_gguf(file: Path) -> GgufFile:
    """The header of a GGUF file, and of the other parts if it is the first of several.

    Raises:
        InvalidRequest: it is cut off (a download that was interrupted), a part is missing, or it is no such file.
    """
    files = _parts(file)
    headers = [_read_one(part) for part in files]
    tensors = tuple(tensor for _, found in headers for tensor in found)
    return GgufFile(headers[0][0], tensors, tuple(files))


def _parts(file: Path) -> list[Path]:
    """All files of a model, the first part of several in front."""
    named = PART.fullmatch(file.name)
    if named is None:
        return [file]
    count = int(named["count"])
    parts = [file.with_name(f"{named['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise InvalidRequest(f"{file.name} is one of {count} parts, and {part.name} is missing", param="model_path")
    return parts or [file]


def _read_one(file: Path) -> tuple[dict[str, Value], list[GgufTensor]]:
    try:
        with file.open("rb") as opened:
            return _Header(opened, file).read()
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}", param="model_path") from error


class _Header:
    """Reads one file from its beginning."""

    def __init__(self, opened: BinaryIO, file: Path) -> None:
        self._opened = opened
        self._file = file
        self._left = file.stat().st_size
        self._size = self._left

    def read(self) -> tuple[dict[str, Value], list[GgufTensor]]:
        """The metadata and the tensors."""
        if self._left < len(MAGIC) or self._take(len(MAGIC)) != MAGIC:
            raise InvalidRequest(f"{self._file} is neither a model folder nor a GGUF file", param="model_path")
        version = self._integer("<I")
        if version not in VERSIONS:
            order = " in the other byte order" if int.from_bytes(version.to_bytes(4, "little"), "big") < 256 else ""
            raise self._refused(f"is of GGUF version {version}{order}, and versions 2 and 3 can be read")
        tensors, pairs = self._count(least_bytes=24), self._count(least_bytes=13)
        metadata: dict[str, Value] = {}
        for _ in range(pairs):
            key = self._text()
            metadata[key] = self._value(self._integer("<I"))
        return metadata, self._tensors(tensors, metadata)

    def _tensors(self, count: int, metadata: Mapping[str, Value]) -> list[GgufTensor]:
        entries = [self._entry() for _ in range(count)]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise self._refused(f"says that its tensors are aligned to {alignment!r} bytes")
        begin = -(-(self._size - self._left) // alignment) * alignment
        starts = sorted({offset for *_, offset in entries} | {max(0, self._size - begin)})
        following = dict(itertools.pairwise(starts))
        found = []
        for name, shape, number, offset in entries:
            if number in TENSOR_TYPES:
                word, per_block, block_bytes = TENSOR_TYPES[number]
                size = -(-math.prod(shape) // per_block) * block_bytes
            else:  # newer than this table: up to the next tensor it is
                word, size = f"type {number}", following.get(offset, offset) - offset
            if begin + offset + size > self._size:
                raise self._cut_off(begin + offset + size)
            found.append(GgufTensor(name, shape, word, size))
        return found

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        dimensions = self._integer("<I")
        if dimensions > 8:
            raise self._refused(f"has a tensor of {dimensions} dimensions")
        shape = tuple(self._integer("<Q") for _ in range(dimensions))
        return name, shape, self._integer("<I"), self._integer("<Q")

    def _value(self, kind: int, depth: int = 0) -> Value:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array(depth)
        if kind not in _NUMBERS:
            raise self._refused(f"has a value of the unknown type {kind}")
        number: int | float | bool = _NUMBERS[kind].unpack(self._take(_NUMBERS[kind].size))[0]
        return number

    def _array(self, depth: int) -> Value:
        kind = self._integer("<I")
        if kind in _NUMBERS:
            width = _NUMBERS[kind].size
            count = self._count(least_bytes=width)
            if count > MAX_KEPT_ITEMS:
                self._skip(count * width)
                return count
            return tuple(value for (value,) in _NUMBERS[kind].iter_unpack(self._take(count * width)))
        if depth == MAX_DEPTH:
            raise self._refused(f"has arrays that are nested more than {MAX_DEPTH} deep")
        count = self._count(least_bytes=8)
        for _ in range(count):
            if kind == _STRING:
                self._skip(self._integer("<Q"))
            else:
                self._value(kind, depth + 1)
        return count

    def _text(self) -> str:
        length = self._integer("<Q")
        if length > MAX_TEXT_BYTES and length <= self._left:
            raise self._refused(f"has a text of {length} bytes")
        return self._take(length).decode("utf-8", errors="replace")

    def _count(self, least_bytes: int) -> int:
        """A number of things, each of which takes at least so many bytes of the file."""
        count = self._integer("<Q")
        if count * least_bytes > self._left:
            raise self._cut_off(self._size - self._left + count * least_bytes)
        return count

    def _integer(self, layout: str) -> int:
        number: int = struct.unpack(layout, self._take(struct.calcsize(layout)))[0]
        return number

    def _take(self, count: int) -> bytes:
        self._pass(count)
        taken = self._opened.read(count)
        if len(taken) < count:  # it became shorter while we read
            raise self._cut_off(self._size)
        return taken

    def _skip(self, count: int) -> None:
        self._pass(count)
        self._opened.seek(count, 1)

    def _pass(self, count: int) -> None:
        if count > self._left:
            raise self._cut_off(self._size - self._left + count)
        self._left -= count

    def _cut_off(self, expected: int) -> InvalidRequest:
        return self._refused(f"is cut off: {self._size} of at least {expected} bytes; download it again")

    def _refused(self, why: str) -> InvalidRequest:
        return InvalidRequest(f"the GGUF file {self._file} {why}", param="model_path")
