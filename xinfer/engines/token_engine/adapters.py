"""LoRA adapters of a token engine that come and go while it runs: which there are, by the names that calls use."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xinfer.errors import LoadFailed
from xinfer.spec import Adapter


class ServesAdapters:
    """A part of an engine. Sequences that have begun keep their adapter when it is unloaded.

    The engine sets ``read_adapter`` when it has loaded its model, and says which adapters it accepts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.adapters: dict[str, object] = {}
        """Their weights, by name."""
        self.read_adapter: Callable[[Adapter], object] | None = None

    @classmethod
    def options_with_adapters(cls, options: Mapping[str, Any], adapters: Sequence[Adapter]) -> dict[str, Any]:  # noqa: ARG003  the contract
        """It needs nothing for them."""
        return dict(options)

    async def load_adapter(self, adapter: Adapter) -> None:
        """Read it.

        Raises:
            LoadFailed: the model cannot have it; says why.
        """
        if self.read_adapter is None:
            raise LoadFailed("only models that continue text have adapters here")
        self.adapters[adapter.name] = await asyncio.to_thread(self.read_adapter, adapter)

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Forget it; its memory is free once no sequence has it any more."""
        self.adapters.pop(adapter.name, None)

    def adapter_of(self, model: str) -> object:
        """The weights of the adapter that a call asks for; None: it asks for the model itself."""
        return self.adapters.get(model)
