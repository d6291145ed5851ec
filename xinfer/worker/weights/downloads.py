"""Downloads in this process: each set of weights once, for all who wait for it."""

import asyncio
import logging
from collections.abc import Sequence

from xinfer.catalog.weight_sets import WeightSet
from xinfer.errors import DownloadFailed, XinferError
from xinfer.settings import Settings
from xinfer.worker.weights.fetch import fetch
from xinfer.worker.weights.progress import Progress, Show
from xinfer.worker.weights.store import WeightsRecord, WeightStore

log = logging.getLogger(__name__)

SHOW_EVERY_S = 0.25
"""Those who wait hear of it no more often."""


class _Download:
    """One download. It ends when it is done, or when nobody wants it any more."""

    def __init__(self) -> None:
        self.now = Progress()
        self.followers: list[Show] = []
        self.cancelling = False
        self.ended = asyncio.Event()
        self.record: WeightsRecord | None = None
        self.error: XinferError = DownloadFailed("the download was cancelled")
        self.task: asyncio.Task[None]
        self._told = self.now
        self._pause: asyncio.TimerHandle | None = None

    def show(self, progress: Progress) -> None:
        """Tell the followers, but not of every block; the latest word always reaches them."""
        self.now = progress
        if self._pause is None and not self.ended.is_set():
            self._told = progress
            self._pause = asyncio.get_running_loop().call_later(SHOW_EVERY_S, self._after_pause)
            for follower in list(self.followers):
                follower(progress)

    def end(self) -> None:
        """Whoever waits goes on."""
        if self._pause is not None:
            self._pause.cancel()
        self.ended.set()

    def _after_pause(self) -> None:
        self._pause = None
        if self._told is not self.now:
            self.show(self.now)


class Downloads:
    """See the module. Lives in one event loop."""

    def __init__(self, store: WeightStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._downloads: dict[str, _Download] = {}
        """By the name of the preferred set; only those under way."""

    async def downloaded(self, wanted: Sequence[WeightSet], show: Show) -> WeightsRecord:
        """Wait for one of the sets, which hold the same weights. Cancelled, the last one to wait ends the download.

        Raises:
            DownloadFailed: it cannot be had; says why.
            InvalidRequest: the repository has no such weights.
        """
        download = await self._running(wanted)
        download.followers.append(show)
        show(download.now)
        try:
            await download.ended.wait()
        finally:
            download.followers.remove(show)
            if not (download.followers or download.ended.is_set()):
                download.cancelling = True
                download.task.cancel()
                await asyncio.wait([download.task])  # until then it holds its files, and nobody could remove them
        if download.record is None:
            raise download.error
        return download.record

    async def close(self) -> None:
        """End every download."""
        tasks = [download.task for download in self._downloads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _running(self, wanted: Sequence[WeightSet]) -> _Download:
        """The download under way; one that is being cancelled is waited for and begun anew."""
        name = wanted[0].name
        while (known := self._downloads.get(name)) is not None:
            if not known.cancelling:
                return known
            await known.ended.wait()
        download = self._downloads[name] = _Download()
        download.task = asyncio.create_task(self._run(name, download, wanted))
        return download

    async def _run(self, name: str, download: _Download, wanted: Sequence[WeightSet]) -> None:
        log.info("downloading %s", wanted[0].source)
        try:
            download.record = await fetch(self._store, self._settings, wanted, download.show)
            log.info("the weights of %s are complete", download.record.source)
        except XinferError as error:
            download.error = error
            log.warning("no weights of %s: %s", wanted[0].source, error.message)
        finally:
            del self._downloads[name]
            download.end()
