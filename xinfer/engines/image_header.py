"""What the first bytes of an image file say: its format and size. Pure; nothing is decoded.

Libraries for images differ between engines, so the limits are held here, before any of them sees a byte.
"""

import struct

import msgspec

FORMATS = ("PNG", "JPEG", "WebP", "GIF", "BMP")


class ImageHeader(msgspec.Struct, frozen=True):
    """``width`` and ``height`` are pixels, as stored (a camera may say besides that it is to be turned)."""

    format: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Of the whole image."""
        return self.width * self.height


def read_header(data: bytes) -> ImageHeader | None:
    """The header of an image in one of ``FORMATS``; None: it is no such image."""
    for start, read in _READERS:
        if data.startswith(start):
            try:
                header = read(data)
            except (struct.error, IndexError):
                return None  # it ends before its header does
            return header if header is not None and header.width > 0 and header.height > 0 else None
    return None


def _png(data: bytes) -> ImageHeader | None:
    width, height = struct.unpack_from(">II", data, 16)
    return ImageHeader("PNG", width, height) if data[12:16] == b"IHDR" else None


def _gif(data: bytes) -> ImageHeader:
    return ImageHeader("GIF", *struct.unpack_from("<HH", data, 6))


def _bmp(data: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:  # the header of OS/2
        return ImageHeader("BMP", *struct.unpack_from("<HH", data, 18))
    width, height = struct.unpack_from("<ii", data, 18)
    return ImageHeader("BMP", width, abs(height))  # negative: stored from top to bottom


def _webp(data: bytes) -> ImageHeader | None:
    if data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return ImageHeader("WebP", width, height) if len(data) >= 30 else None
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return ImageHeader("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("WebP", width & 0x3FFF, height & 0x3FFF)
    return None


def _jpeg(data: bytes) -> ImageHeader | None:
    """Walk over the segments to the one that starts a frame."""
    at = 2
    while data[at] == 0xFF:
        mark = data[at + 1]
        if mark == 0xFF:  # padding
            at += 1
        elif 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return ImageHeader("JPEG", width, height)
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


_READERS = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8\xff", _jpeg),
    (b"RIFF", _webp),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
    (b"BM", _bmp),
)
