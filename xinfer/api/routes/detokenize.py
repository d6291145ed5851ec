from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.forwarded import DetokenizeBody

HOT = Hot(
    Op.DETOKENIZE,
    ("/v1/detokenize", "/detokenize"),
    "Turn tokens into text",
    "Answered by vLLM.",
    DetokenizeBody,
)
