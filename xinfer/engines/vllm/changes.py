"""What may change of vLLM while it runs: adapters come and go, it sleeps and wakes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xinfer.engines.base import Match
from xinfer.engines.vllm import adapters, sleep
from xinfer.spec import Adapter

if TYPE_CHECKING:
    from xinfer.engines.vllm.serving import Serving


class ChangesOfVllm:
    """The part of the engine that takes adapters and sleeps."""

    _serving: "Serving | None" = None

    @classmethod
    def options_with_adapters(cls, options: Mapping[str, Any], wanted: Sequence[Adapter]) -> dict[str, Any]:
        """Its own arguments for adapters, with a rank that is high enough."""
        return adapters.options_with_adapters(options, wanted)

    @classmethod
    def accepts_adapter(cls, options: Mapping[str, Any], adapter: Adapter) -> Match:
        """Whether it was started for adapters, and for ranks as high."""
        return adapters.accepts_adapter(options, adapter)

    @classmethod
    def accepts_sleep(cls, options: Mapping[str, Any], level: int) -> Match:
        """Whether it was started for that."""
        return sleep.accepts_sleep(options, level)

    async def load_adapter(self, adapter: Adapter) -> None:
        """Have vLLM's application serve it.

        Raises:
            LoadFailed: vLLM does not take it; says why.
        """
        assert self._serving is not None
        await self._serving.load_adapter(adapter)

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Have it served no more."""
        assert self._serving is not None
        await self._serving.unload_adapter(adapter.name)

    async def sleep(self, level: int) -> None:
        """Free the memory of weights and cache."""
        assert self._serving is not None
        await self._serving.sleep(level)

    async def wake(self) -> None:
        """Have both in memory again."""
        assert self._serving is not None
        await self._serving.wake()
