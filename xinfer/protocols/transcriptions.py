"""The wire format of ``/v1/audio/transcriptions`` and ``/v1/audio/translations``: OpenAI's.

A request is a form with a recording in it; ``parse_transcription`` reads it. An answer is a ``Transcript``, written in
the format that was asked for by ``encode_transcript``, or a stream of events, written by ``delta_event`` and
``done_event``.
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.ops import Op
from xinfer.protocols.multipart import Field, File, FormReader, read_form


class TranscriptFormat(StrEnum):
    """How an answer is written."""

    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VTT = "vtt"
    VERBOSE_JSON = "verbose_json"


MEDIA_TYPES = {
    TranscriptFormat.JSON: b"application/json",
    TranscriptFormat.VERBOSE_JSON: b"application/json",
    TranscriptFormat.TEXT: b"text/plain; charset=utf-8",
    TranscriptFormat.SRT: b"text/plain; charset=utf-8",
    TranscriptFormat.VTT: b"text/vtt; charset=utf-8",
}
SUBTITLES = frozenset({TranscriptFormat.SRT, TranscriptFormat.VTT})
STREAMED = frozenset({TranscriptFormat.JSON, TranscriptFormat.TEXT})
"""Formats in which an answer may be streamed: the events are the same for both."""


class TranscriptionBody(msgspec.Struct, kw_only=True):
    """The form, for the documentation: ``file`` is a recording in WAV, FLAC, MP3, Ogg, MP4 or WebM."""

    file: bytes
    model: str
    language: str | None = None
    """ISO 639-1, such as ``de``; where it is left out, the model tells it from the recording."""
    prompt: str | None = None
    """What was said before, or names and words as they are to be spelled."""
    response_format: TranscriptFormat = TranscriptFormat.JSON
    temperature: float = 0.0
    stream: bool = False
    timestamp_granularities: list[str] = msgspec.field(name="timestamp_granularities[]", default_factory=list)


class TranslationBody(msgspec.Struct, kw_only=True):
    """The form, for the documentation; the answer is in English."""

    file: bytes
    model: str
    prompt: str | None = None
    response_format: TranscriptFormat = TranscriptFormat.JSON
    temperature: float = 0.0
    stream: bool = False


class TranscriptionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. The recording stays where it is in the body."""

    file: File
    format: TranscriptFormat = TranscriptFormat.JSON
    format_field: Field | None = None
    """Where the form says it; None: it does not."""
    language: str | None = None
    prompt: str = ""
    temperature: float = 0.0
    seed: int | None = None
    stream: bool = False
    translate: bool = False
    """Write English, whatever is spoken."""
    others: tuple[str, ...] = ()
    """Names of fields that were given and are not among these."""


_HARMLESS = frozenset({"model", "user", "chunking_strategy"})
"""Accepted with any value: how a recording is cut is our business, and the rest changes nothing."""
_READ = frozenset(
    {"language", "prompt", "response_format", "temperature", "seed", "stream", "timestamp_granularities"}
) | {"timestamp_granularities[]"}


def parse_transcription(op: Op, content_type: str, body: bytes) -> TranscriptionRequest:
    """Read and check a request.

    Raises:
        InvalidRequest: no form, no recording, or a field with a value that it cannot have; names the field.
        UnsupportedParameter: something that is right in itself, but that we do not do.
    """
    form = read_form(content_type, body)
    file = form.files.get("file")
    if file is None:
        raise InvalidRequest("the form must have the recording as the file 'file'", param="file")
    if file.place.start == file.place.stop:
        raise InvalidRequest("the file 'file' is empty", param="file")
    if extra := sorted(form.files.keys() - {"file"}):
        raise InvalidRequest(
            f"the form has a file {extra[0]!r}; the recording is 'file', and the only one", param=extra[0]
        )
    written = _format(form)
    stream = _number(form, "stream", bool, False)
    if stream and written not in STREAMED:
        raise InvalidRequest(
            f"an answer in {written} cannot be streamed: its times are known at the end; leave out 'stream' or ask for "
            "'json' or 'text'",
            param="stream",
        )
    _check_granularities(form, written)
    temperature = _number(form, "temperature", float, 0.0)
    if not 0 <= temperature <= 1:
        raise InvalidRequest("'temperature' must be a number from 0 to 1", param="temperature")
    given = form.fields.get("response_format")
    return TranscriptionRequest(
        file=file,
        format=written,
        format_field=given[-1] if given else None,
        language=(form.value("language") or "").strip().lower() or None,
        prompt=form.value("prompt") or "",
        temperature=temperature,
        seed=_number(form, "seed", int, None),
        stream=stream,
        translate=op is Op.TRANSLATION,
        others=tuple(sorted(form.fields.keys() - _READ - _HARMLESS)),
    )


def refuse_others(request: TranscriptionRequest, engine: str) -> None:
    """For engines that know no further fields.

    Raises:
        UnsupportedParameter: there is one; names it.
    """
    if request.others:
        name = request.others[0]
        raise UnsupportedParameter(
            f"{name!r} is not supported by the engine {engine!r} that serves the model; leave it out", param=name
        )


