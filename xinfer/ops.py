"""The operations that engines can serve, and the kinds of models that offer them."""

from enum import StrEnum


class Op(StrEnum):
    """One operation of the data plane. The value travels in every request frame."""

    CHAT = "chat"
    COMPLETION = "completion"
    MESSAGES = "messages"
    """Anthropic's form of a chat."""
    RESPONSES = "responses"
    """OpenAI's newer form of a chat."""
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    SCORE = "score"
    CLASSIFY = "classify"
    POOLING = "pooling"


class Kind(StrEnum):
    """What a model is. The values are the ``model_type`` words that Xinference's users know."""

    LLM = "LLM"
    EMBEDDING = "embedding"
    RERANK = "rerank"


OPS_OF_KIND: dict[Kind, frozenset[Op]] = {
    Kind.LLM: frozenset({Op.CHAT, Op.COMPLETION, Op.MESSAGES, Op.RESPONSES, Op.TOKENIZE, Op.DETOKENIZE}),
    Kind.EMBEDDING: frozenset({Op.EMBEDDING, Op.SCORE, Op.POOLING, Op.TOKENIZE, Op.DETOKENIZE}),
    Kind.RERANK: frozenset({Op.RERANK, Op.SCORE, Op.CLASSIFY, Op.POOLING, Op.TOKENIZE, Op.DETOKENIZE}),
}
