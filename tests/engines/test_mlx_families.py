"""The MLX engine on families of models that differ in what batches they can be given: random weights, all else real."""

import asyncio
import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("mlx") is None or importlib.util.find_spec("mlx_lm") is None:
    pytest.skip("mlx-lm is not installed in this environment", allow_module_level=True)

import mlx.core as mx
from engines.asking import complete, with_engine
from mlx.utils import tree_flatten, tree_map
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from xinfer.engines.mlx import ENGINE
from xinfer.errors import EngineFailed
from xinfer.ops import Kind
from xinfer.spec import Format, ModelSpec

pytestmark = pytest.mark.engine("mlx")

WORDS = 256
SHAPE = {"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "rms_norm_eps": 1e-5}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}
MAMBA = {"num_heads": 8, "head_dim": 8, "conv_kernel": 4, "n_groups": 1, "use_bias": False, "use_conv_bias": True}
FAMILIES: dict[str, dict[str, Any]] = {
    # Its layers have a window, whose caches take single tokens for the continuation.
    "gemma3_text": {**HEADS, "sliding_window": 16, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
    # It takes the padding of prompts for text.
    "mamba": {"state_size": 8, "time_step_rank": 4, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True},
    # Its state fades with the padding.
    "nemotron_h": {
        **HEADS,
        **MAMBA,
        "attention_bias": False,
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "mamba_proj_bias": False,
        "ssm_state_size": 8,
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-5,
        "hybrid_override_pattern": ["M", "*"],
    },
    # It applies the masks of sequences to heads.
    "gemma2": HEADS,
    # Its caches know no batches.
    "llama4": {
        "text_config": {
            **SHAPE,
            **HEADS,
            "model_type": "llama4_text",
            "num_hidden_layers": 4,
            "attention_bias": False,
            "attention_chunk_size": 32,
            "interleave_moe_layer_step": 1,
            "intermediate_size_mlp": 64,
            "num_experts_per_tok": 1,
            "num_local_experts": 2,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "use_qk_norm": True,
        }
    },
    "qwen2": {**HEADS, "rope_theta": 10000.0},
}
PROMPTS = [[9], [9, 8], [7] * 3, *([(place * place + size) % WORDS for place in range(size)] for size in (9, 30, 77))]


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path) -> Path:
    """A random model of a family in a folder."""
    return written(tmp_path, request.param)


def written(folder: Path, name: str, broken_token: int | None = None) -> Path:
    config = {**SHAPE, **FAMILIES[name], "model_type": name, "tie_word_embeddings": True}
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(3)
    model = module.Model(module.ModelArgs.from_dict(config))
    model.update(tree_map(_random, model.parameters()))
    if broken_token is not None:
        model.model.embed_tokens.weight[broken_token] = mx.nan
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(config))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _random(weight: mx.array) -> mx.array:
    return mx.random.normal(weight.shape) * 0.25 if weight.ndim > 1 else weight + mx.random.normal(weight.shape) * 0.05


def with_model(folder: Path, use: Any, **options: Any) -> Any:
    spec = ModelSpec(name="random", kind=Kind.LLM, source=str(folder), format=Format.SAFETENSORS, context_length=512)
    return with_engine(ENGINE, spec, use, options=options)


@pytest.mark.parametrize("several", [PROMPTS[:2], PROMPTS])
def test_answers_are_the_same_alone_and_together(family, several):
    async def use(engine):
        alone = [await complete(engine, prompt, logprobs=0) for prompt in several]
        together = await complete(engine, several, logprobs=0, n=2)
        return [answer["choices"][0] for answer in alone for _ in range(2)], together["choices"]

    for alone, together in zip(*with_model(family, use), strict=True):
        assert together["text"] == alone["text"]
        scores, expected = (choice["logprobs"]["token_logprobs"] for choice in (together, alone))
        assert scores == pytest.approx(expected, abs=0.01)


def test_a_request_whose_numbers_are_none_fails_and_no_other_does(tmp_path):
    broken = 200
    folder = written(tmp_path, "gemma3_text", broken_token=broken)
    sound = [prompt for prompt in PROMPTS if broken not in prompt]

    async def use(engine):
        bias = {str(broken): -100}  # the likeliest next token must not be the broken one
        kinds: list[dict[str, Any]] = [{}, {"temperature": 1}, {"logprobs": 1}, {"temperature": 1, "top_k": 5}]
        failing = [complete(engine, [7, broken, 5], **kind) for kind in kinds]
        answers = [complete(engine, prompt, logit_bias=bias) for prompt in sound]
        return await asyncio.gather(*failing, *answers, return_exceptions=True)

    found = with_model(folder, use)
    assert all(isinstance(error, EngineFailed) and "no numbers" in str(error) for error in found[:4])
    assert all(isinstance(answer, dict) for answer in found[4:])
