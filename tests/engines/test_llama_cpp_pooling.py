"""Embedding and rerank models with llama.cpp: the demo models, written as GGUF files here."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed here: xinfer engine install llama.cpp")
pytest.importorskip("gguf")
np = pytest.importorskip("numpy")
pytest.importorskip("safetensors.numpy")
tokenizers = pytest.importorskip("tokenizers")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fakes.gguf_bert import write_bert  # noqa: E402

import xinfer.catalog  # noqa: E402
from xinfer.devices import Grant, Lease  # noqa: E402
from xinfer.engines.base import JSON_HEAD, Call  # noqa: E402
from xinfer.engines.llama_cpp import ENGINE  # noqa: E402
from xinfer.errors import ContextOverflow, InvalidRequest, LoadFailed, UnsupportedParameter  # noqa: E402
from xinfer.ops import Kind, Op  # noqa: E402
from xinfer.spec import Format, ModelSpec  # noqa: E402

pytestmark = pytest.mark.engine("llama_cpp")

DEMO = Path(xinfer.catalog.__file__).parent / "demo"
GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> Path:
    return write_bert(DEMO / "demo-embed", tmp_path_factory.mktemp("gguf") / "embed.gguf", pooling=1)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory) -> Path:
    return write_bert(DEMO / "demo-rerank", tmp_path_factory.mktemp("gguf") / "rerank.gguf", pooling=4)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads((DEMO / "golden.json").read_text(encoding="utf-8"))


def with_model(path: Path, kind: Kind, use: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    async def main() -> Any:
        engine = ENGINE()
        spec = ModelSpec(name="demo", kind=kind, source=str(path), format=Format.GGUF, matryoshka_dims=(16, 32, 64))
        await engine.load(spec, options, GRANT, lambda _stage, _fraction: None)
        try:
            return await use(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


async def ask(engine: Any, op: Op, **fields: Any) -> dict[str, Any]:
    head, body = [frame async for frame in engine.serve(Call("id", op, json.dumps({"model": "m", **fields}).encode()))]
    assert head == JSON_HEAD
    return json.loads(body)


async def embed(engine: Any, texts: Any, **fields: Any) -> Any:
    answer = await ask(engine, Op.EMBEDDING, input=texts, **fields)
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


# --- embeddings ---


def test_every_query_is_nearest_to_its_text(embedder, golden):
    entry = golden["demo-embed"]

    async def use(engine):
        corpus = await embed(engine, entry["corpus"])
        found = await asyncio.gather(*[embed(engine, query["query"]) for query in entry["queries"]])
        return corpus, np.concatenate(found)

    corpus, queries = with_model(embedder, Kind.EMBEDDING, use)
    assert (queries @ corpus.T).argmax(1).tolist() == [query["best"] for query in entry["queries"]]
    assert np.linalg.norm(corpus, axis=1) == pytest.approx(1, abs=1e-5)


def test_vectors_are_the_same_in_any_company(embedder, golden):
    texts = golden["demo-embed"]["corpus"]

    async def use(engine):
        alone = [await embed(engine, text) for text in texts]
        together = await asyncio.gather(*[embed(engine, [text, *texts]) for text in texts])
        return np.concatenate(alone), np.stack([rows[0] for rows in together])

    alone, together = with_model(embedder, Kind.EMBEDDING, use, max_batch_items=7)
    assert np.abs(alone - together).max() < 1e-5


def test_the_tokens_of_a_text(embedder):
    async def use(engine):
        tokens = await ask(engine, Op.TOKENIZE, prompt="green tea")
        text = await ask(engine, Op.DETOKENIZE, tokens=tokens["tokens"])
        vectors = await embed(engine, [tokens["tokens"]]), await embed(engine, "green tea")
        with pytest.raises(InvalidRequest, match="no chat template"):
            await ask(engine, Op.TOKENIZE, messages=[{"role": "user", "content": "hi"}])
        return tokens, text["prompt"], vectors

    tokens, text, (by_tokens, by_text) = with_model(embedder, Kind.EMBEDDING, use)
    assert tokens["count"] == len(tokens["tokens"])
    assert "green tea" in text
    assert (by_tokens == by_text).all()


def test_forms_of_inputs_and_answers(embedder):
    async def use(engine):
        text = await ask(engine, Op.EMBEDDING, input="green tea")
        coded = await ask(engine, Op.EMBEDDING, input="green tea", encoding_format="base64")
        short = await embed(engine, "green tea", dimensions=16)
        ids = engine._pooling._encoder.text_ids("green tea")
        same = await embed(engine, ids)
        cut = await ask(engine, Op.EMBEDDING, input="green tea " * 500, truncate_prompt_tokens=-1)
        return text, coded, short, same, cut

    text, coded, short, same, cut = with_model(embedder, Kind.EMBEDDING, use)
    vector = np.array(text["data"][0]["embedding"], np.float32)
    assert np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), np.float32) == pytest.approx(vector)
    assert short[0] == pytest.approx(vector[:16] / np.linalg.norm(vector[:16]), abs=1e-6)
    assert same[0] == pytest.approx(vector, abs=1e-6)
    assert text["usage"]["prompt_tokens"] >= 4  # two words, and what begins and ends a text
    assert cut["usage"]["prompt_tokens"] == 256


def test_what_is_too_long_or_unknown_is_refused(embedder):
    async def use(engine):
        with pytest.raises(ContextOverflow, match=r"256.*input\[1\]"):
            await embed(engine, ["tea", "tea " * 500])
        with pytest.raises(InvalidRequest, match=r"9999.*767"):
            await embed(engine, [9999])
        with pytest.raises(InvalidRequest, match="16, 32, 64"):
            await embed(engine, "tea", dimensions=20)
        with pytest.raises(InvalidRequest, match="rerank"):
            await ask(engine, Op.RERANK, query="a", documents=["b"])

    with_model(embedder, Kind.EMBEDDING, use)


def test_marks_in_texts_are_text(embedder):
    async def use(engine):
        return engine._pooling._encoder.text_ids("[CLS] tea [SEP]")

    ids = with_model(embedder, Kind.EMBEDDING, use)
    assert ids.count(2) == 1
    assert ids.count(3) == 1


def test_pooling_can_be_chosen_and_has_to_be_known(tmp_path, embedder):
    bare = write_bert(DEMO / "demo-embed", tmp_path / "bare.gguf", pooling=None)

    async def use(engine):
        return await embed(engine, "green tea")

    with pytest.raises(LoadFailed, match="pooling_type"):
        with_model(bare, Kind.EMBEDDING, use)
    mean = with_model(bare, Kind.EMBEDDING, use, pooling_type="mean")
    first = with_model(bare, Kind.EMBEDDING, use, pooling_type="cls", normalize=False)
    assert mean == pytest.approx(with_model(embedder, Kind.EMBEDDING, use), abs=1e-6)
    assert abs(float(np.linalg.norm(first)) - 1) > 1e-3


def test_only_known_sizes_are_cut(embedder):
    async def main() -> None:
        engine = ENGINE()
        spec = ModelSpec(name="demo", kind=Kind.EMBEDDING, source=str(embedder), format=Format.GGUF)
        await engine.load(spec, {}, GRANT, lambda _stage, _fraction: None)
        try:
            with pytest.raises(UnsupportedParameter, match="64"):
                await embed(engine, "tea", dimensions=16)
        finally:
            await engine.close()

    asyncio.run(main())


def test_a_model_that_continues_text_embeds_as_well(golden):
    texts = golden["demo-embed"]["corpus"][:9]

    async def use(engine):
        alone = [await embed(engine, text) for text in texts]
        return np.concatenate(alone), await embed(engine, texts)

    path = DEMO / "demo-chat" / "demo-chat.gguf"
    alone, together = with_model(path, Kind.EMBEDDING, use, pooling_type="last", n_ubatch=512, max_model_len=300)
    assert alone.shape == (9, 128)
    assert (alone * together).sum(1) == pytest.approx(1, abs=1e-3)


def test_an_encoder_is_no_language_model(embedder):
    with pytest.raises(LoadFailed, match="model_type=embedding"):
        with_model(embedder, Kind.LLM, use=None)


@pytest.mark.parametrize("option", [{"n_ctx": 512}, {"mmproj": "none"}, {"type_k": "q8_0"}, {"prefix_caching": False}])
def test_options_of_models_that_write_are_refused(embedder, option):
    with pytest.raises(InvalidRequest, match=f"{next(iter(option))}=.* changes nothing here"):
        with_model(embedder, Kind.EMBEDDING, use=None, **option)


def test_scores_are_neither_pooled_nor_normalized(reranker):
    for option in ({"pooling_type": "mean"}, {"normalize": False}):
        with pytest.raises(InvalidRequest, match=f"{next(iter(option))}=.* changes nothing here"):
            with_model(reranker, Kind.RERANK, use=None, **option)


# --- rerank ---


def test_what_has_no_head_that_scores_is_no_rerank_model(embedder):
    for path in (embedder, DEMO / "demo-chat" / "demo-chat.gguf"):
        with pytest.raises(LoadFailed, match=f"{path.name} has no head that scores"):
            with_model(path, Kind.RERANK, use=None)


def test_a_rerank_model_embeds_only_where_it_is_said_how(reranker):
    async def use(engine):
        return await embed(engine, "green tea")

    with pytest.raises(LoadFailed, match="model_type=rerank"):
        with_model(reranker, Kind.EMBEDDING, use)
    assert with_model(reranker, Kind.EMBEDDING, use, pooling_type="mean").shape == (1, 64)


def test_a_query_that_leaves_no_room_for_documents_is_refused(reranker):
    async def use(engine):
        with pytest.raises(ContextOverflow, match=r"'query' has 303 tokens.*limit is 256") as refused:
            await ask(engine, Op.RERANK, query="tea " * 300, documents=["green tea"])
        assert refused.value.param == "query"
        with pytest.raises(ContextOverflow, match=r"limit is 4"):
            await ask(engine, Op.RERANK, query="green tea", documents=["tea"], truncate_prompt_tokens=4)
        with pytest.raises(UnsupportedParameter, match="instruction"):
            await ask(engine, Op.RERANK, query="green tea", documents=["tea"], instruction="Judge.")
        return await ask(engine, Op.RERANK, query="tea", documents=["green tea"], truncate_prompt_tokens=5)

    assert with_model(reranker, Kind.RERANK, use)["usage"]["prompt_tokens"] == 5


def reference_scores(query: str, documents: list[str]) -> list[float]:
    """What the library that the model was made with says, without segment ids, which llama.cpp has not."""
    folder = DEMO / "demo-rerank"
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    scores = []
    for document in documents:
        ids = torch.tensor([tokenizer.encode(query, document).ids])
        with torch.inference_mode():
            logits = model(input_ids=ids, token_type_ids=torch.zeros_like(ids)).logits
        scores.append(float(torch.sigmoid(logits)[0, 0]))
    return scores


def test_scores_are_those_of_the_model(reranker, golden, caplog):
    entry = golden["demo-rerank"]

    async def use(engine):
        calls = [ask(engine, Op.RERANK, query=query["query"], documents=entry["corpus"]) for query in entry["queries"]]
        return await asyncio.gather(*calls)

    answers = with_model(reranker, Kind.RERANK, use)
    assert "segment" in caplog.text
    for answer in answers:
        scores = [result["relevance_score"] for result in answer["results"]]
        assert scores == sorted(scores, reverse=True)
    expected = reference_scores(entry["queries"][0]["query"], entry["corpus"])
    found = {result["index"]: result["relevance_score"] for result in answers[0]["results"]}
    assert [found[index] for index in range(len(expected))] == pytest.approx(expected, abs=2e-3)


def test_documents_are_cut_to_what_the_model_takes(reranker):
    async def use(engine):
        answer = await ask(engine, Op.RERANK, query="tea", documents=["green tea", "bread " * 900], return_len=True)
        ids = engine._pooling._encoder.pair_ids("tea", "bread " * 900, 50)
        return answer, ids

    answer, ids = with_model(reranker, Kind.RERANK, use)
    assert 256 < answer["usage"]["prompt_tokens"] < 256 + 20
    assert len(ids) == 50
    assert ids[0] == 2
    assert ids[-1] == 3
    assert ids.count(3) == 2


def test_the_load_is_reported(reranker):
    async def use(engine):
        await ask(engine, Op.RERANK, query="tea", documents=["green tea"])
        assert engine.failure() == ""
        return engine.load_report()

    report = with_model(reranker, Kind.RERANK, use)
    assert (report.running, report.queued) == (0, 0)
    assert report.tokens_per_s > 0
