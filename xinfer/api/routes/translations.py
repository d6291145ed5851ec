from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.transcriptions import TranslationBody

HOT = Hot(
    Op.TRANSLATION,
    ("/v1/audio/translations",),
    "Turn speech into English text",
    "OpenAI translations: a form with a recording in any language. With `stream` the answer is server-sent events.",
    TranslationBody,
    streams=True,
    is_form=True,
)
