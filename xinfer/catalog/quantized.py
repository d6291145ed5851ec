"""In which format and quantization the weights of a folder are, by what its files say. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from xinfer.spec import Format

BITS_OF_WORD = {"fp8": 8, "nvfp4": 4, "mxfp4": 4, "nf4": 4, "fp4": 4}
"""Of words that are no number of bits."""


class Stored(NamedTuple):
    """``bits`` of a quantised weight; 0: nothing is quantised, or nobody says how."""

    format: Format
    quantization: str = "none"
    bits: int = 0


def stored(config: Mapping[str, Any], modelopt: Mapping[str, Any], written_for: str) -> Stored:
    """How weights in safetensors are to be read.

    Args:
        config: the config.json; of models of several parts, the language model's may say it instead.
        modelopt: the hf_quant_config.json of NVIDIA's exporter, or nothing.
        written_for: the library that the files' headers name.
    """
    found = _described(config)
    if found and "quant_method" not in found:
        return _of_mlx(found)
    if found:
        return _of_method(found)
    if algorithm := _object(modelopt.get("quantization")).get("quant_algo"):
        word = str(algorithm).lower()
        return Stored(Format.SAFETENSORS, f"modelopt-{word}", BITS_OF_WORD.get(word, 0))
    return Stored(Format.MLX if written_for == "mlx" else Format.SAFETENSORS)


def _described(config: Mapping[str, Any]) -> Mapping[str, Any]:
    parts = (config, _object(config.get("text_config")))
    found = (_object(part.get(key)) for part in parts for key in ("quantization_config", "quantization"))
    return next((part for part in found if part), {})


def _of_mlx(found: Mapping[str, Any]) -> Stored:
    """MLX writes no method: bits for groups of weights, and a mode where these are no plain integers."""
    bits, mode = _whole(found.get("bits")), str(found.get("mode") or "affine")
    if not bits:
        return Stored(Format.SAFETENSORS, "quantized")
    return Stored(Format.MLX, f"{bits}bit" if mode == "affine" else mode, bits)


def _of_method(found: Mapping[str, Any]) -> Stored:
    method = str(found["quant_method"])
    kind = {"bitsandbytes": _bitsandbytes, "compressed-tensors": _compressed}.get(method, _plain)(found)
    return Stored(
        Format.SAFETENSORS, f"{method}-{kind}" if kind else method, BITS_OF_WORD.get(kind or method) or _digits(kind)
    )


def _plain(found: Mapping[str, Any]) -> str:
    bits = _whole(found.get("bits")) or _whole(found.get("w_bit"))
    return f"int{bits}" if bits else ""


def _bitsandbytes(found: Mapping[str, Any]) -> str:
    if found.get("load_in_4bit") or found.get("_load_in_4bit"):
        return str(found.get("bnb_4bit_quant_type") or "fp4")
    return "int8"


def _compressed(found: Mapping[str, Any]) -> str:
    """By the first group of layers: the others are mostly the same."""
    groups = _object(found.get("config_groups"))
    weights = _object(_object(next(iter(groups.values()), {})).get("weights"))
    bits = _whole(weights.get("num_bits"))
    return f"{'fp' if weights.get('type') == 'float' else 'int'}{bits}" if bits else ""


def _digits(word: str) -> int:
    digits = word.lstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits) if digits.isdigit() else 0


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 32 else 0


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
