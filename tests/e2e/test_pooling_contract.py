"""One contract for every engine that serves embedding and rerank models, with the demo models and real processes."""

import asyncio

import pytest
from e2e.demo_chat import DEMO, known
from e2e.engine_cases import VLLM, Case, present, share_environments

CASES = (
    Case("sentence_transformers", "sentence_transformers"),
    Case("llama.cpp", "llama_cpp"),
    Case("vllm", "vllm", options=VLLM),
)
MODELS = {"embed": ("demo-embed", 1), "rerank": ("demo-rerank", 4)}
"""uid -> the folder, and llama.cpp's number of how its vectors are pooled."""
GGUF_SAYS_NOT = {"embed": {"overrides": {"matryoshka_dims": [16, 32, 64]}}, "rerank": {}}
"""What a GGUF file has no place for is said at the launch."""
WITHOUT_SEGMENTS = frozenset({"llama.cpp"})
"""The demo reranker was trained with a segment id for each of the two texts, and llama.cpp has none."""
FORWARDING = frozenset({"vllm"})
"""They have a server of their own, which answers all operations."""


@pytest.fixture(scope="module", params=present(CASES), ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def server(tmp_path_factory, open_site, case):
    root = tmp_path_factory.mktemp("pooling")
    share_environments(root)
    with open_site(root) as site:
        site.local()
        for uid, (name, pooling) in MODELS.items():
            if case.name == "llama.cpp":
                from fakes.gguf_bert import write_bert  # noqa: PLC0415 - it needs a library that others do not

                source = write_bert(DEMO / name, root / f"{uid}.gguf", pooling)
                case.start(site, uid, model_path=str(source), **GGUF_SAYS_NOT[uid])
            else:
                case.start(site, uid, model_path=str(DEMO / name))
        yield site


def ask(site, path, **body):
    answer = site.call("POST", path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


def vectors(answer):
    return [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]


def nearest(vector, corpus):
    return max(range(len(corpus)), key=lambda place: sum(a * b for a, b in zip(vector, corpus[place], strict=True)))


def test_32_queries_at_once_are_each_nearest_to_their_text(server):
    facts = known()["demo-embed"]

    async def ask_all():
        async with server.async_client() as client:
            asked = [client.embeddings.create(model="embed", input=query["query"]) for query in facts["queries"]]
            return await asyncio.gather(*asked)

    answer = ask(server, "/v1/embeddings", model="embed", input=facts["corpus"])
    corpus = vectors(answer)
    assert [sum(value * value for value in vector) for vector in corpus] == pytest.approx([1.0] * len(corpus), abs=1e-3)
    assert answer["usage"]["prompt_tokens"] > len(corpus)
    found = asyncio.run(ask_all())
    best = [nearest(answer.data[0].embedding, corpus) for answer in found]
    assert best == [query["best"] for query in facts["queries"]]


def test_vectors_as_base64_and_shorter(server):
    fields = {"model": "embed", "input": ["a lease"]}
    with server.client() as client:
        plain = client.embeddings.create(**fields, encoding_format="float").data[0].embedding
        packed = client.embeddings.create(**fields).data[0].embedding  # the client asks for base64
        assert packed == pytest.approx(plain, abs=1e-6)
        short = client.embeddings.create(**fields, dimensions=16).data[0].embedding
    assert len(short) == 16
    scale = sum(value * value for value in plain[:16]) ** 0.5
    assert short == pytest.approx([value / scale for value in plain[:16]], abs=1e-3)


def test_every_query_finds_its_document(server, case):
    facts = known()["demo-rerank"]
    for query in facts["queries"][::4]:
        answer = ask(
            server, "/v1/rerank", model="rerank", query=query["query"], documents=facts["corpus"], return_documents=True
        )
        scores = [result["relevance_score"] for result in answer["results"]]
        assert scores == sorted(scores, reverse=True)
        assert sorted(result["index"] for result in answer["results"]) == list(range(len(facts["corpus"])))
        assert case.name in WITHOUT_SEGMENTS or answer["results"][0]["index"] == query["best"]
    top = ask(server, "/v1/rerank", model="rerank", query="bread", documents=facts["corpus"], top_n=3)
    assert len(top["results"]) == 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "embed", "input": "word " * 5000}),
        ("/v1/embeddings", {"model": "embed", "input": "a", "dimensions": 7}),
        ("/v1/embeddings", {"model": "rerank", "input": "a"}),
        ("/v1/rerank", {"model": "embed", "query": "a", "documents": ["b"]}),
        ("/v1/chat/completions", {"model": "embed", "messages": [{"role": "user", "content": "Hello!"}]}),
    ],
    ids=["too long", "no such dimensions", "no vectors", "no ranking", "no chat"],
)
def test_what_cannot_be_answered_is_refused(server, path, body):
    answer = server.call("POST", path, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["message"]


# --- what only an engine with a server of its own answers ---


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/score", {"model": "rerank", "text_1": "bread", "text_2": ["flour and yeast", "a lease"]}),
        ("/v1/score", {"model": "embed", "text_1": "bread", "text_2": ["flour and yeast", "a lease"]}),
        ("/v1/classify", {"model": "rerank", "input": ["bread"]}),
        ("/v1/pooling", {"model": "embed", "input": ["bread"]}),
        ("/v1/tokenize", {"model": "embed", "prompt": "bread"}),
        ("/v1/detokenize", {"model": "embed", "tokens": [5, 6, 7]}),
    ],
    ids=["score", "similarity", "classify", "pooling", "tokenize", "detokenize"],
)
def test_other_operations_are_answered_or_refused_by_name(server, case, path, body):
    answer = server.call("POST", path, json=body)
    if answer.is_success:
        assert answer.json()
    else:
        assert case.name not in FORWARDING, answer.text
        assert answer.status_code == 400, answer.text
        assert path.removeprefix("/v1/").removesuffix("s") in answer.json()["error"]["message"]


def test_tokens_are_the_text(server, case):
    if case.name in FORWARDING:
        tokens = ask(server, "/v1/tokenize", model="embed", prompt="bread", add_special_tokens=False)["tokens"]
        assert ask(server, "/v1/detokenize", model="embed", tokens=tokens)["prompt"] == "bread"


def test_scores_say_what_fits(server, case):
    if case.name in FORWARDING:
        facts = known()["demo-rerank"]
        query = facts["queries"][0]
        answer = ask(server, "/v1/score", model="rerank", text_1=query["query"], text_2=facts["corpus"])
        scores = [item["score"] for item in answer["data"]]
        assert scores.index(max(scores)) == query["best"]
