from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.forwarded import MessagesBody

HOT = Hot(
    Op.MESSAGES,
    ("/v1/messages",),
    "Create a message",
    "Anthropic's shape of a chat. Answered by engines that speak it (vLLM).",
    MessagesBody,
    streams=True,
)
