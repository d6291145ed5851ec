from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.embeddings import EmbeddingsBody

HOT = Hot(
    Op.EMBEDDING,
    ("/v1/embeddings",),
    "Create embeddings",
    "OpenAI embeddings: a string, a list of strings, token ids or lists of them; floats or base64.",
    EmbeddingsBody,
)
