"""The wire format of ``/v1/rerank``: Cohere's and Jina's shape, as vLLM and Xinference have it.

The answer has what the clients of either read: ``results`` (best first) with ``index``, ``relevance_score`` and
``document.text``, token counts in ``usage`` (vLLM, Jina) and in ``meta.tokens`` (Cohere, Xinference).
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.pooling import TRUNCATION_RULE, NonEmpty, Truncation, check_truncation, decode


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: the ``documents`` in the order of their relevance to the query."""

    model: str
    query: str
    documents: list[str]
    top_n: int | None = None
    """How many results; ``None``: all."""
    return_documents: bool = True
    return_len: bool = False
    """Put token counts in ``meta`` as well."""
    truncate_prompt_tokens: int | None = None
    """The most tokens of a query and document together; ``None`` and -1: the model's longest input."""
    instruction: str | None = None
    """What counts as an answer to the query, for models that can be told."""


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document as an object; a plain string means the same."""

    text: str


class RerankBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The request as it is on the wire."""

    model: NonEmpty
    query: NonEmpty
    documents: Annotated[list[str | Document], Meta(min_length=1)]
    top_n: Annotated[int, Meta(ge=0)] | None = None
    return_documents: bool | None = None
    return_len: bool | None = None
    max_chunks_per_doc: Annotated[int, Meta(ge=1)] | None = None
    """Documents are scored in one chunk, which every maximum allows."""
    truncate_prompt_tokens: Truncation | None = None
    instruction: NonEmpty | None = None
    user: Any = None
    kwargs: str | dict[str, Any] | None = None
    """Xinference's client sends further keywords here, as a JSON string; we know "instruction"."""


_MUST_BE = {
    "model": "the uid of a model",
    "query": "a string that is not empty",
    "documents": 'a list, not empty, of strings or objects such as {"text": "..."}',
    "top_n": "an integer of at least 0",
    "return_documents": "true or false",
    "return_len": "true or false",
    "max_chunks_per_doc": "an integer of at least 1",
    "truncate_prompt_tokens": TRUNCATION_RULE,
    "instruction": "a string that is not empty",
    "kwargs": "an object with no other key than instruction",
}

_decoder = msgspec.json.Decoder(RerankBody)


def parse_rerank(body: bytes, *, instructed: bool = False) -> RerankRequest:
    """Decode and check a request body. ``instructed``: there are models that take an instruction.

    Raises:
        InvalidRequest: not JSON, a missing field, a wrong type or range, an empty query, no documents.
        UnsupportedParameter: a field that we do not know.
    """
    request = decode(body, _decoder, _MUST_BE)
    check_truncation(request.truncate_prompt_tokens)
    instruction = request.instruction or _instruction(request.kwargs)
    if instruction is not None and not instructed:
        raise UnsupportedParameter("models of this engine take no instruction; leave it out", param="instruction")
    return RerankRequest(
        model=request.model,
        query=request.query,
        documents=[item if isinstance(item, str) else item.text for item in request.documents],
        top_n=request.top_n,
        return_documents=request.return_documents is not False,
        return_len=bool(request.return_len),
        truncate_prompt_tokens=request.truncate_prompt_tokens,
        instruction=instruction,
    )


def _instruction(kwargs: str | dict[str, Any] | None) -> str | None:
    """That of ``kwargs``, where nothing else may be."""
    try:
        keywords = msgspec.json.decode(kwargs) if isinstance(kwargs, str) else kwargs
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"'kwargs' is not valid JSON: {error}", param="kwargs") from None
    if not keywords:
        return None
    named = next((key for key in keywords if key != "instruction"), None) if isinstance(keywords, dict) else "kwargs"
    if named is not None:
        raise UnsupportedParameter(f"{named!r} in 'kwargs' is not supported here; leave it out", param=str(named))
    if not isinstance(keywords["instruction"], str):
        raise InvalidRequest("'instruction' must be a string", param="instruction")
    return keywords["instruction"] or None


def encode_rerank(
    request: RerankRequest, scores: Sequence[float], *, request_id: str, model: str, prompt_tokens: int
) -> bytes:
    """The response body. ``scores`` are in the order of the documents; equal ones keep that order."""
    ranking = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    results = [_result(request, index, scores[index]) for index in ranking[: request.top_n]]
    tokens = {"input_tokens": prompt_tokens, "output_tokens": 0} if request.return_len else None
    return msgspec.json.encode(
        {
            "id": request_id,
            "model": model,
            "results": results,
            "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
            "meta": {"api_version": None, "billed_units": None, "tokens": tokens, "warnings": None},
        }
    )


def _result(request: RerankRequest, index: int, score: float) -> dict[str, Any]:
    result: dict[str, Any] = {"index": index, "relevance_score": score}
    if request.return_documents:
        result["document"] = {"text": request.documents[index]}
    return result
