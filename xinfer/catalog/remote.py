"""A ModelSpec from a repository of a hub, of which only the small files and the headers of the weights are fetched.

They become a folder whose large files are mostly holes, and that is read like any other.
"""

import asyncio
import re
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import httpx

from xinfer.catalog.downloaded import format_of, spec_at
from xinfer.catalog.hubs import (
    HUBS,
    LOOK,
    TOKEN_OF,
    Absent,
    Again,
    HubClient,
    Origin,
    Unreachable,
    check,
    hub_client,
    listing,
    persistently,
)
from xinfer.catalog.repository import INDEX, RemoteFile, index_of, indexed_weights, needed, unsafe
from xinfer.catalog.sources import REPOSITORY, Hub, HubSource, hub_source
from xinfer.errors import DownloadFailed
from xinfer.ops import Kind
from xinfer.settings import Settings
from xinfer.spec import Format, ModelSpec

SMALL = 1024 * 1024
"""Larger files that are no weights are not looked into."""
SAFETENSORS_HEAD = 64 * 1024
"""Bytes at the beginning, which hold the header of most files; a longer one is asked for in a second request."""
LONGEST_HEADER = 100 * 1024 * 1024
GGUF_HEAD = 32 * 1024 * 1024
"""Bytes at the beginning that hold the metadata of every file that we know of, with its vocabulary."""
TIMEOUT = httpx.Timeout(10.0, connect=4.0)
LISTING_S = 8.0
"""A hub that does not list a repository within this time is not waited for by somebody who waits for us."""
DRAWING_S = 40.0
"""The small files and the headers are here by then, or the line is too slow to be waited for."""
AT_ONCE = 8


def hub_sources(repository: str, settings: Settings) -> tuple[HubSource, ...]:
    """Where a bare ``OWNER/NAME[@REVISION][#FILES]`` is looked for, in this order; none: it is no such id."""
    hubs = tuple(Hub) if settings.model_src == "auto" else (HUBS[settings.model_src],)
    if not REPOSITORY.fullmatch(re.split("[@#]", repository, maxsplit=1)[0]):
        return ()
    return tuple(source for hub in hubs if (source := hub_source(f"{hub}:{repository}")))


def remote_spec(sources: Sequence[HubSource], kinds: Collection[Kind] = (), *, settings: Settings) -> ModelSpec:
    """What a repository holds, on the first of these hubs that has it; ``kinds`` as for ``introspect``.

    Blocks for some requests to the hub.

    Raises:
        InvalidRequest: nothing that we know.
        Unreachable: there is no route to the hubs.
        Absent: none of them has such a repository.
        DownloadFailed: they refuse.
    """
    with tempfile.TemporaryDirectory(prefix="xinfer-") as folder:
        source, path = asyncio.run(_skeleton(sources, settings, Path(folder)))
        return spec_at(path, source, kinds)


def published(sources: Sequence[HubSource], settings: Settings) -> tuple[HubSource, Format]:
    """The first of these repositories that there is, and the format of its weights. Blocks for a request to the hub.

    Raises:
        Unreachable: there is no route to the hubs.
        Absent: none of them has such a repository.
        DownloadFailed: they refuse.
    """

    async def ask() -> tuple[HubSource, Format]:
        async with httpx.AsyncClient(timeout=TIMEOUT) as http:
            origin, files = await _first_listed(http, sources, settings)
            return origin.source, format_of(origin.source, files)

    return asyncio.run(ask())


async def _first_listed(
    http: httpx.AsyncClient, sources: Sequence[HubSource], settings: Settings
) -> tuple[Origin, tuple[RemoteFile, ...]]:
    """The repository on the first hub that has it, and its files."""
    errors: list[DownloadFailed] = []
    for source in sources:
        client = hub_client(settings, source.hub)
        try:
            async with asyncio.timeout(LISTING_S):
                found = await listing(http, client, source, LOOK)
        except DownloadFailed as error:
            errors.append(error)
        except TimeoutError:
            host = httpx.URL(client.listing_url(source)).host
            errors.append(Unreachable(f"{host} does not answer for {source.repository} within {LISTING_S:g} s"))
        else:
            return Origin(http, client, source, found.commit), found.files
    raise errors[0] if len(errors) == 1 else _refusal(sources, errors)


