"""Downloads that somebody ordered for a worker, so that launches need not wait for them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from xinfer.catalog.weight_sets import Pull, WeightSet
from xinfer.errors import NotFound, XinferError, describe
from xinfer.protocol import FileProgress
from xinfer.worker.weights.progress import Progress, Show
from xinfer.worker.weights.store import WeightsRecord

log = logging.getLogger(__name__)

Download = Callable[[Sequence[WeightSet], Show, bool], Awaitable[WeightsRecord]]
"""Have one of the sets, showing how far it is; the last argument: compare what is here with its hashes, too."""


class _Ordered:
    """One that was ordered."""

    def __init__(self, wanted: Sequence[WeightSet]) -> None:
        self.now = Pull(name=wanted[0].name, source=str(wanted[0].source), stage="asking the hub for the list of files")
        self.task: asyncio.Task[None]

    def show(self, progress: Progress) -> None:
        self.now = msgspec.structs.replace(
            self.now, stage=progress.stage, done=progress.done, total=progress.total, files=progress.files
        )

    @property
    def goes_on(self) -> bool:
        return self.now.state == "downloading"


class Pulls:
    """See the module. Lives in one event loop. A worker that is started anew knows of none; what came is kept."""

    def __init__(self, download: Download) -> None:
        self._download = download
        self._ordered: dict[str, _Ordered] = {}
        """By the name of the preferred set; ended ones stay, so that one can ask what became of them."""

    @property
    def states(self) -> tuple[Pull, ...]:
        """Every one since this process started, the latest last, as it is now or ended."""
        return tuple(ordered.now for ordered in self._ordered.values())

    def order(self, wanted: Sequence[WeightSet], *, verify: bool = False) -> Pull:
        """Begin to download one of the sets, which hold the same weights; ``states`` say how far it is."""
        name = wanted[0].name
        known = self._ordered.get(name)
        if known is not None and known.goes_on:
            return known.now
        self._ordered.pop(name, None)  # the latest is the last one
        ordered = self._ordered[name] = _Ordered(wanted)
        ordered.task = asyncio.create_task(self._run(ordered, wanted, verify))
        return ordered.now

    async def cancel(self, name: str) -> Pull:
        """End one. What came is kept, and launches that wait for the same weights go on.

        Raises:
            NotFound: it does not go on here.
        """
        ordered = self._ordered.get(name)
        if ordered is None or not ordered.goes_on:
            raise NotFound(f"{name!r} is not being pulled here")
        ordered.task.cancel()
        await asyncio.gather(ordered.task, return_exceptions=True)
        if ordered.goes_on:
            ordered.now = _ended(ordered.now, "cancelled", stage="cancelled; what came is kept")
        return ordered.now

    async def close(self) -> None:
        """End all of them."""
        tasks = [ordered.task for ordered in self._ordered.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, ordered: _Ordered, wanted: Sequence[WeightSet], verify: bool) -> None:
        try:
            record = await self._download(wanted, ordered.show, verify)
            ordered.now = _ready(ordered.now, record)
        except (XinferError, OSError) as error:
            log.warning("no weights of %s: %s", wanted[0].source, describe(error))
            ordered.now = _ended(ordered.now, "failed", stage="failed", reason=describe(error))


def _ended(ordered: Pull, state: str, *, stage: str, reason: str = "") -> Pull:
    return msgspec.structs.replace(ordered, state=state, stage=stage, reason=reason)


def _ready(ordered: Pull, record: WeightsRecord) -> Pull:
    return msgspec.structs.replace(
        ordered,
        source=record.source,
        state="ready",
        stage="ready",
        done=record.size,
        total=record.size,
        files=tuple(FileProgress(name=file.path, done=file.size, total=file.size) for file in record.files),
        path=str(record.path),
    )
