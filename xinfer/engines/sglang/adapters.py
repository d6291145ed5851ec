"""LoRA adapters on SGLang: what it has to be started with, which it takes, and how a call asks for one. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from xinfer.engines.base import Match
from xinfer.errors import InvalidRequest
from xinfer.spec import Adapter

ENABLE = "enable_lora"
MAX_RANK = "max_lora_rank"
MODULES = "lora_target_modules"
DEFAULT_RANK = 16
"""Lower ranks are rounded up to it, so that most adapters can still be added later."""
ALL_MODULES = ["all"]
"""SGLang keeps room for adapters on these modules of the model only; "all": on each that it knows."""
LOAD_PATH, UNLOAD_PATH = "/load_lora_adapter", "/unload_lora_adapter"
NAMES_AN_ADAPTER = ":"
"""In the name of a model, SGLang takes what follows it for the name of an adapter."""


class Updated(msgspec.Struct):
    """What SGLang says when it was to load or to unload one."""

    success: bool = False
    error_message: str | None = None


def options_with_adapters(options: Mapping[str, Any], adapters: Sequence[Adapter]) -> dict[str, Any]:
    """The options of a launch with room for these adapters; what it says itself is kept."""
    if not adapters and not options.get(ENABLE):
        return dict(options)
    rank = max([DEFAULT_RANK, *(adapter.rank for adapter in adapters)])
    return {ENABLE: True, MAX_RANK: rank, MODULES: ALL_MODULES} | dict(options)


def accepts_adapter(options: Mapping[str, Any], adapter: Adapter) -> Match:
    """Whether an SGLang that was started with these options takes an adapter."""
    if not options.get(ENABLE):
        return Match(False, "the model was launched without room for adapters; launch it again with --enable-lora")
    if NAMES_AN_ADAPTER in adapter.name:
        return Match(False, f"SGLang takes no adapter whose name has a {NAMES_AN_ADAPTER!r}; give it another one")
    highest = options.get(MAX_RANK, DEFAULT_RANK)
    if not isinstance(highest, int):
        return Match(False, f"{MAX_RANK} must be a number, not {highest!r}")
    if adapter.rank > highest:
        return Match(
            False,
            f"its rank is {adapter.rank}, and the model was launched for at most {highest}; launch it again with "
            f"--max-lora-rank {adapter.rank}",
        )
    return Match(True)


def require_cards(options: Mapping[str, Any], cards: int) -> None:
    """Whether an SGLang on so many accelerators can be started with these options.

    Raises:
        InvalidRequest: it is to serve adapters and has none: they go through memory that only a device's driver pins.
    """
    if options.get(ENABLE) and not cards:
        raise InvalidRequest(
            "SGLang serves adapters on accelerators only; transformers and vLLM serve them on a CPU too", param=ENABLE
        )


def asking_for(adapter: str, body: bytes) -> bytes:
    """A request body that asks SGLang for an adapter; one that is no JSON object stays, for SGLang to refuse."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return body
    return msgspec.json.encode(fields | {"lora_path": adapter})
