from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.forwarded import ScoreBody

HOT = Hot(
    Op.SCORE,
    ("/v1/score", "/score"),
    "Score pairs of texts",
    "text_1 against text_2, one or many. Answered by vLLM.",
    ScoreBody,
)
