"""The tokens of Whisper that are no text, and the rules by which it writes times. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from xinfer.errors import InvalidRequest, LoadFailed

SECONDS_PER_MARK = 0.02
"""From one time token to the next."""
LATEST_START = 50
"""The first time is at most so many marks into the window, where the model's files say nothing else."""

Span = tuple[int, int]
"""Tokens from the first up to, and without, the second."""


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """Ids of the tokens that control Whisper. Below ``end`` is text, from ``times`` on are times."""

    end: int
    start: int
    previous: int | None
    """Before what was said earlier."""
    no_speech: int | None
    no_times: int
    transcribe: int | None
    """None, as with the two below: the model knows only English."""
    translate: int | None
    languages: Mapping[str, int] = {}
    latest_start: int = LATEST_START
    suppressed: tuple[int, ...] = ()
    """Never written."""
    suppressed_first: tuple[int, ...] = ()
    """Not written as the first token of a text."""

    @property
    def times(self) -> int:
        """The token for 0.00 s."""
        return self.no_times + 1

    def seconds(self, token: int) -> float:
        """What a time token says, from the start of its window."""
        return (token - self.times) * SECONDS_PER_MARK

    def language(self, given: str) -> int:
        """The token of a language, by its ISO 639-1 code.

        Raises:
            InvalidRequest: the model does not know it.
        """
        found = self.languages.get(given)
        if found is None:
            known = ", ".join(sorted(self.languages)) or "en alone"
            raise InvalidRequest(f"the model does not know the language {given!r}; it knows {known}", param="language")
        return found

    def prompt(self, language: str, *, translate: bool, before: Sequence[int] = (), room: int) -> list[int]:
        """What the decoder is given to continue.

        Args:
            language: of the recording.
            translate: whether to write English.
            before: tokens of what was said earlier; of those the last are kept.
            room: how many of them there may be.
        """
        head = [self.previous, *before[-room:]] if before and room > 0 and self.previous is not None else []
        task = self.translate if translate else self.transcribe
        return [*head, self.start, *([] if task is None else [self.language(language), task])]

    def forbidden(self, written: Sequence[int]) -> list[Span]:
        """What may not follow the tokens that were written since the prompt.

        Times come in pairs, but for the first and the last; they never go back; and a text begins with one.
        """
        times, everything = self.times, 1 << 31
        marks: list[Span] = [(self.end + 1, times)]
        if not written:
            return [*marks, (0, times), (times + self.latest_start + 1, everything)]
        after_time = written[-1] >= times
        if after_time and (len(written) < 2 or written[-2] >= times):
            return [*marks, (times, everything)]
        last = next((token for token in reversed(written) if token >= times), None)
        if after_time:
            return [*marks, (0, self.end), (times, written[-1])]
        return marks if last is None else [*marks, (times, last + 1)]


def read_marks(generation: Mapping[str, Any], id_of: Any, end: int) -> Marks:
    """The marks of a model.

    Args:
        generation: its generation_config.json.
        id_of: the id of a token by its text; None where there is none.
        end: the token that ends a text.

    Raises:
        LoadFailed: its vocabulary is not that of a Whisper.
    """
    start, no_times = id_of("<|startoftranscript|>"), id_of("<|notimestamps|>")
    if start is None or no_times is None:
        raise LoadFailed("its tokenizer lacks the marks of Whisper (<|startoftranscript|>, <|notimestamps|>)")
    languages = generation.get("lang_to_id") or {}
    transcribe, translate = id_of("<|transcribe|>"), id_of("<|translate|>")
    multilingual = bool(languages) and generation.get("is_multilingual", True)
    no_speech = id_of("<|nospeech|>")
    return Marks(
        end=end,
        start=start,
        previous=id_of("<|startofprev|>"),
        no_speech=id_of("<|nocaptions|>") if no_speech is None else no_speech,
        no_times=no_times,
        transcribe=transcribe if multilingual else None,
        translate=translate if multilingual else None,
        languages={name.strip("<|>"): index for name, index in languages.items()} if multilingual else {},
        latest_start=generation.get("max_initial_timestamp_index") or LATEST_START,
        suppressed=tuple(generation.get("suppress_tokens") or ()),
        suppressed_first=tuple(generation.get("begin_suppress_tokens") or ()),
    )
