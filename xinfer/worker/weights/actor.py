"""What the supervisor asks a worker about weights of hubs."""

from xinfer.catalog.sources import HubSource
from xinfer.catalog.weight_sets import Pull, WeightSet, WeightsHere
from xinfer.ops import Kind
from xinfer.spec import ModelSpec
from xinfer.worker.weights.keeper import WeightKeeper


class ForWeights:
    """The part of the worker's actor that is about weights. A thin shell around ``WeightKeeper``."""

    _weights: WeightKeeper

    async def pull_weights(self, wanted: tuple[WeightSet, ...], verify: bool) -> Pull:
        """Begin to download one of the sets, which hold the same weights; ``weights`` says how far it is."""
        return self._weights.pull(wanted, verify=verify)

    async def pulls(self) -> tuple[Pull, ...]:
        """What was ordered since this process started, as it is now or ended."""
        return self._weights.pulls

    async def cancel_pull(self, name: str) -> Pull:
        """End a download that was ordered, keeping what came.

        Raises:
            NotFound: it does not go on here.
        """
        return await self._weights.cancel(name)

    async def weights(self) -> WeightsHere:
        """What is here, and what was ordered."""
        return await self._weights.here()

    async def remove_weights(self, name: str) -> int:
        """Remove a set by its name; how many bytes became free.

        Raises:
            NotFound: there is none.
            Conflict: it is being used or downloaded; says by whom.
        """
        return await self._weights.remove(name)

    async def look_at_weights(self, sources: tuple[HubSource, ...], kinds: tuple[Kind, ...]) -> ModelSpec | None:
        """What the first of these repositories holds that is here with all of its weights; None: none is.

        Raises:
            InvalidRequest: it is here, and cannot be served.
        """
        return await self._weights.look(sources, kinds)

    async def look_at_path(self, path: str, name: str, kinds: tuple[Kind, ...]) -> ModelSpec | None:
        """What is at a path of this machine; None: nothing, or nothing that may be read.

        Raises:
            InvalidRequest: it is nothing that can be served.
        """
        return await self._weights.look_at_path(path, name, kinds)
