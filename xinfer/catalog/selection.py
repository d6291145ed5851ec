"""Which of the weights of a model a user means: by kind, size, format and quantization, in the user's words. Pure."""

import re
from collections.abc import Callable, Iterable, Sequence

from xinfer.catalog.families import size_label
from xinfer.errors import InvalidRequest
from xinfer.ops import KINDS_OF_WORD, Kind
from xinfer.spec import Format, ModelSpec

FORMAT_WORDS = {
    "pytorch": ((Format.SAFETENSORS, Format.PICKLE), ""),
    "ggufv2": ((Format.GGUF,), ""),
    **{method: ((Format.SAFETENSORS,), method) for method in ("gptq", "awq", "fp8", "mxfp4")},
}
"""Words of Xinference's users for formats: ours, and how the quantization begins. A method is a format to them."""

DEFAULT_SIZE_MIB = 18 * 1024
"""Weights of which a card of 24 GiB has a quarter left for the cache and the activations."""

_SIZE = re.compile(r"(\d+(?:[._]\d+)?)([bm]?)(?:-?a(\d+(?:[._]\d+)?)b)?")


def select(
    specs: Sequence[ModelSpec],
    *,
    kind: str | None = None,
    size: str | float | None = None,
    weights_format: str | None = None,
    quantization: str | None = None,
    every_size: bool = False,
) -> list[ModelSpec]:
    """The weights that fit, the preferred ones first; all of one size, unless ``every_size`` is wanted.

    Where no size is named it is ``default_size``.

    Raises:
        InvalidRequest: a word that nobody knows, or nothing fits; lists what there is.
    """
    left = list(specs)
    if kind:
        kinds = kinds_of(kind)
        left = _keep(left, "model_type", lambda spec: spec.kind in kinds, lambda spec: spec.kind.value)
    if size is not None:
        billions, active = parsed_size(size)
        left = _keep(left, "model_size_in_billions", lambda spec: _is_of_size(spec, billions, active), size_of)
    if weights_format:
        formats, method = _told_format(weights_format)
        left = _keep(
            left,
            "model_format",
            lambda spec: spec.format in formats and spec.quantization.startswith(method),
            lambda spec: spec.format.value,
        )
    if quantization:
        word = quantization.lower()
        left = _keep(left, "quantization", lambda spec: _is_quantized_so(spec, word), lambda spec: spec.quantization)
    if every_size:
        return left
    wanted = default_size(left)
    return [spec for spec in left if size_of(spec) == wanted]


def default_size(specs: Iterable[ModelSpec]) -> str:
    """The size of a model that is taken where none is named: the largest that one card of 24 GiB serves well.

    That is the largest whose preferred weights leave a quarter of such a card free; the smallest if none does.
    """
    preferred: dict[str, ModelSpec] = {}
    for spec in specs:
        preferred.setdefault(size_of(spec), spec)
    fitting = {label: spec for label, spec in preferred.items() if spec.weights_mib <= DEFAULT_SIZE_MIB}
    if fitting:
        return max(fitting, key=lambda label: fitting[label].size_in_billions or 0)
    return min(preferred, key=lambda label: preferred[label].weights_mib)


def kinds_of(word: str) -> tuple[Kind, ...]:
    """What a ``model_type`` can mean.

    Raises:
        InvalidRequest: nothing; lists the words.
    """
    found = KINDS_OF_WORD.get(word.lower())
    if found is None:
        known = ", ".join(kind.value for kind in Kind)
        raise InvalidRequest(f"there is no model_type {word!r}; there are: {known}", param="model_type")
    return found


def formats_of(word: str) -> tuple[Format, ...]:
    """What a ``model_format`` can mean, the usual meaning first.

    Raises:
        InvalidRequest: nothing; lists the words.
    """
    formats, _ = _told_format(word)
    if not formats:
        known = ", ".join(sorted({one.value for one in Format} | FORMAT_WORDS.keys()))
        raise InvalidRequest(f"there is no model_format {word!r}; there are: {known}", param="model_format")
    return formats


def _told_format(word: str) -> tuple[tuple[Format, ...], str]:
    """The formats, and how the quantization begins."""
    word = word.lower()
    return FORMAT_WORDS.get(word, (tuple(one for one in Format if one.value == word), ""))


def parsed_size(value: str | float) -> tuple[float, float | None]:
    """Billions of parameters, in all and (a mixture of experts) of one token: 7, "0_6", "0.6b", "270m", "30b-a3b".

    Raises:
        InvalidRequest: it is no size.
    """
    found = _SIZE.fullmatch(str(value).strip().lower())
    if found is None:
        raise InvalidRequest(
            f"model_size_in_billions must be a number such as 7, 0_6, 0.6b or 30b-a3b, not {value!r}",
            param="model_size_in_billions",
        )
    number, unit, active = (text and text.replace("_", ".") for text in found.groups())
    return float(number) / (1000 if unit == "m" else 1), float(active) if active else None


def size_of(spec: ModelSpec) -> str:
    """The label of its size; empty: it has none."""
    return size_label(spec.size_in_billions, spec.active_size_in_billions) if spec.size_in_billions else ""


def described(spec: ModelSpec) -> str:
    """A set of weights in a sentence: "qwen3 (0.6B, gguf, Q4_K_M)"."""
    words = (size_of(spec), spec.format.value, "" if spec.quantization == "none" else spec.quantization)
    return f"{spec.name} ({', '.join(word for word in words if word)})"


def _is_of_size(spec: ModelSpec, billions: float, active: float | None) -> bool:
    if spec.size_in_billions is None or abs(spec.size_in_billions - billions) > 1e-9:
        return False
    return active is None or spec.active_size_in_billions == active


def _is_quantized_so(spec: ModelSpec, word: str) -> bool:
    """Also "int4" for "gptq-int4", since the method is a format to some."""
    own = spec.quantization.lower()
    return word in (own, own.rpartition("-")[2])


def _keep(
    specs: list[ModelSpec],
    field: str,
    fits: Callable[[ModelSpec], bool],
    word: Callable[[ModelSpec], str],
) -> list[ModelSpec]:
    left = [spec for spec in specs if fits(spec)]
    if not left:
        words = sorted({word(spec) or "unnamed" for spec in specs}, key=_in_order)
        raise InvalidRequest(f"{_common(specs)} has no such {field}; there is: {', '.join(words)}", param=field)
    return left


def _in_order(word: str) -> tuple[float, str]:
    """Sizes by number, then words by the alphabet."""
    size = _SIZE.match(word.lower())
    return (float(size[1]) / (1000 if size[2] == "m" else 1), word) if size else (0.0, word)


def _common(specs: Sequence[ModelSpec]) -> str:
    """What is common to all: "'qwen3' of 0.6B in gguf"."""
    sizes, formats = {size_of(spec) for spec in specs} - {""}, {spec.format.value for spec in specs}
    size = f" of {sizes.pop()}" if len(sizes) == 1 else ""
    return f"{specs[0].name!r}{size}{f' in {formats.pop()}' if len(formats) == 1 else ''}"
