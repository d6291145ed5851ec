from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.chat import ChatRequest

HOT = Hot(
    Op.CHAT,
    ("/v1/chat/completions",),
    "Create a chat completion",
    "OpenAI chat completions. With `stream` the answer is server-sent events that end with `[DONE]`.",
    ChatRequest,
    streams=True,
)
