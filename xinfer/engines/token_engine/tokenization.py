"""Answers to requests for the tokens of a text, and for the text of tokens."""

from collections.abc import Sequence

from xinfer.engines.base import Call
from xinfer.engines.media import Image
from xinfer.engines.token_engine.job import JobMaker
from xinfer.engines.token_engine.prompts import Limits, check_ids
from xinfer.engines.token_engine.tokenizer import Tokenizer
from xinfer.ops import Op
from xinfer.protocols.chat import ChatRequest
from xinfer.protocols.decoding import refusing_deep_nesting
from xinfer.protocols.tokenization import (
    DetokenizeRequest,
    TokenizeRequest,
    chat_of,
    encode_text,
    encode_tokens,
    parse_detokenize,
    parse_tokenize,
)

TOKEN_OPS = frozenset({Op.TOKENIZE, Op.DETOKENIZE})


class Tokenization:
    """Serves one model. ``read`` and ``answer`` are apart because images are fetched in between.

    Args:
        jobs: makes prompts of chats.
        tokenizer: the model's.
        limits: the model's.
    """

    def __init__(self, jobs: JobMaker, tokenizer: Tokenizer, limits: Limits) -> None:
        self._jobs = jobs
        self._tokenizer = tokenizer
        self._limits = limits

    def read(self, body: bytes) -> tuple[TokenizeRequest, ChatRequest | None]:
        """A request for tokens, and the chat in it, if it has one.

        Raises:
            InvalidRequest: it is wrong.
        """
        with refusing_deep_nesting():
            request = parse_tokenize(body)
            return request, None if request.messages is None else chat_of(request, images=self._jobs.sees)

    def answer(self, request: TokenizeRequest, chat: ChatRequest | None, images: Sequence[Image]) -> bytes:
        """The tokens of what was read.

        Raises:
            InvalidRequest: the model has no chat template, or it refuses the messages.
        """
        if chat is not None:
            with refusing_deep_nesting():
                ids = self._jobs.chat_prompt(chat, images).ids
        else:
            ids = self._tokenizer.encode(request.prompt or "", add_special=request.add_special_tokens is not False)
        texts = [self._written(token) for token in ids] if request.return_token_strs else None
        return encode_tokens(ids, self._limits.context_length, texts)

    def serve(self, call: Call) -> bytes:
        """The answer to either kind of request, for models that see nothing.

        Raises:
            InvalidRequest: it is wrong.
        """
        if call.op is Op.DETOKENIZE:
            return self.text(call.body)
        request, chat = self.read(call.body)
        return self.answer(request, chat, ())

    def text(self, body: bytes) -> bytes:
        """The text of the tokens in a request, special ones included.

        Raises:
            InvalidRequest: there are tokens that the model does not have.
        """
        request: DetokenizeRequest = parse_detokenize(body)
        check_ids(request.tokens, "tokens", self._limits)
        parts: list[str] = []
        plain: list[int] = []
        for token in request.tokens:
            if self._tokenizer.decode([token]):
                plain.append(token)
                continue
            parts += [self._tokenizer.decode(plain), self._written(token)]
            plain = []
        return encode_text("".join([*parts, self._tokenizer.decode(plain)]))

    def _written(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode("utf-8", "replace")
