"""From what Whisper wrote about a window of sound to segments, and to where the next window begins. Pure."""

import zlib
from collections.abc import Callable, Sequence

import msgspec

from xinfer.engines.whisper.marks import Marks
from xinfer.protocols.transcriptions import Segment

SILENT_ABOVE = 0.6
"""A window is silent if the model says so with more than this probability ..."""
UNSURE_BELOW = -1.0
"""... and was this unsure of what it wrote (the mean of the logarithms of its probabilities)."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What the decoder wrote about one window, without the token at the end."""

    tokens: list[int]
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0

    @property
    def is_silence(self) -> bool:
        """Whether there is nothing to hear in it."""
        return self.no_speech_prob > SILENT_ABOVE and self.avg_logprob < UNSURE_BELOW


class Heard(msgspec.Struct, frozen=True):
    """The segments of a window, and how many seconds of it they account for."""

    segments: list[Segment]
    seconds: float


def segments_of(
    written: Written,
    marks: Marks,
    text_of: Callable[[Sequence[int]], str],
    *,
    start: float,
    length: float,
    temperature: float,
) -> Heard:
    """Cut at the times that the model wrote.

    A text without a time at its end was cut off by the end of the window: the next window begins where the last
    complete segment ends, and hears it again.

    Args:
        written: the tokens.
        marks: what they mean.
        text_of: decodes tokens of text.
        start: where the window begins, in seconds.
        length: the seconds of sound in it.
        temperature: at which it was written.
    """
    if written.is_silence:
        return Heard([], length)
    segments = []
    pieces, rest = _pieces(written.tokens, marks)
    for tokens in pieces:
        text = text_of([token for token in tokens if token < marks.end])
        begin, end = marks.seconds(tokens[0]), _end(tokens, marks, length)
        if text.strip() and end > begin:
            segments.append(
                Segment(
                    start=round(start + begin, 2),
                    end=round(start + end, 2),
                    text=text,
                    tokens=list(tokens),
                    temperature=temperature,
                    avg_logprob=written.avg_logprob,
                    compression_ratio=_compression(text),
                    no_speech_prob=written.no_speech_prob,
                    seek=round(start * 100),
                )
            )
    return Heard(segments, marks.seconds(rest) if rest is not None and marks.seconds(rest) > 0 else length)


def _pieces(tokens: Sequence[int], marks: Marks) -> tuple[list[Sequence[int]], int | None]:
    """Tokens between two times, and the time from which on the rest is heard again; None: there is no rest."""
    times = marks.times
    cuts = [place for place in range(1, len(tokens)) if tokens[place - 1] >= times and tokens[place] >= times]
    ends_in_one = len(tokens) > 1 and tokens[-1] >= times > tokens[-2]
    if not cuts:
        return ([tokens] if tokens and tokens[0] >= times else []), None
    bounds = [0, *cuts, *([len(tokens)] if ends_in_one else [])]
    pieces = [tokens[bounds[place] : bounds[place + 1]] for place in range(len(bounds) - 1)]
    return pieces, None if ends_in_one else tokens[cuts[-1] - 1]


def _end(tokens: Sequence[int], marks: Marks, length: float) -> float:
    closed = len(tokens) > 1 and tokens[-1] >= marks.times
    return min(marks.seconds(tokens[-1]), length) if closed else length


def _compression(text: str) -> float:
    data = text.encode()
    return round(len(data) / len(zlib.compress(data)), 3)
