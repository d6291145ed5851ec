"""One file of a hub: to disk, from where it was left, and compared with its hash before anybody may read it."""

import asyncio
import errno
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

import httpx

from xinfer.catalog.hub_cache import size_of
from xinfer.catalog.hubs import TIMEOUT, Again, Origin, check, persistently
from xinfer.catalog.repository import RemoteFile
from xinfer.errors import DownloadFailed
from xinfer.worker.weights.cache import RepositoryCache
from xinfer.worker.weights.progress import amount

T = TypeVar("T")

BLOCK = 256 * 1024
"""Bytes that are written, hashed and shown together."""
HASHED_AT_ONCE = 8 * 1024 * 1024
WAIT_S = 0.2
"""How often a file that another process fills is looked at."""
PARTIAL_CONTENT, WRONG_RANGE = 206, 416

Told = Callable[[int, str], None]
"""How many bytes of the file are here, and what else there is to say."""


class Transfer:
    """One file. ``told`` hears of every block."""

    def __init__(self, origin: Origin, cache: RepositoryCache, file: RemoteFile) -> None:
        self._origin = origin
        self._source = origin.source
        self._url = origin.url(file)
        self._cache = cache
        self._file = file
        self._part = cache.part(file)

    async def run(self, told: Told, *, verify: bool = False) -> None:
        """Have the file, unless it is here; while another process downloads it, wait. ``verify`` what is here.

        Cancelled or interrupted in whatever way, it leaves what came so far, for the next attempt.

        Raises:
            DownloadFailed: the hub refuses it, sends something else than it lists, or breaks off too often.
            OSError: the disk is full or not writable.
        """
        with self._cache.lock(self._file) as lock:
            while not lock.try_exclusive():
                told(self._cache.so_far(self._file), "by another process")
                await asyncio.sleep(WAIT_S)
            blob = self._cache.blob(self._file)
            if verify or not self._cache.has(self._file):
                await self._filled(blob, told)
            told(self._file.size, "")

    async def _filled(self, blob: Path, told: Told) -> None:
        if size_of(blob) >= 0:  # cut off, or of unknown content: its bytes are checked like those of a part
            blob.replace(self._part)
        self._part.parent.mkdir(parents=True, exist_ok=True)
        for attempt in (1, 2):
            if await self._is_right(told):
                self._part.replace(blob)
                return
            self._part.unlink(missing_ok=True)
            if attempt == 1:
                told(0, "it was corrupt, from the beginning")
        raise DownloadFailed(
            f"{self._file.path} of {self._source.repository} is not what {httpx.URL(self._url).host} lists: its hash "
            "is another one, twice; try again later, or from another hub (XINFER_MODEL_SRC)"
        )

    async def _is_right(self, told: Told) -> bool:
        """Download what is missing; whether the whole has the right hash."""
        with _Part(self._part, self._file) as part:
            await _finished(part.recall)

            async def attempt() -> None:
                await self._append(part, told)

            await persistently(attempt)
            await _finished(part.sync)
            return part.is_right

    async def _append(self, part: "_Part", told: Told) -> None:
        """Download the rest in one go. Raises Again when it breaks off."""
        if part.size > self._file.size:
            part.restart()
        told(part.size, "")
        if part.size == self._file.size:
            return
        before = part.size
        try:
            await self._request(part, told)
        except httpx.TransportError as error:
            raise self._cut(part, f"{type(error).__name__} {error}".rstrip(), before) from error
        if part.size < self._file.size:
            raise self._cut(part, "it ended too early", before)

    def _cut(self, part: "_Part", why: str, before: int) -> Again:
        host, name = httpx.URL(self._url).host, self._file.path
        have = amount(part.size, self._file.size)
        reason = f"{host} broke off {name} at {have}: {why}; what came is kept, the next attempt goes on from there"
        return Again(reason, progressed=part.size > before)

    async def _request(self, part: "_Part", told: Told) -> None:
        # What is compressed on the way has another length, and cannot be gone on with.
        headers = self._origin.client.headers | {"accept-encoding": "identity"}
        if part.size:
            headers["range"] = f"bytes={part.size}-"
        stream = self._origin.http.stream("GET", self._url, headers=headers, timeout=TIMEOUT, follow_redirects=True)
        async with stream as answer:
            if answer.status_code == WRONG_RANGE:
                part.restart()
                raise Again(f"{answer.url.host} does not go on with {self._file.path}")
            check(answer, self._source, self._origin.client)
            if part.size and not _goes_on(answer, part.size):
                part.restart()
            async for block in answer.aiter_raw(BLOCK):
                await _finished(functools.partial(part.append, block))
                told(min(part.size, self._file.size), "")
                if part.size > self._file.size:
                    return  # its hash will show it


def _goes_on(answer: httpx.Response, start: int) -> bool:
    """Whether an answer begins where we asked it to."""
    return answer.status_code == PARTIAL_CONTENT and answer.headers.get("content-range", "").startswith(
        f"bytes {start}-"
    )


class _Part:
    """What is here of a file, and its hash. Its methods block, and are called in threads."""

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self._path = path
        self._file = file
        self._sink: BinaryIO = path.open("ab")
        self.size = size_of(path)
        self._hash = self._fresh_hash()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sink.close()

    def recall(self) -> None:
        """Hash what is here from before."""
        with self._path.open("rb") as source:
            while block := source.read(HASHED_AT_ONCE):
                self._hash.update(block)

    def append(self, block: bytes) -> None:
        """Write another block."""
        self._sink.write(block)
        self._sink.flush()
        self._hash.update(block)
        self.size += len(block)

    def restart(self) -> None:
        """From the beginning, in a new file: who reads what was a blob until now must not see it shrink."""
        self._sink.close()
        self._path.unlink()
        self._sink = self._path.open("ab")
        self.size = 0
        self._hash = self._fresh_hash()

    def sync(self) -> None:
        """Make it last: what is renamed after this is whole, also after a power cut."""
        os.fsync(self._sink.fileno())

    @property
    def is_right(self) -> bool:
        """Whether it is what the hub listed."""
        return self.size == self._file.size and self._hash.hexdigest() == self._file.blob

    def _fresh_hash(self) -> "hashlib._Hash":
        if self._file.sha256:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self._file.size, usedforsecurity=False)  # as git names contents


async def _finished(work: Callable[[], T]) -> T:
    """Do it in a thread, whose end a cancellation waits for: no file is closed under the thread that writes it."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def is_disk_full(error: OSError) -> bool:
    """Whether it is for lack of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
