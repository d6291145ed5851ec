"""What vLLM has to be started with so that it takes LoRA adapters, and whether it takes one. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from xinfer.engines.base import Match
from xinfer.spec import Adapter

ENABLE = "enable_lora"
MAX_RANK = "max_lora_rank"
AT_ONCE = "max_loras"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for the highest rank."""
DEFAULT_RANK = 16
"""That of vLLM; lower ranks are rounded up to it, so that most adapters can still be added later."""
DEFAULT_AT_ONCE = 4
MOST_AT_ONCE = 8
"""Adapters in one batch. Each takes memory of its own, and requests for further ones wait for the next batch."""


def options_with_adapters(options: Mapping[str, Any], adapters: Sequence[Adapter]) -> dict[str, Any]:
    """The options of a launch with room for these adapters; what it says itself is kept."""
    if not adapters and not options.get(ENABLE):
        return dict(options)
    highest = max([DEFAULT_RANK, *(adapter.rank for adapter in adapters)])
    fitting = next((rank for rank in RANKS if rank >= highest), highest)
    at_once = min(max(DEFAULT_AT_ONCE, len(adapters)), MOST_AT_ONCE)
    return {ENABLE: True, MAX_RANK: fitting, AT_ONCE: at_once} | dict(options)


def accepts_adapter(options: Mapping[str, Any], adapter: Adapter) -> Match:
    """Whether a vLLM that was started with these options takes an adapter."""
    if not options.get(ENABLE):
        return Match(False, "the model was launched without room for adapters; launch it again with --enable-lora")
    highest = options.get(MAX_RANK, DEFAULT_RANK)
    if not isinstance(highest, int):
        return Match(False, f"{MAX_RANK} must be one of {', '.join(map(str, RANKS))}, not {highest!r}")
    if adapter.rank > RANKS[-1]:
        return Match(False, f"its rank is {adapter.rank}, and vLLM takes at most {RANKS[-1]}")
    if adapter.rank > highest:
        return Match(
            False,
            f"its rank is {adapter.rank}, and the model was launched for at most {highest}; launch it again with "
            f"--max-lora-rank {next(rank for rank in RANKS if rank >= adapter.rank)}",
        )
    return Match(True)
