"""Options of a launch as vLLM's own parser reads them: whatever ``vllm serve`` takes, under its own names."""

import importlib.util

import pytest

from xinfer.cli.engine_options import split_engine_options
from xinfer.engines.vllm.arguments import arguments
from xinfer.errors import InvalidRequest
from xinfer.ops import Kind
from xinfer.spec import Format, ModelSpec

pytestmark = [
    pytest.mark.engine("vllm"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # vLLM's own, and torch's, as they are imported
]

SPEC = ModelSpec(name="m", kind=Kind.LLM, source="/models/m", format=Format.SAFETENSORS)


def read(*words):
    """What vLLM makes of ``xinfer launch ... WORDS``."""
    from xinfer.engines.vllm.serving import _parse  # noqa: PLC0415  imports vLLM

    _, options = split_engine_options(words, {})
    return _parse(arguments(SPEC, "uid", {"max_model_len": "auto"}, options, {}))


def test_every_way_to_write_an_option():
    args = read(
        *("--max-model-len", "4k", "--enforce-eager", "--no-enable-prefix-caching", "--seed=7"),
        *("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}'),
        *("--compilation-config.mode", "0", "--compilation-config.custom_ops+", "none"),
        *("--lora-modules", '["a=/a", {"name": "b", "path": "/b"}]', "--enable-lora"),
        *("--limit-mm-per-prompt", '{"image": 2}', "--kv-cache-dtype", "fp8", "--tensor-parallel-size", "2"),
        *("--override-generation-config", '{"temperature": 0.5}', "--no-async-scheduling"),
    )
    assert (args.model, args.served_model_name) == ("/models/m", ["uid"])
    assert (args.max_model_len, args.enforce_eager, args.enable_prefix_caching, args.seed) == (4000, True, False, 7)
    assert args.speculative_config == {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}
    assert (int(args.compilation_config.mode), args.compilation_config.custom_ops) == (0, ["none"])
    assert [(lora.name, lora.path) for lora in args.lora_modules] == [("a", "/a"), ("b", "/b")]
    assert args.limit_mm_per_prompt == {"image": 2}
    assert (args.kv_cache_dtype, args.tensor_parallel_size) == ("fp8", 2)
    assert (args.override_generation_config, args.async_scheduling) == ({"temperature": 0.5}, False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nonsense", "3"], "unrecognized arguments: --nonsense"),
        (["--no-nonsense"], "unrecognized arguments: --no-nonsense"),
        (["--max-model-len", "many"], "max-model-len"),
        (["--kv-cache-dtype", "int77"], "invalid choice: 'int77'"),
        (["--compilation-config.nonsense", "1"], "nonsense"),
        (["--tool-call-parser", "nonsense", "--enable-auto-tool-choice"], "invalid tool call parser: nonsense"),
        (["--reasoning-parser", "nonsense"], "nonsense"),
        (["--limit-mm-per-prompt", "image=4"], "limit-mm-per-prompt: Value image=4 is no JSON."),
        (["--chat-template", "/nowhere/template.jinja"], "path-like, but doesn't exist"),
        (["--help"], "nothing to launch with"),
    ],
)
def test_what_vllm_does_not_know_is_refused_in_its_own_words(words, said):
    with pytest.raises(InvalidRequest, match="vLLM: ") as refused:
        read(*words)
    assert said in refused.value.message
