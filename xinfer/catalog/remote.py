"""A ModelSpec from a repository of a hub, of which only the small files and the headers of the weights are fetched.

They become a folder whose large files are mostly holes, and that is read like any other.
"""

import asyncio
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import httpx
import msgspec

from xinfer.catalog.hubs import Again, HubClient, Origin, check, hub_client, listing, persistently
from xinfer.catalog.introspect import introspect, shape_of
from xinfer.catalog.repository import INDEX, RemoteFile, index_of, indexed_weights, needed, unsafe
from xinfer.catalog.sources import HubSource, missing_weights
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
TIMEOUT = httpx.Timeout(10.0, connect=5.0)
AT_ONCE = 8


def remote_spec(source: HubSource, kinds: Collection[Kind] = (), *, settings: Settings) -> ModelSpec:
    """What a repository of a hub holds; ``kinds`` as for ``introspect``. Blocks for some requests to the hub.

    Raises:
        InvalidRequest: nothing that we know, or the settings forbid to ask.
        DownloadFailed: the hub cannot be reached, or refuses.
    """
    if settings.offline:
        raise missing_weights(source)
    with tempfile.TemporaryDirectory(prefix="xinfer-") as folder:
        path = asyncio.run(_skeleton(source, settings, Path(folder)))
        spec = introspect(str(path), source.title, kinds)
        return msgspec.structs.replace(spec, source=str(source), shape=shape_of(spec))


async def _skeleton(source: HubSource, settings: Settings, folder: Path) -> Path:
    """Make the folder; what of it to read."""
    client = hub_client(settings, source.hub)
    async with httpx.AsyncClient(timeout=TIMEOUT) as http:
        found = await listing(http, client, source)
        files = found.files
        weights_format = _format_of(source, files)
        drawing = _Drawing(Origin(http, client, source, found.commit), client, folder)
        index = index_of(files, weights_format)
        if index is not None:
            await drawing.draw(index)
        chosen = needed(files, weights_format, source.files, indexed_weights(folder, index))
        if wrong := unsafe(chosen):
            raise DownloadFailed(f"{source.page} lists files that cannot be looked at safely: {wrong}")
        await drawing.draw_all(chosen)
    return folder / chosen[0].path if weights_format is Format.GGUF else folder


def _format_of(source: HubSource, files: Sequence[RemoteFile]) -> Format:
    suffixes = {Path(file.path).suffix for file in files}
    gguf_only = ".gguf" in suffixes and ".safetensors" not in suffixes
    return Format.GGUF if gguf_only or source.files.endswith(".gguf") else Format.SAFETENSORS


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

        return await persistently(attempt) if length else b""

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
