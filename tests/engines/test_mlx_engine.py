"""The MLX engine on real models: demo-chat, which knows its answers, and a tiny random one for everything that does not
need sense in them."""

import asyncio
import importlib.util
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("mlx") is None or importlib.util.find_spec("mlx_lm") is None:
    pytest.skip("mlx-lm is not installed in this environment", allow_module_level=True)

import mlx.core as mx
from engines.asking import GRANT, chat, complete, frames, text_of, with_engine
from mlx.utils import tree_flatten, tree_map
from mlx_lm.generate import generate_step
from mlx_lm.models import mamba, qwen3
from mlx_lm.utils import quantize_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

import xinfer.catalog
from xinfer.catalog import introspect
from xinfer.devices import DeviceSlice, Grant, Lease
from xinfer.engines.base import Call
from xinfer.engines.mlx import ENGINE
from xinfer.engines.mlx.runner import BatchLimits, BatchRunner
from xinfer.engines.token_engine import Sequence
from xinfer.errors import ContextOverflow, InvalidRequest, LoadFailed
from xinfer.generation.sampling import Sampling
from xinfer.ops import Kind, Op
from xinfer.spec import Format, ModelSpec

pytestmark = pytest.mark.engine("mlx")

DEMO = Path(xinfer.catalog.__file__).parent / "demo" / "demo-chat"
TEMPLATE = "{% for m in messages %}<|turn|>{{ m.role }} {{ m.content }}<|end|>{% endfor %}<|turn|>assistant "
TEXT = Path(__file__).read_text(encoding="utf-8")
CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
_random = random.Random(3)
PROMPTS = [[_random.randrange(510) for _ in range(1 + 7 * index % 60)] for index in range(24)]


def new_model() -> Any:
    """A random Qwen3. Large weights make it decided, so that rounding changes nothing."""
    mx.random.seed(7)
    model = qwen3.Model(qwen3.ModelArgs.from_dict(CONFIG))
    model.update(tree_map(lambda weight: mx.random.normal(weight.shape) * 0.4, model.parameters()))
    return model


