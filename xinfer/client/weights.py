"""The part of the SDK for weights that come from hubs: downloaded ahead of launches, paused, seen, removed."""

import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from xinfer.client.connection import Connection, read

PATH = "/v1/weights"
POLL_S = 0.25
"""Between two looks at the progress of a download, in seconds."""


class FileDownload(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a download, in bytes."""

    name: str
    done: int = 0
    total: int = 0


class PullStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A download that was ordered, on one worker: downloading, ready, failed or cancelled. Sizes in bytes."""

    source: str = ""
    state: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0
    files: tuple[FileDownload, ...] = ()
    reason: str = ""
    path: str = ""


class PullProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A download that was ordered, on all of its workers. When ``done``, an empty ``reason`` means success."""

    name: str
    done: bool = False
    downloaded: int = 0
    total: int = 0
    progress: float = 0.0
    reason: str = ""
    workers: dict[str, PullStatus] = {}


class CachedStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Weights on a worker. ``size`` in bytes, ``downloaded_at`` epoch seconds."""

    name: str
    source: str = ""
    format: str | None = None
    """None: a download that was not finished."""
    size: int = 0
    complete: bool = False
    used_by: tuple[str, ...] = ()
    downloaded_at: float = 0.0
    path: str = ""


class WorkerWeights(msgspec.Struct, frozen=True, kw_only=True):
    """The weights of a worker that come from hubs, and the downloads that were ordered."""

    cached: tuple[CachedStatus, ...] = ()


class _ByWorker(msgspec.Struct, frozen=True):
    workers: dict[str, WorkerWeights] = {}


class Weights:
    """Weights on the workers of a server."""

    http: Connection

    def pull(self, model_name: str, *, workers: Sequence[str] = (), verify: bool = False, **words: Any) -> PullProgress:
        """Have workers (none named: all) download weights; returns when they have begun. ``follow_pull`` says how far.

        ``words`` are those of a launch: model_size_in_billions, model_format, quantization. ``verify`` what is there.

        Raises:
            InvalidRequest: there are no such weights.
            DownloadFailed: the hubs do not say what there is.
        """
        body = {"model_name": model_name, "workers": list(workers), "verify": verify, **words}
        return read(self.http.call("POST", PATH, body=body), PullProgress)

    def pull_progress(self, name: str) -> PullProgress:
        """How far a download is, by the ``name`` that ``pull`` answered."""
        return read(self.http.call("GET", f"{PATH}/{quote(name, safe='')}/progress"), PullProgress)

    def follow_pull(self, name: str) -> Iterator[PullProgress]:
        """The progress of a download, again and again until it is done; the last one says how it ended."""
        while not (now := self.pull_progress(name)).done:
            yield now
            time.sleep(POLL_S)
        yield now

    def cancel_pull(self, name: str) -> None:
        """End a download. What came is kept, and the same order goes on from there."""
        self.http.call("POST", f"{PATH}/{quote(name, safe='')}/cancel")

    def weights(self, workers: Sequence[str] = ()) -> dict[str, WorkerWeights]:
        """The weights of each worker (none named: all) by its name."""
        return read(self.http.call("GET", PATH, params=_only(workers)), _ByWorker).workers

    def remove_weights(self, name: str, workers: Sequence[str] = ()) -> int:
        """Remove weights from workers (none named: all); how many bytes became free.

        Raises:
            NotFound: there are none.
            Conflict: a replica uses them; says which.
        """
        answer = self.http.call("DELETE", f"{PATH}/{quote(name, safe='')}", params=_only(workers))
        return int(answer["freed_bytes"])

    def pause(self, model_uid: str) -> None:
        """Let the download that a launch waits for rest, until ``resume``. What came is kept, over every restart.

        Raises:
            Conflict: it downloads nothing.
        """
        self.http.call("POST", f"/v1/models/{quote(model_uid, safe='')}/pause")

    def resume(self, model_uid: str) -> None:
        """Go on with a download that rests."""
        self.http.call("POST", f"/v1/models/{quote(model_uid, safe='')}/resume")


def _only(workers: Sequence[str]) -> dict[str, list[str]] | None:
    return {"worker": list(workers)} if workers else None
