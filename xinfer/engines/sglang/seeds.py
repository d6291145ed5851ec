"""SGLang looks at seeds only where it was started to be deterministic; otherwise it says nothing and draws at will."""

import msgspec

from xinfer.errors import UnsupportedParameter

DETERMINISTIC = "enable_deterministic_inference"
"""Its argument, as an option of a launch."""


class _Drawn(msgspec.Struct):
    seed: int | None = None
    temperature: float | None = None


_decode = msgspec.json.Decoder(_Drawn).decode


def check_seed(body: bytes) -> None:
    """Refuse a request whose answer is drawn with a seed. A greedy one is the same with every seed.

    Raises:
        UnsupportedParameter: it has a seed.
    """
    if b'"seed"' not in body:
        return
    try:
        asked = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # SGLang says what is wrong with it
    if asked.seed is not None and asked.temperature != 0:
        raise UnsupportedParameter(
            "SGLang keeps to a seed only where the model was launched with --enable-deterministic-inference true; "
            "leave seed out, or set temperature to 0",
            param="seed",
        )