def save(model: Any, config: dict[str, Any], folder: Path) -> None:
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """The random model in a folder, with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=510, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<|turn|>", "<|end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    save(new_model(), {**CONFIG, "eos_token_id": tokenizer.token_to_id("<|end|>")}, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "eos_token": "<|end|>"}))
    return folder


def with_model(folder: Path, use: Callable[[Any], Awaitable[Any]], grant: Grant = GRANT, **options: Any) -> Any:
    tiny = ModelSpec(name="tiny", kind=Kind.LLM, source=str(folder), format=Format.SAFETENSORS, context_length=512)
    return with_engine(ENGINE, introspect(str(folder)) if folder == DEMO else tiny, use, grant, options)


def reference(prompt: list[int], tokens: int) -> list[int]:
    """What mlx-lm itself continues with."""
    return [int(token) for token, _ in generate_step(mx.array(prompt), new_model(), max_tokens=tokens)]


# --- tokens ---


def test_the_tokens_are_those_of_the_library(tiny):
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))

    async def use(engine):
        return await asyncio.gather(*[complete(engine, prompt) for prompt in PROMPTS[:4]])

    for prompt, answer in zip(PROMPTS[:4], with_model(tiny, use), strict=True):
        assert text_of(answer) == tokenizer.decode(reference(prompt, 12), skip_special_tokens=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_num_seqs": 3},  # most of them wait
        {"prefill_chunk": 16},  # prompts are read in parts
        {"max_num_seqs": 32, "prefill_chunk": 64},
    ],
)
def test_nobody_sees_who_else_is_in_the_batch(tiny, options):
    def fields(index: int) -> dict[str, Any]:
        return {"max_tokens": 1 + index % 20, "stream": index % 3 == 0}

    async def use(engine):
        alone = [await complete(engine, prompt, **fields(index)) for index, prompt in enumerate(PROMPTS)]
        calls = [complete(engine, prompt, **fields(index)) for index, prompt in enumerate(PROMPTS)]
        return alone, await asyncio.gather(*calls)

    alone, together = with_model(tiny, use, **options)
    assert [text_of(answer) for answer in together] == [text_of(answer) for answer in alone]


@pytest.mark.parametrize("prompts", [[[5], [9]], [[5], [9], PROMPTS[3]], [PROMPTS[3], [5], PROMPTS[4], [9]]])
@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"echo": True, "logprobs": 1}])
def test_prompts_of_one_token_come_together_with_others(tiny, prompts, fields):
    """There is nothing to be read of them before they are continued."""

    async def use(engine):
        alone = [await complete(engine, prompt, **fields) for prompt in prompts]
        long = asyncio.create_task(complete(engine, PROMPTS[5], max_tokens=100, ignore_eos=True))
        for _ in range(2):  # beside nothing but each other, and beside one that runs
            together = await asyncio.gather(*[complete(engine, prompt, **fields) for prompt in prompts])
            assert [text_of(answer) for answer in together] == [text_of(answer) for answer in alone]
            await long

    with_model(tiny, use)


def test_requests_that_sample_beside_greedy_ones_change_nothing(tiny):
    extras: list[dict[str, Any]] = [
        {},
        {"temperature": 1.5, "seed": 1},
        {"temperature": 0.7, "top_p": 0.5, "seed": 2},
        {"temperature": 1, "top_k": 3, "seed": 3},
        {"temperature": 1, "min_p": 0.2, "seed": 4},
        {"frequency_penalty": 1.5},
        {"presence_penalty": 1.5},
        {"repetition_penalty": 1.3},
        {"logit_bias": {"5": 3}},
        {"logprobs": 2},
    ]

    async def use(engine):
        alone = [await complete(engine, PROMPTS[index], **extra) for index, extra in enumerate(extras)]
        calls = [complete(engine, PROMPTS[index], **extra) for index, extra in enumerate(extras)]
        return alone, await asyncio.gather(*calls)

    alone, together = with_model(tiny, use)
    assert [text_of(answer) for answer in together] == [text_of(answer) for answer in alone]


def test_several_choices_share_the_prompt_and_differ(tiny):
    async def use(engine):
        fields = {"n": 5, "temperature": 1.5, "seed": 11}
        first = await complete(engine, PROMPTS[9], **fields)
        again, greedy = await asyncio.gather(
            complete(engine, PROMPTS[9], **fields), complete(engine, PROMPTS[8], n=40, max_tokens=3)
        )
        return first, again, greedy

    first, again, greedy = with_model(tiny, use)
    texts = [text_of(first, choice) for choice in range(5)]
    assert len(set(texts)) > 1
    assert [text_of(again, choice) for choice in range(5)] == texts
    assert len({text_of(greedy, choice) for choice in range(40)}) == 1
    assert first["usage"]["prompt_tokens"] == len(PROMPTS[9])


def test_memory_that_runs_out_suspends_the_youngest_and_loses_nothing():
    limits = BatchLimits(max_rows=8, positions=230)
    runner = BatchRunner(new_model(), limits, prefill_chunk=64)
    sampling = Sampling(temperature=0, max_tokens=60)
    sequences = [Sequence(prompt, sampling, receiver=None) for prompt in PROMPTS[1:6]]
    for sequence in sequences:
        runner.add(sequence)
    seen = set()
    while runner.has_work():
        runner.step()
        seen.add(runner.report().running)
        if runner._rows:
            assert len(runner._rows) * max(row.length for row in runner._rows) <= limits.positions
    assert max(seen) > 2
    assert 2 in seen
    for sequence in sequences:
        assert sequence.generated == reference(sequence.prompt, 60)


# --- the model that knows its answers ---


@pytest.mark.parametrize("stream", [True, False])
def test_demo_chat_gives_its_golden_answers_to_32_at_once(stream):
    golden = json.loads((DEMO.parent / "golden.json").read_text(encoding="utf-8"))["demo-chat"]
    gate = asyncio.Semaphore(32)

    async def ask(engine: Any, entry: dict[str, Any]) -> dict[str, Any]:
        fields = {name: entry[name] for name in ("messages", "tools", "enable_thinking") if name in entry}
        async with gate:
            return await chat(engine, stream=stream, **fields)

    async def use(engine: Any) -> list[dict[str, Any]]:
        return await asyncio.gather(*[ask(engine, entry) for entry in golden])

    for entry, message in zip(golden, with_model(DEMO, use), strict=True):
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        found = [{"name": call["name"], "arguments": json.loads(call["arguments"])} for call in calls]
        assert found == entry.get("tool_calls", []), entry["messages"]
        assert (message["content"] or "") == entry["answer"], entry["messages"]


def test_a_grammar_holds(tiny):
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"n": {"type": "boolean"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    async def use(engine):
        fields = {"messages": [{"role": "user", "content": "x"}], "response_format": wanted, "max_tokens": 200}
        beside = complete(engine, PROMPTS[3])
        (_, body), plain = await asyncio.gather(frames(engine, Op.CHAT, temperature=1, seed=5, **fields), beside)
        return json.loads(body), text_of(plain), text_of(await complete(engine, PROMPTS[3]))

    answer, beside, alone = with_model(tiny, use)
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"])["n"], bool)
    assert beside == alone


# --- what a request can ask for ---


def test_a_seed_gives_the_same_answer_in_any_company(tiny):
    async def use(engine):
        hot = {"temperature": 1.5, "max_tokens": 20}
        alone = text_of(await complete(engine, PROMPTS[3], seed=42, **hot))
        crowd = [complete(engine, prompt, seed=index, **hot) for index, prompt in enumerate(PROMPTS[:10])]
        again, other, *_ = await asyncio.gather(
            complete(engine, PROMPTS[3], seed=42, **hot), complete(engine, PROMPTS[3], seed=43, **hot), *crowd
        )
        return alone, text_of(again), text_of(other)

    alone, again, other = with_model(tiny, use)
    assert again == alone != other


def test_narrow_sampling_is_greedy(tiny):
    async def use(engine):
        greedy = text_of(await complete(engine, PROMPTS[5]))
        narrow = [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1}]
        return greedy, [text_of(await complete(engine, PROMPTS[5], temperature=1, **one)) for one in narrow]

    greedy, narrow = with_model(tiny, use)
    assert narrow == [greedy] * 3


def test_bias_and_penalties_move_the_choice(tiny):
    async def use(engine):
        forced = await complete(engine, PROMPTS[5], logit_bias={"65": 100}, logprobs=0)
        banned = await complete(engine, [5], logit_bias={"65": 100}, frequency_penalty=2, max_tokens=60, logprobs=0)
        return forced, banned

    forced, banned = with_model(tiny, use)
    assert len(set(forced["choices"][0]["logprobs"]["tokens"])) == 1
    # 100 ahead, and 2 less every time: after some fifty times others win.
    assert len(set(banned["choices"][0]["logprobs"]["tokens"])) > 1


def test_log_probabilities_are_those_of_the_model(tiny):
    prompt = PROMPTS[4]
    logits = new_model()(mx.array([prompt]))[0]
    scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)

    async def use(engine):
        last = await complete(engine, prompt, logprobs=3, max_tokens=1)
        echoed = await complete(engine, prompt, logprobs=1, max_tokens=1, echo=True, n=2)
        chunked = await complete(engine, PROMPTS[20], logprobs=1, max_tokens=1, echo=True)
        short = await complete(engine, PROMPTS[0], logprobs=1, max_tokens=1, echo=True)
        return last, echoed, chunked, short

    answers = with_model(tiny, use, prefill_chunk=16)
    last, echoed, chunked, short = (answer["choices"][-1]["logprobs"] for answer in answers)
    best = sorted(scores[-1].tolist(), reverse=True)[:3]
    assert last["token_logprobs"] == pytest.approx(best[:1], abs=1e-4)
    assert list(last["top_logprobs"][0].values()) == pytest.approx(best, abs=1e-4)
    assert echoed["token_logprobs"][0] is None
    expected = [scores[index, token].item() for index, token in enumerate(prompt[1:])]
    assert echoed["token_logprobs"][1:-1] == pytest.approx(expected, abs=1e-3)
    assert len(chunked["tokens"]) == len(PROMPTS[20]) + 1
    assert len(short["tokens"]) == 2


def test_nothing_ends_before_min_tokens(tiny):
    async def use(engine):
        bias = {"logit_bias": {"511": 100}, "ignore_eos": False, "max_tokens": 9}
        at_once = await complete(engine, PROMPTS[2], **bias)
        later = await complete(engine, PROMPTS[2], min_tokens=5, **bias)
        return at_once["usage"]["completion_tokens"], later["usage"]["completion_tokens"]

    assert with_model(tiny, use) == (1, 6)


def test_a_stop_string_across_tokens(tiny):
    async def use(engine):
        whole = text_of(await complete(engine, PROMPTS[6], max_tokens=30))
        stop = whole[9:14]
        cut = await complete(engine, PROMPTS[6], max_tokens=30, stop=stop)
        streamed = await complete(engine, PROMPTS[6], max_tokens=30, stop=stop, stream=True)
        return whole[: whole.find(stop)], cut, streamed

    expected, cut, streamed = with_model(tiny, use)
    assert text_of(cut) == text_of(streamed) == expected
    assert cut["choices"][0]["finish_reason"] == streamed["choices"][0]["finish_reason"] == "stop"


def test_the_context_is_a_limit_with_numbers(tiny):
    async def use(engine):
        with pytest.raises(ContextOverflow, match=r"64.*100"):
            await complete(engine, [1] * 100)
        with pytest.raises(ContextOverflow, match=r"64.*60.*72"):
            await complete(engine, [1] * 60)
        return await complete(engine, [1] * 4, max_tokens=60)

    answer = with_model(tiny, use, max_model_len=64)
    assert answer["usage"]["total_tokens"] == 64
    assert answer["choices"][0]["finish_reason"] == "length"


# --- ends ---


def test_an_aborted_request_leaves_the_batch_and_the_others_go_on(tiny):
    async def use(engine):
        body = {"model": "m", "prompt": PROMPTS[1], "max_tokens": 400, "stream": True, "ignore_eos": True}
        serving = engine.serve(Call("id", Op.COMPLETION, json.dumps(body).encode(), "m"))
        await anext(serving)
        other = asyncio.create_task(complete(engine, PROMPTS[2], max_tokens=30))
        await anext(serving)
        await serving.aclose()
        survivor = text_of(await other)
        await complete(engine, [1], max_tokens=1)
        assert engine.load_report().running == 0
        return survivor, text_of(await complete(engine, PROMPTS[2], max_tokens=30))

    survivor, alone = with_model(tiny, use)
    assert survivor == alone


def test_sequences_are_dropped_wherever_they_are():
    """While they wait, while their prompt is read, and while they run."""
    runner = BatchRunner(new_model(), BatchLimits(max_rows=3, positions=4096), prefill_chunk=16)
    sampling = Sampling(temperature=0, max_tokens=30)
    runs, is_read, waits, stays = (Sequence(p, sampling, receiver=None) for p in ([1], [2] * 100, [3], [4]))
    runner.add(runs)
    runner.step()
    for sequence in (is_read, stays, waits):
        runner.add(sequence)
    runner.step()
    for sequence in (runs, is_read, waits):
        runner.discard(sequence)
        runner.discard(sequence)
    while runner.has_work():
        runner.step()
    assert stays.generated == reference([4], 30)
    assert not is_read.generated
    assert not waits.generated


# --- models ---


def test_quantized_weights(tiny, tmp_path):
    model, config = quantize_model(new_model(), dict(CONFIG), group_size=32, bits=8)
    save(model, config, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())

    async def use(engine):
        return await asyncio.gather(*[complete(engine, prompt) for prompt in PROMPTS[:3]])

    for answer in with_model(tmp_path, use):
        assert answer["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize("lengths", [(3, 7, 11, 15), (1, 1, 4), (9, 1, 1)])
def test_states_other_than_keys_and_values_are_batched_too(lengths):
    args = {"model_type": "mamba", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "state_size": 8}
    args |= {"num_hidden_layers": 2, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "time_step_rank": 4}
    mx.random.seed(1)
    model = mamba.Model(mamba.ModelArgs.from_dict(args))
    sampling = Sampling(temperature=0, max_tokens=8)
    sequences = [Sequence([index + 1] * length, sampling, receiver=None) for index, length in enumerate(lengths)]
    runner = BatchRunner(model, BatchLimits(max_rows=8, positions=4096), prefill_chunk=8)
    for sequence in sequences:
        runner.add(sequence)
    while runner.has_work():
        runner.step()
    for sequence in sequences:
        alone = [int(token) for token, _ in generate_step(mx.array(sequence.prompt), model, max_tokens=8)]
        assert sequence.generated == alone


def test_the_lease_bounds_the_cache(tiny):
    def grant(mib: int) -> Grant:
        return Grant(lease=Lease(replica_id="r", generation=1, slices=(DeviceSlice(device_id="cpu", memory_mib=mib),)))

    async def context(engine):
        with pytest.raises(InvalidRequest) as refusal:
            await complete(engine, [1] * 600)
        return refusal.value.message

    assert "context is 512" in with_model(tiny, context, grant(700))
    with pytest.raises(LoadFailed, match="give it more MiB"):
        with_model(tiny, context, grant(500))


def test_what_cannot_be_loaded_says_why(tiny, tmp_path):
    async def nothing(_engine):
        pass

    with pytest.raises(LoadFailed, match="the model was made for 512"):
        with_model(tiny, nothing, max_model_len=1024)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_type": "unheard_of"}))
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    with pytest.raises(LoadFailed, match="unheard_of"):
        with_model(tmp_path, nothing)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 3}))
    with pytest.raises(LoadFailed, match=r"Missing 11 parameters: model\.layers\.2\."):
        with_model(tmp_path, nothing)
