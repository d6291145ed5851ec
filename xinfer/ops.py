"""The operations that engines can serve, and the kinds of models that offer them."""

from enum import StrEnum


class Op(StrEnum):
    """One operation of the data plane. The value travels in every request frame."""

    CHAT = "chat"
    COMPLETION = "completion"
    MESSAGES = "messages"
    """Anthropic's form of a chat."""
    COUNT_TOKENS = "count_tokens"
    """How many tokens a chat of that form has."""
    RESPONSES = "responses"
    """OpenAI's newer form of a chat."""
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    SCORE = "score"
    CLASSIFY = "classify"
    POOLING = "pooling"
    TRANSCRIPTION = "transcription"
    """What is said in a recording, as text."""
    TRANSLATION = "translation"
    """The same in English."""


class Kind(StrEnum):
    """What a model is. The values are the words of ``model_type``."""

    LLM = "LLM"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    VISION_LANGUAGE = "vision-language"
    SPEECH_RECOGNITION = "speech-recognition"
    SPEECH_SYNTHESIS = "speech-synthesis"
    IMAGE = "image"


GENERATIVE_KINDS = frozenset({Kind.LLM, Kind.VISION_LANGUAGE})
"""Those that write text, and keep the keys and values of what they have read."""

TEXT_OPS = frozenset({Op.CHAT, Op.COMPLETION, Op.MESSAGES, Op.COUNT_TOKENS, Op.RESPONSES, Op.TOKENIZE, Op.DETOKENIZE})
OPS_OF_KIND: dict[Kind, frozenset[Op]] = {
    Kind.LLM: TEXT_OPS,
    Kind.EMBEDDING: frozenset({Op.EMBEDDING, Op.SCORE, Op.POOLING, Op.TOKENIZE, Op.DETOKENIZE}),
    Kind.RERANK: frozenset({Op.RERANK, Op.SCORE, Op.CLASSIFY, Op.POOLING, Op.TOKENIZE, Op.DETOKENIZE}),
    Kind.VISION_LANGUAGE: TEXT_OPS,
    Kind.SPEECH_RECOGNITION: frozenset({Op.TRANSCRIPTION, Op.TRANSLATION}),
    Kind.SPEECH_SYNTHESIS: frozenset(),
    Kind.IMAGE: frozenset(),
}
"""None: models of this kind are in the catalog, and no engine serves them."""

KINDS_OF_WORD: dict[str, tuple[Kind, ...]] = {
    **{kind.value.lower(): (kind,) for kind in Kind},
    "llm": (Kind.LLM, Kind.VISION_LANGUAGE),
    "audio": (Kind.SPEECH_RECOGNITION, Kind.SPEECH_SYNTHESIS),
}
"""What a ``model_type`` can mean, in lower case: our own words, and what Xinference's users call such models."""
