from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.rerank import RerankBody

HOT = Hot(
    Op.RERANK,
    ("/v1/rerank", "/rerank", "/v2/rerank"),
    "Rank documents by relevance",
    "Cohere's and Jina's shape: a query and documents; results with the best first.",
    RerankBody,
)
