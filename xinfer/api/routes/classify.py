from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.forwarded import ClassifyBody

HOT = Hot(
    Op.CLASSIFY,
    ("/v1/classify", "/classify"),
    "Classify texts",
    "The probability of each class. Answered by vLLM.",
    ClassifyBody,
)
