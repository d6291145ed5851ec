from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.forwarded import TokenizeBody

HOT = Hot(
    Op.TOKENIZE,
    ("/v1/tokenize", "/tokenize"),
    "Turn text into tokens",
    "A prompt, or a chat as its template renders it.",
    TokenizeBody,
)
