"""Frames: a nine-byte header (payload length, call number, kind) and a payload.

    gateway -> replica   CALL    msgpack of engines.base.Call; the body bytes are the client's, untouched
                         CANCEL  the client is gone: work no longer for this call
                         CREDIT  u32: bytes that the client's socket has taken, so many more may be sent
                         PING    asks for a LOAD, and says that we live; every PING_EVERY_S while calls are under way
    replica -> gateway   HEAD    msgpack (status, [[name, value], ...])
                         BODY    bytes for the client's socket
                         END     empty, or msgpack of Failure
                         LOAD    packed engines.base.Load; leads every batch, call number 0

A batch is everything that was written since the last flush, in one ``transport.write``: no envelope is needed, because
the stream is a sequence of frames anyway. One call may have WINDOW bytes under way before it waits for CREDIT. A side
that hears nothing of the other while calls are under way gives it up (``watchdog``).
"""

import struct
from enum import IntEnum

import msgspec

from xinfer.engines.base import Call, Head, Load

WINDOW = 256 * 1024
"""Bytes of one call that may be on their way to a client that does not read."""
MAX_CALL = (1 << 32) - 1
"""The highest call number."""
PING_EVERY_S = 5.0
MAX_MISSED = 4
"""Times PING_EVERY_S without a word after which the other side is given up."""
MAX_FRAME = 1 << 30
"""A longer frame is a broken or foreign peer."""

LARGE_BODY = 64 * 1024
"""Bytes of a request from which on they are not copied into its frame."""

HEADER = struct.Struct("<IIB")
_LOAD = struct.Struct("<IIIff")
_CREDIT = struct.Struct("<I")


class Kind(IntEnum):
    """What a frame carries."""

    CALL = 1
    CANCEL = 2
    CREDIT = 3
    PING = 4
    HEAD = 10
    BODY = 11
    END = 12
    LOAD = 13


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a call ended badly. ``retryable``: nothing was begun here, another replica may answer (we are draining)."""

    message: str
    code: str
    type: str
    status: int
    retryable: bool = False
    param: str | None = None
    retry_after: int | None = None


class _BodyLast(msgspec.Struct, frozen=True):
    """A Call whose body comes last. On the wire it is a map, whose order means nothing."""

    request_id: str
    op: str
    model: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


_NO_BYTES = b"\xc4\x00"
_BYTES = struct.Struct(">BI")
"""What msgpack has before bytes: none of them, and up to 4 GiB."""

RawFrame = tuple[int, int, bytes]
"""(call number, kind, payload)"""

_call_encoder = msgspec.msgpack.Encoder()
_call_decoder = msgspec.msgpack.Decoder(Call)
_failure_decoder = msgspec.msgpack.Decoder(Failure)
_head_decoder = msgspec.msgpack.Decoder(Head)


class WireError(ConnectionError):
    """The peer does not speak this protocol."""


MALFORMED = (WireError, msgspec.MsgspecError, UnicodeDecodeError, struct.error)
"""What reading the frames of such a peer raises."""


def header(call: int, kind: Kind, length: int) -> bytes:
    """The nine bytes before a payload."""
    return HEADER.pack(length, call, kind)


def frame(call: int, kind: Kind, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return HEADER.pack(len(payload), call, kind) + payload


def encode_call(call: Call) -> bytes:
    """The payload of a CALL."""
    return _call_encoder.encode(call)


def encode_large_call(call: Call) -> tuple[bytes, bytes]:
    """The payload of a CALL in two parts, of which the second is the body itself: a large one is not copied."""
    start = _call_encoder.encode(_BodyLast(call.request_id, call.op, call.model, call.headers, b""))
    return start.removesuffix(_NO_BYTES) + _BYTES.pack(0xC6, len(call.body)), call.body


def decode_call(payload: bytes) -> Call:
    """The Call in a CALL payload."""
    return _call_decoder.decode(payload)


def encode_head(head: Head) -> bytes:
    """The payload of a HEAD."""
    return _call_encoder.encode(head)


def decode_head(payload: bytes) -> Head:
    """The Head in a HEAD payload."""
    return _head_decoder.decode(payload)


def encode_failure(failure: Failure) -> bytes:
    """The payload of an END that tells why."""
    return _call_encoder.encode(failure)


def decode_failure(payload: bytes) -> Failure:
    """The Failure in a non-empty END payload."""
    return _failure_decoder.decode(payload)


def encode_load(load: Load) -> bytes:
    """A whole LOAD frame."""
    return HEADER.pack(_LOAD.size, 0, Kind.LOAD) + _LOAD.pack(
        load.running, load.queued, load.tokens_queued, load.kv_usage, load.tokens_per_s
    )


def decode_load(payload: bytes) -> Load:
    """The Load in a LOAD payload."""
    return Load(*_LOAD.unpack(payload))


def encode_credit(call: int, amount: int) -> bytes:
    """A whole CREDIT frame; ``amount`` in bytes."""
    return HEADER.pack(_CREDIT.size, call, Kind.CREDIT) + _CREDIT.pack(amount)


def decode_credit(payload: bytes) -> int:
    """The bytes that a CREDIT payload gives."""
    amount: int = _CREDIT.unpack(payload)[0]
    return amount


class FrameReader:
    """Cuts a byte stream into frames; linear also where one frame arrives in many pieces."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = HEADER.size

    def feed(self, data: bytes) -> list[RawFrame]:
        """The frames that are complete now.

        Raises:
            WireError: a frame longer than MAX_FRAME was announced.
        """
        if self._pieces or len(data) < self._need:
            self._pieces.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._pieces)
            self._pieces = []
        frames: list[RawFrame] = []
        offset, end = 0, len(data)
        unpack, size = HEADER.unpack_from, HEADER.size
        self._need = size
        while end - offset >= size:
            length, call, kind = unpack(data, offset)
            stop = offset + size + length
            if stop > end:
                if length > MAX_FRAME:
                    raise WireError(f"a frame of {length} bytes was announced")
                self._need = size + length
                break
            frames.append((call, kind, data[offset + size : stop]))
            offset = stop
        if offset < end:
            self._pieces = [data[offset:]]
        self._have = end - offset
        return frames
