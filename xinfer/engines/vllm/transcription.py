"""Speech recognition: OpenAI's requests in the words of vLLM's application, and its answers in OpenAI's.

vLLM writes no subtitles, wraps plain text into JSON, and streams chunks that look like those of a chat. What it is not
asked differently goes to it as it came.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import msgspec

from xinfer.engines.base import SSE_HEAD, Call, Frame, Head
from xinfer.engines.passthrough import AsgiCaller
from xinfer.errors import EngineFailed
from xinfer.protocols.multipart import with_value
from xinfer.protocols.transcriptions import (
    MEDIA_TYPES,
    SUBTITLES,
    Segment,
    Transcript,
    TranscriptFormat,
    TranscriptionRequest,
    delta_event,
    done_event,
    encode_transcript,
    parse_transcription,
    token_usage,
)

DATA = b"data: "
END = b"\n\n"


class _Text(msgspec.Struct):
    text: str


class _Piece(msgspec.Struct):
    start: float
    end: float
    text: str


class _Timed(msgspec.Struct):
    text: str
    segments: list[_Piece] | None = None


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Failure(msgspec.Struct):
    message: str = ""


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Failure | None = None


_text = msgspec.json.Decoder(_Text)
_timed = msgspec.json.Decoder(_Timed)
_chunk = msgspec.json.Decoder(_Chunk)


async def serve_speech(caller: AsgiCaller, call: Call) -> AsyncGenerator[Frame, None]:
    """Answer one call.

    Raises:
        XinferError: the request is wrong, or vLLM answered with an error.
    """
    headers: Mapping[str, str] = dict(call.headers)
    request = parse_transcription(call.op, headers.get("content-type", ""), call.body)
    answer = caller.serve(msgspec.structs.replace(call, body=_asked(request, call.body)))
    try:
        head = await anext(answer)
        assert isinstance(head, Head)
        if request.stream:
            events = _events(answer)
            first = await anext(events)  # a failure before it has a status of its own
            yield SSE_HEAD
            yield first
            async for event in events:
                yield event
        elif request.format in {TranscriptFormat.JSON, TranscriptFormat.VERBOSE_JSON}:
            yield head
            async for piece in answer:
                yield piece
        else:
            body = b"".join([piece async for piece in answer if isinstance(piece, bytes)])
            yield Head(200, ((b"content-type", MEDIA_TYPES[request.format]),))
            yield _written(request, body)
    finally:
        await answer.aclose()


def _asked(request: TranscriptionRequest, body: bytes) -> bytes:
    """The form for vLLM."""
    if request.format in SUBTITLES and request.format_field is not None:
        return with_value(body, request.format_field, TranscriptFormat.VERBOSE_JSON)
    return body


def _written(request: TranscriptionRequest, body: bytes) -> bytes:
    """The text or the subtitles that vLLM's JSON holds."""
    if request.format is TranscriptFormat.TEXT:
        transcript = Transcript(text=_text.decode(body).text, language="", duration=0.0, segments=[])
    else:
        found = _timed.decode(body)
        pieces = [Segment(start=one.start, end=one.end, text=one.text) for one in found.segments or ()]
        transcript = Transcript(text=found.text, language="", duration=0.0, segments=pieces)
    return encode_transcript(transcript, request.format, translate=request.translate)


async def _events(answer: AsyncIterator[Frame]) -> AsyncGenerator[bytes, None]:
    """Vllm's chunks as OpenAI's events.

    Raises:
        EngineFailed: vLLM says in the stream that it failed.
    """
    text = ""
    held = b""
    usage: dict[str, Any] | None = None
    async for piece in answer:
        assert isinstance(piece, bytes)
        *whole, held = (held + piece).split(END)
        chunks = [chunk for event in whole if (chunk := _read(event)) is not None]
        if deltas := "".join([choice.delta.content or "" for chunk in chunks for choice in chunk.choices]):
            text += deltas
            yield delta_event(deltas)
        for chunk in chunks:
            if chunk.usage is not None:
                usage = token_usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
    yield done_event(text, usage)


def _read(event: bytes) -> _Chunk | None:
    """A chunk; None: the mark behind the last one."""
    data = event.removeprefix(DATA)
    if data == b"[DONE]":
        return None
    chunk = _chunk.decode(data)
    if chunk.error is not None:
        raise EngineFailed(f"vLLM broke off its answer: {chunk.error.message}")
    return chunk
