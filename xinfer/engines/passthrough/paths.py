"""Under which path servers that speak OpenAI answer each operation."""

from xinfer.ops import Op

PATHS: dict[Op, str] = {
    Op.CHAT: "/v1/chat/completions",
    Op.COMPLETION: "/v1/completions",
    Op.MESSAGES: "/v1/messages",
    Op.COUNT_TOKENS: "/v1/messages/count_tokens",
    Op.RESPONSES: "/v1/responses",
    Op.TOKENIZE: "/tokenize",
    Op.DETOKENIZE: "/detokenize",
    Op.EMBEDDING: "/v1/embeddings",
    Op.RERANK: "/v1/rerank",
    Op.SCORE: "/v1/score",
    Op.CLASSIFY: "/classify",
    Op.POOLING: "/pooling",
    Op.TRANSCRIPTION: "/v1/audio/transcriptions",
    Op.TRANSLATION: "/v1/audio/translations",
}
