"""Whether a model of any kind answers in the words of what it is for."""

from typing import Any

from e2e.conftest import Site

FEW = 4
"""Tokens that a generated answer has at most."""


def check_answer(site: Site, uid: str, *, dimensions: int = 32) -> None:
    """Ask a running model what its abilities promise. ``dimensions``: of its vectors, where it makes some."""

    def ask(path: str, **body: Any) -> Any:
        answer = site.call("POST", path, json={"model": uid, **body})
        assert answer.is_success, f"{uid}: {answer.text}"
        return answer.json()

    abilities = site.get(f"/v1/models/{uid}")["model_ability"]
    if "embed" in abilities:
        vectors = [item["embedding"] for item in ask("/v1/embeddings", input=["the goose", "a lake"])["data"]]
        assert [len(vector) for vector in vectors] == [dimensions, dimensions], uid
    elif "rerank" in abilities:
        found = ask("/v1/rerank", query="the goose", documents=["a lake", "quiet evening"])["results"]
        assert {item["index"] for item in found} == {0, 1}, uid
    elif "chat" in abilities:
        messages = [{"role": "user", "content": "What does the goose say?"}]
        found = ask("/v1/chat/completions", messages=messages, max_tokens=FEW)
        assert 1 <= found["usage"]["completion_tokens"] <= FEW, uid
    else:
        found = ask("/v1/completions", prompt="What does the goose say?", max_tokens=FEW)
        assert 1 <= found["usage"]["completion_tokens"] <= FEW, uid
