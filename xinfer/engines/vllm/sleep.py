"""Whether a vLLM can sleep. Pure."""

from collections.abc import Mapping
from typing import Any

from xinfer.engines.base import Match
from xinfer.engines.vllm import adapters

ENABLE = "enable_sleep_mode"
LEVELS = (1, 2)
"""1: the weights go to main memory; 2: they are dropped, and read from disk again. The cache is dropped in both."""


def accepts_sleep(options: Mapping[str, Any], level: int) -> Match:
    """Whether a vLLM that was started with these options can sleep so deep."""
    if level not in LEVELS:
        return Match(False, f"vLLM's levels of sleep are 1 and 2, not {level}")
    if not options.get(ENABLE):
        return Match(False, "it was launched without sleep mode; launch it again with --enable-sleep-mode (needs CUDA)")
    if level > 1 and options.get(adapters.ENABLE):
        return Match(False, "with room for adapters it can sleep at level 1 only: level 2 drops theirs too")
    return Match(True)
