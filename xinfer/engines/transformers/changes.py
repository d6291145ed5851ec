"""What may change of the transformers engine while it runs: LoRA adapters, where the model runs natively."""

from collections.abc import Mapping
from typing import Any

from xinfer.engines.base import Match
from xinfer.engines.token_engine import ServesAdapters
from xinfer.spec import Adapter


class ChangesOfTransformers(ServesAdapters):
    """The part of the engine that takes adapters."""

    @classmethod
    def accepts_adapter(cls, options: Mapping[str, Any], adapter: Adapter) -> Match:  # noqa: ARG003  the contract
        """Whether the model may run natively; that it does, shows when it is loaded."""
        if options.get("implementation") == "library":
            return Match(False, "adapters need implementation=native, and the model was launched with library")
        return Match(True)
