"""The operations that an engine can serve, and the kinds of models that offer them."""

from enum import StrEnum


class Op(StrEnum):
    """One operation of the data plane. The value travels in every request frame."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANK = "rerank"


class Kind(StrEnum):
    """What a model is. The values are the ``model_type`` words that Xinference's users know."""

    LLM = "LLM"
    EMBEDDING = "embedding"
    RERANK = "rerank"


OPS_OF_KIND: dict[Kind, frozenset[Op]] = {
    Kind.LLM: frozenset({Op.CHAT, Op.COMPLETION}),
    Kind.EMBEDDING: frozenset({Op.EMBEDDING}),
    Kind.RERANK: frozenset({Op.RERANK}),
}
