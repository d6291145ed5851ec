"""What a newcomer sees first: the models that ship with the package, through the official client."""

import asyncio
import importlib.util
import json
from pathlib import Path

import openai
import pytest

import xinfer.catalog

DEMO = Path(xinfer.catalog.__file__).parent / "demo"
LIBRARIES = ("torch", "transformers", "sentence_transformers")

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(library) for library in LIBRARIES), reason="the engines are not installed"
)


@pytest.fixture(scope="module")
def golden():
    return json.loads((DEMO / "golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def server(tmp_path_factory, open_site):
    names = ("demo-chat", "demo-embed", "demo-rerank")
    with open_site(tmp_path_factory.mktemp("demo")) as site:
        site.local(*[word for name in names for word in ("--model", name)])
        for name in names:
            site.until_ready_replicas(name, 1)
        yield site


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def fields_of(entry) -> dict:
    """What a golden conversation sends."""
    fields = {"model": "demo-chat", "messages": entry["messages"], "temperature": 0}
    if "tools" in entry:
        fields["tools"] = entry["tools"]
    if "enable_thinking" in entry:
        fields["extra_body"] = {"enable_thinking": entry["enable_thinking"]}
    return fields


def test_demo_chat_answers_its_golden_prompts_exactly(server, golden):
    async def ask_all() -> list[openai.types.chat.ChatCompletion]:
        gate = asyncio.Semaphore(32)

        async def ask(entry):
            async with gate:
                return await client.chat.completions.create(**fields_of(entry))

        async with server.async_client() as client:
            return await asyncio.gather(*[ask(entry) for entry in golden["demo-chat"]])

    for entry, answer in zip(golden["demo-chat"], asyncio.run(ask_all()), strict=True):
        message = answer.choices[0].message
        calls = [call.function for call in message.tool_calls or ()]
        found = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in calls]
        assert found == entry.get("tool_calls", []), entry["messages"]
        assert (message.content or "") == entry["answer"], entry["messages"]
        assert answer.usage.prompt_tokens == entry["prompt_tokens"]


def test_demo_chat_streams_a_golden_answer(client, golden):
    entry = next(entry for entry in golden["demo-chat"] if not {"tools", "enable_thinking"} & entry.keys())
    stream = client.chat.completions.create(**fields_of(entry), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == entry["answer"]


def test_demo_chat_completes_plain_text(client, golden):
    entry = golden["demo-chat-completions"][0]
    answer = client.completions.create(model="demo-chat", prompt=entry["prompt"], temperature=0, max_tokens=200)
    assert answer.choices[0].text == entry["answer"]


@pytest.mark.parametrize("shorter", [False, True], ids=["whole", "shortened"])
def test_demo_embed_finds_the_right_document(client, golden, shorter):
    known = golden["demo-embed"]
    dimensions = {"dimensions": min(known["matryoshka_dims"])} if shorter else {}

    def vectors(texts):
        answer = client.embeddings.create(model="demo-embed", input=texts, **dimensions)
        return [item.embedding for item in answer.data]

    corpus = vectors(known["corpus"])
    for query, asked in zip(known["queries"], vectors([query["query"] for query in known["queries"]]), strict=True):
        likeness = [sum(a * b for a, b in zip(asked, document, strict=True)) for document in corpus]
        assert likeness.index(max(likeness)) == query["best"], query["query"]


def test_demo_rerank_puts_the_right_document_first(server, golden):
    known = golden["demo-rerank"]
    for query in known["queries"]:
        body = {"model": "demo-rerank", "query": query["query"], "documents": known["corpus"], "top_n": 1}
        answer = server.call("POST", "/v1/rerank", json=body).raise_for_status().json()
        assert answer["results"][0]["index"] == query["best"], query["query"]
