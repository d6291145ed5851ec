"""Reranking by vLLM in the words of Cohere's and Jina's clients."""

import asyncio
import json

import pytest

from xinfer.engines.base import Call, Head
from xinfer.engines.passthrough import PATHS, AsgiCaller
from xinfer.engines.vllm.documents import serve_reranking
from xinfer.ops import Op

RESULTS = [
    {"index": 1, "document": {"text": "b", "multi_modal": None}, "relevance_score": 0.9},
    {"index": 0, "document": {"text": "a", "multi_modal": None}, "relevance_score": 0.1},
]


def rerank(body):
    """What vLLM is asked, and what is answered."""
    asked = []

    async def app(scope, receive, send):
        asked.append((await receive())["body"])
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        answer = json.dumps({"id": "score-1", "results": RESULTS}).encode()
        await send({"type": "http.response.body", "body": answer, "more_body": False})

    async def main():
        frames = serve_reranking(AsgiCaller(app, PATHS), Call("id-1", Op.RERANK, body, "m"))
        return [frame async for frame in frames]

    head, answer = asyncio.run(main())
    assert isinstance(head, Head)
    return asked[0], json.loads(answer)


def test_documents_may_be_objects_that_hold_a_text():
    asked, answer = rerank(json.dumps({"query": "q", "documents": [{"text": "a"}, "b"], "top_n": 2}).encode())
    assert json.loads(asked) == {"query": "q", "documents": ["a", "b"], "top_n": 2}
    assert answer["results"] == RESULTS


@pytest.mark.parametrize(
    "documents", ['"text"', '[{"title": "text"}]', '[{"text": "a", "title": "b"}]', '[{"text": 1}]', "[{"]
)
def test_what_vllm_reads_or_refuses_itself_is_left_as_it_is(documents):
    body = f'{{"query": "q", "documents": {documents}'.encode()
    for asked in (body + b"}", body):
        assert rerank(asked)[0] == asked


@pytest.mark.parametrize(
    ("said", "returned"),
    [
        ({}, True),
        ({"return_documents": True}, True),
        ({"return_documents": None}, True),
        ({"return_documents": False}, False),
    ],
)
def test_documents_are_said_back_unless_the_request_says_no(said, returned):
    _, answer = rerank(json.dumps({"query": "q", "documents": ["a", "b"], **said}).encode())
    assert [("document" in result) for result in answer["results"]] == [returned] * 2
    assert [result["index"] for result in answer["results"]] == [1, 0]


def test_a_body_that_only_speaks_of_it_is_no_request_without_documents():
    _, answer = rerank(b'["return_documents"]')
    assert answer["results"] == RESULTS
