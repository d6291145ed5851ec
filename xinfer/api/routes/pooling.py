from xinfer.api.hot import Hot
from xinfer.ops import Op
from xinfer.protocols.forwarded import PoolingBody

HOT = Hot(
    Op.POOLING,
    ("/v1/pooling", "/pooling"),
    "Pool hidden states",
    "What a pooling model gives before it is made an embedding. Answered by vLLM.",
    PoolingBody,
)
