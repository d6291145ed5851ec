from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.forwarded import CountTokensBody

HOT = Hot(
    Op.COUNT_TOKENS,
    ("/v1/messages/count_tokens",),
    "Count the tokens of a message",
    "What a chat in Anthropic's shape costs to read. Answered by engines that speak it (vLLM).",
    CountTokensBody,
)
