"""All that a worker has to do with weights of hubs: what replicas wait for, what was ordered, and what is here."""

import asyncio
from collections.abc import Collection, Sequence

import msgspec

from xinfer.catalog import introspect, shape_of
from xinfer.catalog.downloaded import downloaded_spec
from xinfer.catalog.roots import Roots
from xinfer.catalog.sources import HubSource, is_here
from xinfer.catalog.weight_sets import Pull, WeightSet, WeightsHere
from xinfer.ops import Kind
from xinfer.settings import Settings
from xinfer.spec import ModelSpec
from xinfer.worker.weights.downloads import Downloads
from xinfer.worker.weights.fetch import fetch
from xinfer.worker.weights.held import ReplicaWeights
from xinfer.worker.weights.progress import Show
from xinfer.worker.weights.pulls import Pulls
from xinfer.worker.weights.store import WeightsRecord, WeightStore


class WeightKeeper:
    """See the module. Lives in one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = WeightStore(settings)
        self._downloads = Downloads(self._store, settings)
        self._pulls = Pulls(self._downloaded)
        self.of_replicas = ReplicaWeights(self._store, self._downloads)

    def pull(self, wanted: Sequence[WeightSet], *, verify: bool) -> Pull:
        """Begin to download one of the sets, which hold the same weights."""
        return self._pulls.order(wanted, verify=verify)

    @property
    def pulls(self) -> tuple[Pull, ...]:
        """What was ordered since this process started, as it is now or ended."""
        return self._pulls.states

    async def cancel(self, name: str) -> Pull:
        """End a download that was ordered, keeping what came.

        Raises:
            NotFound: it does not go on here.
        """
        return await self._pulls.cancel(name)

    async def here(self) -> WeightsHere:
        """What is here, and what was ordered."""
        return WeightsHere(cached=await asyncio.to_thread(self._store.cached), pulls=self.pulls)

    async def remove(self, name: str) -> int:
        """Remove a set by its name; how many bytes became free.

        Raises:
            NotFound: there is none.
            Conflict: it is being used or downloaded; says by whom.
        """
        return await asyncio.to_thread(self._store.remove, name)

    async def look(self, sources: Sequence[HubSource], kinds: Collection[Kind]) -> ModelSpec | None:
        """What the first of these repositories holds that is here with all of its weights; None: none is.

        Raises:
            InvalidRequest: it is here, and cannot be served.
        """
        return await asyncio.to_thread(downloaded_spec, sources, kinds, self._settings)

    async def look_at_path(self, path: str, name: str, kinds: Collection[Kind]) -> ModelSpec | None:
        """What is at a path of this machine; None: nothing, or nothing that may be read.

        Raises:
            InvalidRequest: it is nothing that can be served.
        """
        if not Roots.of(self._settings).allow(path) or not is_here(path):
            return None
        spec = await asyncio.to_thread(introspect, path, name, kinds)
        return msgspec.structs.replace(spec, shape=await asyncio.to_thread(shape_of, spec))

    async def close(self) -> None:
        """End every download."""
        await self._pulls.close()
        await self._downloads.close()

    async def _downloaded(self, wanted: Sequence[WeightSet], show: Show, verify: bool) -> WeightsRecord:
        if verify:  # not shared with those who wait: theirs compares no hashes of what is here
            return await fetch(self._store, self._settings, wanted, show, verify=True)
        return await self._downloads.downloaded(wanted, show)
