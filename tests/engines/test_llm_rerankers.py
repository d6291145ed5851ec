"""Language models as rerankers: their scores are those of the formulas that they were published with."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")

from fakes.models import (  # noqa: E402
    write_bare_llm_reranker,
    write_cross_encoder,
    write_llm_reranker,
    write_question_reranker,
)

from xinfer.catalog import introspect  # noqa: E402
from xinfer.devices import Grant, Lease  # noqa: E402
from xinfer.engines.base import Call  # noqa: E402
from xinfer.engines.sentence_transformers import ENGINE  # noqa: E402
from xinfer.errors import ContextOverflow, UnsupportedParameter  # noqa: E402
from xinfer.ops import Kind, Op  # noqa: E402

pytestmark = pytest.mark.engine("sentence_transformers")

GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
QUERY = "What does the goose say?"
DOCUMENTS = ["good evening to the lake", "a lake", "the goose says: good evening, and good night to all of you. " * 2]
STRICT = "Only what the goose itself says counts."
CLOSE = 1e-5


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Path:
    """As Qwen3-Reranker was first published."""
    return write_bare_llm_reranker(tmp_path_factory.mktemp("models") / "judge")


@pytest.fixture(scope="module")
def question(tmp_path_factory) -> Path:
    """As bge-reranker-v2-gemma."""
    return write_question_reranker(tmp_path_factory.mktemp("models") / "my-reranker")


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> Path:
    """In the layout of Sentence Transformers."""
    return write_llm_reranker(tmp_path_factory.mktemp("models") / "described")


def scores(folder: Path, *bodies: dict[str, Any], **options: Any) -> list[list[float]]:
    """The scores of requests that run at once, in the order of the documents."""

    async def one(engine: Any, body: dict[str, Any]) -> list[float]:
        asked = {"model": "m", "query": QUERY, "documents": DOCUMENTS, **body}
        _, answer = [frame async for frame in engine.serve(Call("id", Op.RERANK, json.dumps(asked).encode(), "m"))]
        results = sorted(json.loads(answer)["results"], key=lambda result: result["index"])
        return [result["relevance_score"] for result in results]

    async def main() -> list[list[float]]:
        engine = ENGINE()
        spec = introspect(str(folder))
        assert spec.kind is Kind.RERANK
        assert ENGINE.accepts(spec).ok
        await engine.load(spec, options, GRANT, lambda _stage, _fraction: None)
        try:
            return await asyncio.gather(*(one(engine, body) for body in bodies))
        finally:
            await engine.close()

    return asyncio.run(main())


def logits_after(folder: Path, ids: list[int]) -> Any:
    """What the library's own model says comes next."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, -1]


def by_yes_and_no(folder: Path, document: str, instruction: str, longest: int = 1024) -> float:
    """The formula on the model card of Qwen3-Reranker."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    before = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    after = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    pair = f"<Instruct>: {instruction}\n<Query>: {QUERY}\n<Document>: {document}"
    head, tail = (tokenizer.encode(text, add_special_tokens=False) for text in (before, after))
    middle = tokenizer.encode(pair, add_special_tokens=False)[: longest - len(head) - len(tail)]
    logits = logits_after(folder, head + middle + tail)
    answers = tokenizer.convert_tokens_to_ids(["no", "yes"])
    return float(logits[answers].log_softmax(0)[1].exp())


def by_a_question(folder: Path, document: str) -> float:
    """The formula of FlagEmbedding, with its normalized scores: each part is tokenized by itself."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    ask = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
        "prediction of either 'Yes' or 'No'."
    )
    parts = ["<|turn|>", f"A: {QUERY}", "\n", f"B: {document}", "\n", ask]
    ids = [token for part in parts for token in tokenizer.encode(part, add_special_tokens=False)]
    return float(logits_after(folder, ids)[tokenizer.convert_tokens_to_ids("Yes")].sigmoid())


def test_yes_against_no_in_a_chat(chat):
    plain, strict, cut = scores(chat, {}, {"instruction": STRICT}, {"truncate_prompt_tokens": 330})
    default = "Given a web search query, retrieve relevant passages that answer the query"
    assert plain == pytest.approx([by_yes_and_no(chat, one, default) for one in DOCUMENTS], abs=CLOSE)
    assert strict == pytest.approx([by_yes_and_no(chat, one, STRICT) for one in DOCUMENTS], abs=CLOSE)
    assert cut == pytest.approx([by_yes_and_no(chat, one, default, 330) for one in DOCUMENTS], abs=CLOSE)
    assert len(set(plain) | set(strict)) == 6


def test_an_instruction_for_all_requests(chat):
    by_option, by_request = scores(chat, {}, {"instruction": "Else."}, prompt=STRICT)
    assert by_option == pytest.approx([by_yes_and_no(chat, one, STRICT) for one in DOCUMENTS], abs=CLOSE)
    assert by_request == pytest.approx([by_yes_and_no(chat, one, "Else.") for one in DOCUMENTS], abs=CLOSE)


def test_yes_to_a_question(question):
    [found] = scores(question, {})
    assert found == pytest.approx([by_a_question(question, one) for one in DOCUMENTS], abs=CLOSE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_as_sentence_transformers_describes_it(described):
    """Its own template, and the tokens that its files name."""
    model = sentence_transformers.CrossEncoder(str(described), device="cpu")
    pairs = [(QUERY, document) for document in DOCUMENTS]
    plain, strict = scores(described, {}, {"kwargs": json.dumps({"instruction": STRICT})})
    assert plain == pytest.approx(model.predict(pairs).tolist(), abs=CLOSE)
    assert strict == pytest.approx(model.predict(pairs, prompt=STRICT).tolist(), abs=CLOSE)


def test_requests_in_one_batch_do_not_change_each_other(chat):
    asked = [{"documents": [document], "query": query} for document in DOCUMENTS for query in (QUERY, "a lake")]
    together = scores(chat, *asked)
    alone = [scores(chat, one)[0] for one in asked[:3]]
    assert together[:3] == [pytest.approx(one, abs=CLOSE) for one in alone]


def test_a_query_that_leaves_no_room_is_refused(chat):
    with pytest.raises(ContextOverflow, match=r"'query' has \d+ tokens.*the limit is 1024"):
        scores(chat, {"query": "the goose " * 999})
    with pytest.raises(ContextOverflow, match="the limit is 20"):
        scores(chat, {"truncate_prompt_tokens": 20})


def test_an_encoder_takes_no_instruction(tmp_path):
    folder = write_cross_encoder(tmp_path / "encoder")
    with pytest.raises(UnsupportedParameter, match="'instruction'"):
        scores(folder, {"instruction": STRICT})