def _refusal(sources: Sequence[HubSource], errors: Sequence[DownloadFailed]) -> DownloadFailed:
    """Why no hub has it. One that was not asked, or would not say, may have what the others have not."""
    if all(isinstance(error, Absent) for error in errors):
        asked = " and ".join(f"{error.details['host']} ({error.details['status']})" for error in errors)
        tokens = " or ".join(TOKEN_OF[source.hub] for source in sources)
        return Absent(
            f"no hub has a repository {sources[0].repository!r}, or not for us: asked were {asked}. If it is private, "
            f"start the supervisor and the workers with {tokens}"
        )
    unreachable = all(isinstance(error, Unreachable) for error in errors)
    return (Unreachable if unreachable else DownloadFailed)("; ".join(error.message for error in errors))


async def _skeleton(sources: Sequence[HubSource], settings: Settings, folder: Path) -> tuple[HubSource, Path]:
    """Make the folder; whose it is, and what of it to read."""
    async with httpx.AsyncClient(timeout=TIMEOUT) as http:
        origin, files = await _first_listed(http, sources, settings)
        source = origin.source
        try:
            async with asyncio.timeout(DRAWING_S):
                return source, await _draw(origin, files, folder)
        except TimeoutError:
            raise DownloadFailed(
                f"the headers of {source.page} did not arrive within {DRAWING_S:g} s; xinfer models pull '{source}' "
                "downloads all of it, at whatever speed, and then it is launched without a look at the hub"
            ) from None


async def _draw(origin: Origin, files: Sequence[RemoteFile], folder: Path) -> Path:
    source = origin.source
    weights_format = format_of(source, files)
    drawing = _Drawing(origin, origin.client, folder)
    index = index_of(files, weights_format)
    if index is not None:
        await drawing.draw(index)
    chosen = needed(files, weights_format, source.files, indexed_weights(folder, index))
    if wrong := unsafe(chosen):
        raise DownloadFailed(f"{source.page} lists files that cannot be looked at safely: {wrong}")
    await drawing.draw_all(chosen)
    return folder / chosen[0].path if weights_format is Format.GGUF else folder


class _Drawing:
    """The folder while it is made."""

    def __init__(self, origin: Origin, client: HubClient, folder: Path) -> None:
        self._origin = origin
        self._client = client
        self._folder = folder
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def draw_all(self, files: Sequence[RemoteFile]) -> None:
        """Every file, with as much of its content as says something."""
        await asyncio.gather(*map(self.draw, files))

    async def draw(self, file: RemoteFile) -> None:
        """A file of the right size whose beginning is true."""
        target = self._folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        async with self._turns:
            content = await self._telling(file)
        with target.open("wb") as sink:
            sink.write(content)
            sink.truncate(file.size)

    async def _telling(self, file: RemoteFile) -> bytes:
        """What of a file says something."""
        if file.path.endswith(".gguf"):
            return await self._first(file, GGUF_HEAD)
        if not file.path.endswith(".safetensors"):
            return await self._first(file, file.size if file.size <= SMALL or file.path == INDEX else 0)
        content = await self._first(file, SAFETENSORS_HEAD)
        header = 8 + int.from_bytes(content[:8], "little")
        return content if header <= len(content) else await self._first(file, min(header, LONGEST_HEADER))

    async def _first(self, file: RemoteFile, length: int) -> bytes:
        length = min(length, file.size)

        async def attempt() -> bytes:
            return await self._beginning(file, length)

        return await persistently(attempt, LOOK) if length else b""

    async def _beginning(self, file: RemoteFile, length: int) -> bytes:
        headers = self._client.headers | {"accept-encoding": "identity", "range": f"bytes=0-{length - 1}"}
        content = bytearray()
        try:
            stream = self._origin.http.stream("GET", self._origin.url(file), headers=headers, follow_redirects=True)
            async with stream as answer:
                check(answer, self._origin.source, self._client)
                async for block in answer.aiter_raw():
                    content += block
                    if len(content) >= length:
                        break
        except httpx.TransportError as error:
            raise Again(f"{self._origin.source.page}: {type(error).__name__} {error}".rstrip()) from error
        return bytes(content[:length])
