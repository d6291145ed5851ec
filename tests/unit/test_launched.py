"""What clients are told of a launch: the longest sequence that it serves, rather than what its model was made for."""

import pytest

from xinfer.ops import Kind
from xinfer.spec import Deployment, Format, ModelSpec
from xinfer.supervisor.launched import as_served
from xinfer.supervisor.records import ModelRecord
from xinfer.supervisor.routing_table import card
from xinfer.supervisor.views import instance

MADE_FOR = 32768


def launched(engine: str, options: dict[str, object], made_for: int | None = MADE_FOR) -> Deployment:
    spec = ModelSpec(name="m", kind=Kind.LLM, source="/m", format=Format.SAFETENSORS, context_length=made_for)
    return Deployment(model_uid="m", spec=spec, engine=engine, options=options)


@pytest.mark.parametrize(
    ("engine", "options", "served"),
    [
        ("vllm", {}, MADE_FOR),
        ("vllm", {"max_model_len": 512}, 512),
        ("vllm", {"max_model_len": "512"}, 512),
        ("vllm", {"max_model_len": "1k"}, 1000),
        ("vllm", {"max_model_len": "2K"}, 2048),
        ("vllm", {"max_model_len": "1.5k"}, 1500),
        ("vllm", {"max_model_len": "auto"}, MADE_FOR),
        ("vllm", {"max_model_len": -1}, MADE_FOR),
        ("sglang", {"context_length": "4096"}, 4096),
        ("transformers", {"context_length": 256}, 256),
        ("mlx", {"max_model_len": 128}, 128),
        ("llama.cpp", {"n_ctx": 4096}, 4096),
        ("llama.cpp", {"n_ctx": 4096, "n_parallel": 4}, 1024),
        ("llama.cpp", {"n_ctx": 10 * MADE_FOR, "n_parallel": 2}, MADE_FOR),
        ("llama.cpp", {"n_ctx": 4096, "n_parallel": 4, "max_model_len": 512}, 512),
        ("an engine that is gone", {"max_model_len": 512}, MADE_FOR),
    ],
)
def test_the_context_is_the_one_that_was_asked_for(engine: str, options: dict[str, object], served: int) -> None:
    deployment = launched(engine, options)
    told = card(deployment)
    assert (told["context_length"], told["max_tokens"]) == (served, served)
    assert instance(ModelRecord(deployment), {}).deployment.spec.context_length == served


def test_where_nobody_knows_what_it_was_made_for_the_launch_says_it() -> None:
    assert card(launched("vllm", {}, None))["context_length"] is None
    assert as_served(launched("vllm", {"max_model_len": 512}, None)).spec.context_length == 512
    assert as_served(launched("llama.cpp", {"n_ctx": 512}, None)).spec.context_length == 512
