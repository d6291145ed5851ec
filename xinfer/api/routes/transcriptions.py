from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.transcriptions import TranscriptionBody

HOT = Hot(
    Op.TRANSCRIPTION,
    ("/v1/audio/transcriptions",),
    "Turn speech into text",
    "OpenAI transcriptions: a form with a recording. With `stream` the answer is server-sent events.",
    TranscriptionBody,
    streams=True,
    is_form=True,
)
