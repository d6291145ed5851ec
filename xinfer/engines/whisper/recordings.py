"""Recordings as samples. Imports PyAV: only in a replica's process.

A file is decoded as far as somebody listens, and what was listened to is dropped: hours of sound in a small file take
no more memory than its window.
"""

import io

import av
import numpy as np

from xinfer.errors import InvalidRequest

RATE = 16_000
"""Samples per second."""
LOWEST_RATE = 1_000
"""Of a file. With fewer there is no speech in it, only hours that a small file claims to last."""

Samples = np.ndarray[tuple[int], np.dtype[np.float32]]


class _View(io.RawIOBase):
    """A file in memory that is not copied."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # of the buffers, this one is given
        piece = self._data[self._place : self._place + len(buffer)]
        buffer[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._data)}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        return self._place


class Recording:
    """One file with sound, mixed to one channel at ``RATE``.

    Raises:
        InvalidRequest: it is nothing that can be decoded, or has no sound.
    """

    def __init__(self, data: memoryview) -> None:
        try:
            self._container = av.open(_View(data), "r")
            if not self._container.streams.audio:
                raise InvalidRequest("the file has no sound in it", param="file")
            sound = self._container.streams.audio[0]
            self._frames = self._container.decode(sound)
        except (av.error.FFmpegError, EOFError) as error:
            raise _undecodable(error) from error
        if 0 < sound.rate < LOWEST_RATE:
            raise InvalidRequest(
                f"the recording has {sound.rate} samples per second; speech needs at least {LOWEST_RATE}", param="file"
            )
        self._resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
        self._pieces: list[Samples] = []
        self._start = 0
        """Of the first piece, in samples."""
        self._stop = 0
        """How many samples were decoded."""
        self._ended = False

    @property
    def seconds(self) -> float:
        """How long it is, as far as it was decoded."""
        return self._stop / RATE

    def window(self, start: int, count: int) -> Samples:
        """``count`` samples from ``start`` on, fewer at the end; what is before them is forgotten.

        Raises:
            InvalidRequest: the file is damaged there.
        """
        while not self._ended and self._stop < start + count:
            self._decode()
        joined = np.concatenate([*self._pieces, np.zeros(0, np.float32)])
        joined = joined[max(0, start - self._start) :]
        self._pieces, self._start = [joined], max(start, self._start)
        found: Samples = joined[:count]
        return found

    def _decode(self) -> None:
        try:
            frame = next(self._frames, None)
            frames = self._resampler.resample(frame)
        except (av.error.FFmpegError, EOFError) as error:
            raise _undecodable(error) from error
        self._ended = frame is None
        for piece in frames:
            samples = piece.to_ndarray()[0]
            if not np.isfinite(samples).all():
                raise InvalidRequest("the recording has samples that are no numbers (NaN or infinite)", param="file")
            # Players cut what is louder than a file of whole numbers could be; the model's features would overflow.
            self._pieces.append(samples.clip(-1.0, 1.0))
            self._stop += len(samples)


def _undecodable(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"the file is no recording that can be decoded, or it is damaged: {error}", param="file")