def _format(form: FormReader) -> TranscriptFormat:
    name = form.value("response_format") or TranscriptFormat.JSON
    try:
        return TranscriptFormat(name)
    except ValueError:
        raise InvalidRequest(
            f"'response_format' must be one of {', '.join(TranscriptFormat)}, not {name!r}", param="response_format"
        ) from None


def _check_granularities(form: FormReader, written: TranscriptFormat) -> None:
    name = "timestamp_granularities"
    given = [value for value in form.values(name) if value]
    for value in given:
        if value == "word":
            raise UnsupportedParameter("times of words are not supported; ask for those of segments", param=name)
        if value != "segment":
            raise InvalidRequest(f"'{name}' must be 'segment', not {value!r}", param=name)
    if given and written is not TranscriptFormat.VERBOSE_JSON:
        raise InvalidRequest(f"'{name}' needs 'response_format' to be 'verbose_json'", param=name)


def _number(form: FormReader, name: str, kind: type[Any], default: Any) -> Any:
    """A field of a form, which is text, as a value of another type."""
    value = form.value(name)
    if value is None or value == "":
        return default
    try:
        return msgspec.convert(value.strip(), kind, strict=False)
    except msgspec.ValidationError:
        must_be = {bool: "true or false", float: "a number", int: "an integer"}[kind]
        raise InvalidRequest(f"{name!r} must be {must_be}, not {value[:100]!r}", param=name) from None


# --- answers ----------------------------------------------------------------------------------------------------------


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a transcript; times in seconds from the start of the recording."""

    start: float
    end: float
    text: str
    tokens: list[int] = []
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 1.0
    """The text's bytes by those of it compressed: a model that repeats itself has a high one."""
    no_speech_prob: float = 0.0
    seek: int = 0
    """Where the window began in which it was heard, in hundredths of a second."""


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """A whole recording. ``duration`` in seconds; ``language`` as ISO 639-1."""

    text: str
    language: str
    duration: float
    segments: list[Segment]


def encode_transcript(transcript: Transcript, written: TranscriptFormat, *, translate: bool) -> bytes:
    """The body of an answer."""
    match written:
        case TranscriptFormat.TEXT:
            return transcript.text.encode() + b"\n"
        case TranscriptFormat.SRT:
            return _srt(transcript.segments).encode()
        case TranscriptFormat.VTT:
            return _vtt(transcript.segments).encode()
        case TranscriptFormat.JSON:
            usage = {} if translate else {"usage": duration_usage(transcript.duration)}
            return msgspec.json.encode({"text": transcript.text, **usage})
        case TranscriptFormat.VERBOSE_JSON:
            return msgspec.json.encode(
                {
                    "task": "translate" if translate else "transcribe",
                    "language": transcript.language,
                    "duration": transcript.duration,
                    "text": transcript.text,
                    "segments": [
                        {"id": number, **msgspec.structs.asdict(segment)}
                        for number, segment in enumerate(transcript.segments)
                    ],
                    "usage": duration_usage(transcript.duration),
                }
            )


def delta_event(text: str) -> bytes:
    """A further piece of the text, as an event of a stream."""
    return b'data: {"type":"transcript.text.delta","delta":%s}\n\n' % msgspec.json.encode(text)


def done_event(text: str, usage: Mapping[str, Any] | None) -> bytes:
    """The last event: all of the text, and what it took where that is known."""
    done = {"type": "transcript.text.done", "text": text}
    return b"data: %s\n\n" % msgspec.json.encode(done if usage is None else {**done, "usage": usage})


def duration_usage(seconds: float) -> dict[str, Any]:
    """What was heard; it counts in whole seconds."""
    return {"type": "duration", "seconds": math.ceil(seconds)}


def token_usage(read: int, written: int) -> dict[str, Any]:
    """What was read and written, in tokens."""
    return {"type": "tokens", "input_tokens": read, "output_tokens": written, "total_tokens": read + written}


def _srt(segments: list[Segment]) -> str:
    return "".join(
        f"{number}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{_cue(segment.text)}\n\n"
        for number, segment in enumerate(segments, 1)
    )


def _vtt(segments: list[Segment]) -> str:
    cues = [f"{_clock(item.start, '.')} --> {_clock(item.end, '.')}\n{_cue(item.text)}\n\n" for item in segments]
    return "WEBVTT\n\n" + "".join(cues)


def _cue(text: str) -> str:
    """A cue must not look like the end of itself, nor like a line of times."""
    return " ".join(text.split()).replace("-->", "->")


def _clock(seconds: float, mark: str) -> str:
    """``01:02:03.450``, with the mark before the milliseconds."""
    total = round(seconds * 1000)
    return f"{total // 3_600_000:02}:{total // 60_000 % 60:02}:{total // 1000 % 60:02}{mark}{total % 1000:03}"
