"""The smallest GGUF file: an architecture and no weights, for tests that need a model file and do not look inside."""

import struct


def smallest_gguf(architecture: str = "llama") -> bytes:
    """Its bytes."""
    pair = _text("general.architecture") + struct.pack("<I", 8) + _text(architecture)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()
