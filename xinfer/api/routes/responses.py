from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.forwarded import ResponsesBody

HOT = Hot(
    Op.RESPONSES,
    ("/v1/responses",),
    "Create a response",
    "OpenAI's Responses. Answered by engines that speak them (vLLM).",
    ResponsesBody,
    streams=True,
)
