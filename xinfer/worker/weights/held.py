"""The weights of each replica of a worker: found, or downloaded first, and held until the replica holds them itself."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from xinfer.catalog.weight_sets import WeightSet, wanted_sets
from xinfer.spec import Deployment
from xinfer.worker.locks import FileLock, Held
from xinfer.worker.weights.downloads import Downloads
from xinfer.worker.weights.progress import Show
from xinfer.worker.weights.store import WeightStore

LOOK_EVERY_S = 0.1
"""How often weights that are being removed are tried again."""


class HeldWeights(Held):
    """Weights that are sure to stay. ``path`` is None for those that come from no hub."""

    def __init__(self, path: Path | None = None, lock: FileLock | None = None) -> None:
        super().__init__(lock)
        self.path = path


class ReplicaWeights:
    """Finds the weights of a replica by what its Deployment says and what is here."""

    def __init__(self, store: WeightStore, downloads: Downloads) -> None:
        self._store = store
        self._downloads = downloads

    def ready(self, deployment: Deployment) -> HeldWeights | None:
        """The weights, if they are here; None: ``downloaded`` has to wait for them.

        Raises:
            OSError: the home is not writable.
        """
        wanted = wanted_sets(deployment.spec)
        return self._held(wanted) if wanted else HeldWeights()

    async def downloaded(self, deployment: Deployment, show: Show) -> HeldWeights:
        """The weights, once they are here, telling ``show`` how far they are.

        Raises:
            DownloadFailed: they cannot be had; says why.
            InvalidRequest: their repository has no such weights.
        """
        while (held := self.ready(deployment)) is None:
            await self._downloads.downloaded(wanted_sets(deployment.spec), show)
            if (held := self.ready(deployment)) is not None:
                return held
            await asyncio.sleep(LOOK_EVERY_S)
        return held

    def _held(self, wanted: Sequence[WeightSet]) -> HeldWeights | None:
        for one in wanted:
            lock = self._store.lock(one.name)
            if lock.try_shared() and (record := self._store.find(one)) is not None:
                return HeldWeights(record.path, lock)
            lock.close()
        return None
