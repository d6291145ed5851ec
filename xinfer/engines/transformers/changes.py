"""What may change of the transformers engine while it runs: LoRA adapters, where the model runs natively."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xinfer.engines.base import Match
from xinfer.spec import Adapter


class ChangesOfTransformers:
    """The part of the engine that takes adapters. Sequences that have begun keep theirs when it is unloaded."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters: dict[str, object] = {}
        """Their weights, by name."""
        self.read_adapter: Callable[[Adapter], object] | None = None

    @classmethod
    def options_with_adapters(cls, options: Mapping[str, Any], adapters: Sequence[Adapter]) -> dict[str, Any]:  # noqa: ARG003  the contract
        """It needs nothing for them."""
        return dict(options)

    @classmethod
    def accepts_adapter(cls, options: Mapping[str, Any], adapter: Adapter) -> Match:  # noqa: ARG003
        """Whether the model may run natively; that it does, shows when it is loaded."""
        if options.get("implementation") == "library":
            return Match(False, "adapters need implementation=native, and the model was launched with library")
        return Match(True)

    async def load_adapter(self, adapter: Adapter) -> None:
        """Read it.

        Raises:
            LoadFailed: the model cannot have it; says why.
        """
        assert self.read_adapter is not None
        self.adapters[adapter.name] = await asyncio.to_thread(self.read_adapter, adapter)

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Forget it; its memory is free once no sequence has it any more."""
        self.adapters.pop(adapter.name, None)

    def adapter_of(self, model: str) -> object:
        """The weights of the adapter that a call asks for; None: it asks for the model itself."""
        return self.adapters.get(model)
