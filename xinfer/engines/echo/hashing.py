"""Embeddings and relevance by feature hashing: texts that share words are near each other."""

import hashlib
from array import array
from collections.abc import Iterable

from xinfer.engines.base import Call
from xinfer.engines.echo.text import tokens_of
from xinfer.errors import UnsupportedParameter
from xinfer.protocols.embeddings import encode_embeddings, parse_embeddings
from xinfer.protocols.rerank import encode_rerank, parse_rerank

RERANK_DIMENSIONS = 256


def embed(call: Call, dimensions: int) -> bytes:
    """The answer to an embeddings request."""
    request = parse_embeddings(call.body)
    if request.dimensions not in (None, dimensions):
        raise UnsupportedParameter(f"echo has {dimensions} dimensions, and no fewer", param="dimensions")
    words = [tokens_of(item) if isinstance(item, str) else [str(token) for token in item] for item in request.inputs]
    vectors = [hashed_vector(tokens, dimensions) for tokens in words]
    return encode_embeddings(vectors, model=call.model, prompt_tokens=sum(map(len, words)), as_base64=request.base64)


def rerank(call: Call) -> bytes:
    """The answer to a rerank request; a score is the cosine of two hashed vectors."""
    request = parse_rerank(call.body)
    query = tokens_of(request.query)
    documents = [tokens_of(document) for document in request.documents]
    wanted = hashed_vector(query, RERANK_DIMENSIONS)
    scores = [_dot(wanted, hashed_vector(tokens, RERANK_DIMENSIONS)) for tokens in documents]
    count = sum(len(query) + len(tokens) for tokens in documents)
    return encode_rerank(request, scores, request_id=f"rerank-{call.request_id}", model=call.model, prompt_tokens=count)


def hashed_vector(tokens: Iterable[str], dimensions: int) -> "array[float]":  # 3.11 has no generic array at run time
    """Signed feature hashing (Weinberger et al. 2009): each word adds or takes one in its dimension; length one."""
    vector = array("f", bytes(4 * dimensions))
    for token in tokens:
        digest = hashlib.blake2b(token.strip().lower().encode(), digest_size=8).digest()
        vector[int.from_bytes(digest[:6]) % dimensions] += 1.0 if digest[6] & 1 else -1.0
    norm = _dot(vector, vector) ** 0.5
    return array("f", [value / norm for value in vector]) if norm else vector


def _dot(left: "array[float]", right: "array[float]") -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
