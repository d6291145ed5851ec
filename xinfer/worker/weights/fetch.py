"""Making a set of weights complete: from the first hub that has it, all of its files or none that count."""

import asyncio
import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from xinfer.catalog.hubs import HUBS, Listing, Origin, Unreachable, hub_client, listing
from xinfer.catalog.repository import RemoteFile, index_of, indexed_weights, needed, unsafe
from xinfer.catalog.weight_sets import WeightSet
from xinfer.errors import DownloadFailed, InvalidRequest
from xinfer.settings import Settings
from xinfer.worker.weights.cache import RepositoryCache
from xinfer.worker.weights.progress import Meter, Progress, Show, amount, unseen
from xinfer.worker.weights.store import WeightsRecord, WeightStore
from xinfer.worker.weights.transfer import Transfer, is_disk_full

AT_ONCE = 4
"""Files that are downloaded side by side."""


class OutOfDisk(DownloadFailed):
    """There is no room, from whichever hub it comes."""


async def fetch(
    store: WeightStore, settings: Settings, wanted: Sequence[WeightSet], show: Show, *, verify: bool = False
) -> WeightsRecord:
    """Have one of the sets, which hold the same weights: what is missing is downloaded. ``verify`` what is here.

    Raises:
        DownloadFailed: it cannot be had; says why from each hub, and what to do.
        InvalidRequest: the repository has no such weights.
    """
    candidates = _of_hubs(wanted, settings)
    reasons: list[str] = []
    cut_off = settings.offline
    if settings.offline:
        reasons.append("nothing is downloaded, because XINFER_OFFLINE is set")
    else:
        async with httpx.AsyncClient() as http:
            for one in candidates:
                client = hub_client(settings, one.source.hub)
                show(Progress())
                try:
                    found = await listing(http, client, one.source)
                    return await _Fetch(Origin(http, client, one.source, found.commit), store, one, found).run(
                        show, verify=verify
                    )
                except OutOfDisk:
                    raise
                except DownloadFailed as error:
                    cut_off = cut_off or isinstance(error, Unreachable)
                    reasons.append(error.message)
    for one in candidates:
        if (record := adopted(store, one)) is not None:
            return record
    if cut_off:
        reasons.append(_what_to_do(store, candidates[0]))
    raise DownloadFailed("; ".join(reasons))


def adopted(store: WeightStore, wanted: WeightSet) -> WeightsRecord | None:
    """The set, if another program, or a copy from another machine, brought all of its files into the cache."""
    cache = store.cache(wanted.source)
    try:
        commit, chosen = cache.complete(wanted.format, wanted.source.files)
    except InvalidRequest:
        return None
    return store.write(wanted, commit, chosen)


def _of_hubs(wanted: Sequence[WeightSet], settings: Settings) -> list[WeightSet]:
    """Those of the hub that the settings name."""
    only = HUBS.get(settings.model_src)
    left = [one for one in wanted if only in (None, one.source.hub)]
    if not left:
        there = ", ".join(str(one.source) for one in wanted)
        raise DownloadFailed(
            f"XINFER_MODEL_SRC is {settings.model_src}, and that has no such weights as far as the catalog knows; "
            f"they are at {there}"
        )
    return left


def _what_to_do(store: WeightStore, wanted: WeightSet) -> str:
    source = wanted.source
    files = f"the files {source.files} of {source.page}" if source.files else f"the files of {source.page}"
    cache = store.cache(source)
    _, here = cache.found()
    has = f"; it has {', '.join(file.path for file in here)}" if here else "; it has none of them"
    return (
        f"missing are {files} in {cache.folder}{has}. Bring that folder from a machine that has it (xinfer models pull "
        f"{source}, or hf download), or launch the model with the path of a folder with the files (--model-path)"
    )


def _indexed(snapshot: Path, files: Sequence[RemoteFile], wanted: WeightSet) -> frozenset[str] | None:
    """The weights that the index names, where nobody has named some."""
    return None if wanted.source.files else indexed_weights(snapshot, index_of(files, wanted.format))


class _Fetch:
    """One attempt, from one hub."""

    def __init__(self, origin: Origin, store: WeightStore, wanted: WeightSet, found: Listing) -> None:
        self._origin = origin
        self._store = store
        self._wanted = wanted
        self._files = found.files
        self._cache = store.cache(wanted.source)

    async def run(self, show: Show, *, verify: bool) -> WeightsRecord:
        commit = self._origin.commit
        with self._store.lock(self._wanted.name) as lock, _explained(self._cache):
            lock.try_shared()  # whoever removes the set now lets us begin again
            index = index_of(self._files, self._wanted.format)
            if index is not None:
                self._require_safe([index])
                await self._download([index], unseen, verify=verify)
                self._cache.publish(commit, [index])
            indexed = _indexed(self._cache.snapshot(commit), self._files, self._wanted)
            chosen = needed(self._files, self._wanted.format, self._wanted.source.files, indexed)
            self._require_safe(chosen)
            self._require_room(chosen)
            await self._download(chosen, show, verify=verify)
            self._cache.publish(commit, chosen)
            return self._store.write(self._wanted, commit, chosen)

    def _require_safe(self, files: Sequence[RemoteFile]) -> None:
        if wrong := unsafe(files):
            raise DownloadFailed(f"{self._wanted.source.page} lists files that cannot be downloaded safely: {wrong}")

    def _require_room(self, files: Sequence[RemoteFile]) -> None:
        missing = sum(file.size - min(file.size, self._cache.so_far(file)) for file in files)
        if missing > _free(self._cache.folder):
            raise _out_of_disk(self._cache, missing)

    async def _download(self, files: Sequence[RemoteFile], show: Show, *, verify: bool) -> None:
        meter = Meter(files, show)
        for file in files:
            meter.set(file.path, min(file.size, self._cache.so_far(file)))
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(file: RemoteFile) -> None:
            async with turns:
                await self._transfer(file).run(lambda done, note: meter.set(file.path, done, note), verify=verify)

        tasks = [asyncio.create_task(one(file)) for file in files]
        try:
            await asyncio.gather(*tasks)
        finally:  # the first failure ends the others, and nobody writes once we have returned
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _transfer(self, file: RemoteFile) -> Transfer:
        return Transfer(self._origin, self._cache, file)


@contextlib.contextmanager
def _explained(cache: RepositoryCache) -> Iterator[None]:
    """Errors of the disk in words that help."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise _out_of_disk(cache, 0) from error
        raise DownloadFailed(f"{cache.folder} cannot be written: {error}") from error


def _out_of_disk(cache: RepositoryCache, missing: int) -> OutOfDisk:
    free = _free(cache.folder)
    figures = f"needs more than is free: {amount(free, missing)} are there" if missing > free else "is full"
    return OutOfDisk(
        f"the disk of {cache.folder} {figures}. Free some (xinfer models cached, xinfer models remove), or set "
        "XINFER_HF_CACHE or XINFER_HOME to a larger disk; what was downloaded is kept"
    )


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.exists() else _free(folder.parent)
