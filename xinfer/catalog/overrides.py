"""What a launch says about a model, against what its files say. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from xinfer.errors import InvalidRequest
from xinfer.spec import ModelSpec

PARAM = "overrides"
ABILITIES = frozenset(
    {
        *("generate", "chat", "tools", "reasoning", "vision", "audio", "embed", "rerank"),
        *("transcribe", "speak", "text2image", "image2image", "inpainting"),
    }
)
LISTS = ("abilities", "matryoshka_dims")
"""Fields that a command line writes as words separated by commas."""

Count = Annotated[int, Meta(ge=1)]


class Overrides(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Fields of a ModelSpec; None: as its files say. What a model is for is ``model_type``, a word of its own."""

    family: str | None = None
    abilities: tuple[str, ...] | None = None
    context_length: Count | None = None
    """Tokens."""
    dimensions: Count | None = None
    matryoshka_dims: tuple[Count, ...] | None = None
    quantization: str | None = None
    size_in_billions: Annotated[float, Meta(gt=0)] | None = None


def read_overrides(words: Mapping[str, Any]) -> Overrides:
    """The words of a launch. Command lines send strings, so "8192" is a number and "chat,tools" a list.

    Raises:
        InvalidRequest: there is no such field, or no such value of it; lists what there is.
    """
    known = [field.name for field in msgspec.structs.fields(Overrides)]
    unknown = sorted(set(words) - set(known))
    if unknown:
        raise InvalidRequest(
            f"{unknown[0]!r} of a model cannot be overridden; these can: {', '.join(known)}; what it is for is said "
            "with model_type",
            param=PARAM,
        )
    split = {name: _split(value) if name in LISTS else value for name, value in words.items()}
    try:
        found = msgspec.convert(split, Overrides, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"an override is not valid: {error}", param=PARAM) from None
    strange = sorted(set(found.abilities or ()) - ABILITIES)
    if strange:
        raise InvalidRequest(
            f"there is no ability {strange[0]!r}; there are: {', '.join(sorted(ABILITIES))}", param=PARAM
        )
    return found


def overridden(specs: Iterable[ModelSpec], words: Mapping[str, Any]) -> tuple[ModelSpec, ...]:
    """The specs with what a launch says about them.

    Raises:
        InvalidRequest: as ``read_overrides``.
    """
    found = msgspec.structs.asdict(read_overrides(words))
    told = {name: value for name, value in found.items() if value is not None}
    return tuple(msgspec.structs.replace(spec, **told) for spec in specs)


def with_context(options: Mapping[str, Any], words: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The options of an engine, with the context length that a launch says, in the engine's own word for it.

    Args:
        options: those of the launch, which say it first.
        words: what the launch overrides.
        names: the engine's options for the longest sequence, the usual one first.

    Raises:
        InvalidRequest: as ``read_overrides``, or the engine has no option for it.
    """
    told = read_overrides(words).context_length
    if told is None or set(names) & set(options):
        return dict(options)
    if not names:
        raise InvalidRequest("this engine serves no other context length than the model's own", param=PARAM)
    return {**options, names[0]: told}


def _split(value: object) -> object:
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value
