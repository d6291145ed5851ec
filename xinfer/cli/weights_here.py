"""The weights on this machine, without a server: what ``--local`` of ``xinfer models`` acts on."""

import asyncio
from collections.abc import Sequence
from typing import Any

from xinfer.catalog import builtin
from xinfer.catalog.roots import Roots
from xinfer.catalog.weight_sets import WeightSet, means
from xinfer.cli.download_bars import DownloadBars
from xinfer.client.weights import CachedStatus, FileDownload, PullStatus
from xinfer.errors import InvalidRequest, NotFound
from xinfer.protocol import LaunchRequest
from xinfer.settings import Settings

# The modules of worker and supervisor are imported where they are used, so that --help is quick.


def pull_here(name: str, words: dict[str, Any], *, verify: bool) -> PullStatus:
    """Download weights to this machine, showing how far they are.

    Raises:
        InvalidRequest: there are no such weights; says what would be right.
        DownloadFailed: they cannot be had.
    """
    from xinfer.worker.weights.fetch import fetch  # noqa: PLC0415

    settings, store = _here()
    wanted = _wanted(name, words, settings)
    with DownloadBars(name) as bars:

        def show(now: Any) -> None:
            bars.update(now.files, now.stage)
            bars.total(now.done, now.total)

        record = asyncio.run(fetch(store, settings, wanted, show, verify=verify))
    files = tuple(FileDownload(name=file.path, done=file.size, total=file.size) for file in record.files)
    return PullStatus(
        source=record.source, state="ready", done=record.size, total=record.size, files=files, path=str(record.path)
    )


def cached_here() -> list[CachedStatus]:
    """What was downloaded to this machine."""
    _, store = _here()
    return [
        CachedStatus(
            name=one.name,
            source=one.source,
            format=one.format.value if one.format else None,
            size=one.size,
            complete=one.complete,
            used_by=one.used_by,
            downloaded_at=one.downloaded_at,
            path=one.path,
        )
        for one in store.cached()
    ]


def remove_here(name: str) -> int:
    """Remove weights from this machine; how many bytes became free.

    Raises:
        NotFound: there are none.
        Conflict: a replica uses them; says which.
    """
    _, store = _here()
    chosen = [one.name for one in store.cached() if means(name, one)]
    if not chosen:
        raise NotFound(f"there are no weights of {name!r} here; xinfer models cached --local shows what there is")
    return sum(store.remove(one) for one in chosen)


def _here() -> tuple[Settings, Any]:
    from xinfer.worker.weights.store import WeightStore  # noqa: PLC0415

    try:
        settings = Settings.from_env()
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    return settings, WeightStore(settings)


def _wanted(name: str, words: dict[str, Any], settings: Settings) -> Sequence[WeightSet]:
    """The sets of weights that are meant, as ``fetch`` takes them.

    Raises:
        InvalidRequest: there are none; says what would be right.
        DownloadFailed: the hubs do not say what there is.
    """
    from xinfer.supervisor.looks import HubLooks  # noqa: PLC0415
    from xinfer.supervisor.meaning import Meanings  # noqa: PLC0415

    meanings = Meanings(builtin(), Roots.of(settings), HubLooks(settings))
    return meanings.weights(LaunchRequest(model_name=name, **words))
