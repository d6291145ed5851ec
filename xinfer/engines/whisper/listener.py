"""One recording, listened to window by window."""

from collections.abc import Callable, Sequence

from xinfer.engines.whisper.model import WINDOW, WhisperModel, chooser
from xinfer.engines.whisper.recordings import RATE, Recording
from xinfer.engines.whisper.segments import SILENT_ABOVE, Heard, Written, segments_of
from xinfer.errors import UnsupportedParameter
from xinfer.protocols.transcriptions import Segment, Transcript, TranscriptionRequest

ENGLISH = "en"
SHORTEST = RATE // 50
"""Samples of which there is nothing to say: what is left behind the last time that the model can write."""


class Listener:
    """Makes a transcript of one recording.

    Args:
        model: what listens.
        request: what is asked for.
        recording: the sound.
        say: told each piece of the text as it is written.
        is_over: whether nobody waits for it any more.

    Raises:
        InvalidRequest: the model does not know the language.
        UnsupportedParameter: it cannot translate.
    """

    def __init__(
        self,
        model: WhisperModel,
        request: TranscriptionRequest,
        recording: Recording,
        say: Callable[[str], None],
        is_over: Callable[[], bool],
    ) -> None:
        self._model = model
        self._request = request
        self._recording = recording
        self._say = say
        self._is_over = is_over
        self._choose = chooser(request.temperature, request.seed)
        self._before = model.tokens_of(request.prompt) if request.prompt else []
        self._language = request.language or ""
        self._place = 0
        self._segments: list[Segment] = []
        self._begun = False
        """Something was said."""
        marks = model.marks
        if request.translate and marks.translate is None:
            raise UnsupportedParameter("this model knows only English, so it translates nothing", param="model")
        if self._language and (marks.languages or self._language != ENGLISH):
            marks.language(self._language)

    def step(self) -> Transcript | None:
        """Listen to the next window; the transcript, once that was the last one.

        Raises:
            InvalidRequest: the recording is damaged.
        """
        samples = self._recording.window(self._place, WINDOW)
        if len(samples) <= SHORTEST or self._is_over():
            return self._transcript()
        window = self._model.listen(samples)
        language, silence = window.first_impression()
        self._language = self._language or language or ENGLISH
        marks, request = self._model.marks, self._request
        prompt = marks.prompt(
            self._language, translate=request.translate, before=self._before, room=self._model.room_before
        )
        start, length = self._place / RATE, len(samples) / RATE
        said = 0

        def hear(written: Written) -> Heard:
            """Say the segments that are new."""
            nonlocal said
            heard = segments_of(
                written, marks, self._model.text_of, start=start, length=length, temperature=request.temperature
            )
            self._tell(heard.segments[said:])
            said = len(heard.segments)
            return heard

        tokens: list[int] = []
        total = 0.0
        for token, logprob in window.write(prompt, self._choose):
            total += logprob
            if token == marks.end or self._is_over():
                break
            tokens.append(token)
            if token >= marks.times and silence <= SILENT_ABOVE:
                hear(Written(tokens=tokens))
        heard = hear(Written(tokens=tokens, avg_logprob=total / (len(tokens) + 1), no_speech_prob=silence))
        self._segments += heard.segments
        self._place += max(1, round(heard.seconds * RATE))
        return None

    def _tell(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            text = segment.text if self._begun else segment.text.lstrip()
            self._begun = True
            self._say(text)

    def _transcript(self) -> Transcript:
        return Transcript(
            text="".join([segment.text for segment in self._segments]).lstrip(),
            language=self._language or ENGLISH,
            duration=round(self._recording.seconds, 2),
            segments=self._segments,
        )
