from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.forwarded import DetokenizeBody

HOT = Hot(
    Op.DETOKENIZE,
    ("/v1/detokenize", "/detokenize"),
    "Turn tokens into text",
    "Special tokens are written as the model's files write them.",
    DetokenizeBody,
)
