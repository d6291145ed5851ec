from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.completions import CompletionRequest

HOT = Hot(
    Op.COMPLETION,
    ("/v1/completions",),
    "Create a completion",
    "OpenAI (legacy) completions. The prompt is a string, a list of strings, token ids or lists of them.",
    CompletionRequest,
    streams=True,
)
