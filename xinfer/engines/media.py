"""The images of a request: their bytes, wherever they come from, within the limits. The model's engine decodes them."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence

import msgspec

from xinfer.engines.fetching import Fetcher
from xinfer.engines.image_header import FORMATS, ImageHeader, read_header
from xinfer.errors import InvalidRequest
from xinfer.protocols.content import Detail, ImagePart, read_data_url
from xinfer.settings import Settings

MIB = 1024 * 1024


class Image(msgspec.Struct, frozen=True):
    """An image file as it came, and small enough. ``where`` names it in errors."""

    where: str
    data: bytes
    header: ImageHeader
    digest: str
    """Equal for equal content (and ``detail``), so that what is known of one image is used for no other."""
    detail: Detail = "auto"
    """low: it is to be looked at as at most 512 x 512 pixels."""


class MediaLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What requests may bring."""

    images: int
    """In one request."""
    mib: int
    """Of one image file."""
    pixels: int
    """Of one image."""
    requests: int = 32
    """With images, that are worked on at once; the others wait."""

    @classmethod
    def of(cls, settings: Settings) -> "MediaLimits":
        """As they are set."""
        return cls(
            images=settings.media_max_images,
            mib=settings.media_max_mib,
            pixels=settings.media_max_pixels,
            requests=settings.media_max_requests,
        )


class ImageLoader:
    """Gets the images that messages refer to. Belongs to the event loop.

    Args:
        limits: what requests may bring.
        fetcher: for those on other machines.
    """

    def __init__(self, limits: MediaLimits, fetcher: Fetcher) -> None:
        self._limits = limits
        self._fetcher = fetcher
        self._turns = asyncio.Semaphore(limits.requests)
        self.waiting = 0
        """Requests whose turn has not come."""

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn, and have it: what images become takes many times the memory of their files."""
        self.waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    @classmethod
    def of(cls, settings: Settings) -> "ImageLoader":
        """With the limits that are set."""
        hosts = [host.strip() for host in settings.media_hosts.split(",")]
        fetcher = Fetcher(hosts, settings.media_timeout_s, settings.media_max_mib * MIB)
        return cls(MediaLimits.of(settings), fetcher)

    async def load(self, parts: Sequence[ImagePart]) -> list[Image]:
        """All images of one request. One that occurs twice is fetched once.

        Raises:
            InvalidRequest: there are too many, or one cannot be had, is too large, or is no image; ``param`` names it.
        """
        if len(parts) > self._limits.images:
            raise InvalidRequest(
                f"the messages have {len(parts)} images; {self._limits.images} are allowed (XINFER_MEDIA_MAX_IMAGES)",
                param=parts[self._limits.images].where,
            )
        remote = {part.url: part.where for part in parts if not part.url.lower().startswith("data:")}
        async with asyncio.TaskGroup() as group:
            tasks = {url: group.create_task(self._attempt(url, where)) for url, where in remote.items()}
        fetched = {url: task.result() for url, task in tasks.items()}
        return await asyncio.to_thread(self._read, parts, fetched)

    async def close(self) -> None:
        """Close the connections."""
        await self._fetcher.close()

    async def _attempt(self, url: str, where: str) -> bytes | InvalidRequest:
        """What came of it: a task group would wrap an error, and this one is for the client."""
        try:
            return await self._fetcher.fetch(url, where)
        except InvalidRequest as error:
            return error

    def _read(self, parts: Sequence[ImagePart], fetched: dict[str, bytes | InvalidRequest]) -> list[Image]:
        """Decode what came in the request itself, and look at every header. Takes milliseconds per MiB."""
        images = []
        for part in parts:
            data = fetched[part.url] if part.url in fetched else read_data_url(part)
            if isinstance(data, InvalidRequest):
                raise data
            images.append(checked_image(part, data, self._limits))
        return images


def checked_image(part: ImagePart, data: bytes, limits: MediaLimits) -> Image:
    """An image within the limits.

    Raises:
        InvalidRequest: it is not; says what is allowed.
    """
    where = part.where
    if len(data) > limits.mib * MIB:
        raise InvalidRequest(
            f"{where} has {len(data) / MIB:.1f} MiB; {limits.mib} are allowed (XINFER_MEDIA_MAX_MIB)", param=where
        )
    header = read_header(data)
    if header is None:
        raise InvalidRequest(f"{where} is not an image that is read here ({', '.join(FORMATS)})", param=where)
    if header.pixels > limits.pixels:
        raise InvalidRequest(
            f"{where} has {header.width} x {header.height} pixels, {header.pixels} together; {limits.pixels} are "
            "allowed (XINFER_MEDIA_MAX_PIXELS)",
            param=where,
        )
    digest = hashlib.blake2b(data, digest_size=16, person=part.detail.encode()).hexdigest()
    return Image(where, data, header, digest, part.detail)
