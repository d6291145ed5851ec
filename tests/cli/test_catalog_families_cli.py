"""``xinfer models catalog`` against a scripted server."""

import json

import pytest
from typer.testing import CliRunner

from xinfer.cli.main import app

QWEN = {
    "model_name": "qwen3",
    "aliases": ["qwen-3"],
    "model_family": "qwen3",
    "model_type": "LLM",
    "model_description": "Thinks [or not]",
    "model_ability": ["chat", "tools"],
    "context_length": 40960,
    "default_size": "8B",
    "sizes": ["0.6B", "8B"],
    "formats": {"safetensors": ["none", "fp8"], "gguf": ["Q4_K_M"]},
    "is_builtin": True,
    "is_served": True,
}
WHISPER = QWEN | {"model_name": "whisper", "model_type": "speech-recognition", "is_served": False, "sizes": []}
SPEC = {
    "size": "8B",
    "model_format": "gguf",
    "quantization": "Q4_K_M",
    "weights_mib": 5120,
    "sources": ["hf:unsloth/Qwen3-8B-GGUF#Qwen3-8B-Q4_K_M.gguf", "ms:unsloth/Qwen3-8B-GGUF#Qwen3-8B-Q4_K_M.gguf"],
}


@pytest.fixture
def run(api):
    return lambda *args: CliRunner().invoke(app, ["models", *args, "-e", api.url], env={"COLUMNS": "160"})


def test_the_models_with_their_sizes_and_formats(api, answer, run):
    api.on("GET", "/v1/catalog", answer(body={"object": "list", "data": [WHISPER, QWEN]}))
    done = run("catalog")
    assert done.exit_code == 0
    (line,) = [line for line in done.stdout.splitlines() if "qwen3" in line]
    assert [cell.strip() for cell in line.strip("│ ").split("│")] == [
        "qwen3",
        "LLM",
        "0.6B, 8B",
        "safetensors, gguf",
        "Thinks [or not]",
    ]
    assert done.stdout.index("qwen3") < done.stdout.index("whisper")


def test_only_one_type(api, answer, run):
    api.on("GET", "/v1/catalog?model_type=audio", answer(body={"object": "list", "data": [WHISPER]}))
    assert "speech-recognition" in run("catalog", "-t", "audio").stdout


def test_one_model_with_all_of_its_weights(api, answer, run):
    api.on("GET", "/v1/catalog/qwen3", answer(body=QWEN | {"model_specs": [SPEC]}))
    done = run("catalog", "qwen3")
    for text in ("context: 40960 tokens", "aliases: qwen-3", "Q4_K_M", "5.0", *SPEC["sources"]):
        assert text in done.stdout
    assert json.loads(run("catalog", "qwen3", "--json").stdout)["model_specs"] == [SPEC]


def test_a_type_that_nothing_serves_is_told(api, answer, run):
    api.on("GET", "/v1/catalog/whisper", answer(body=WHISPER | {"model_specs": []}))
    assert "speech-recognition (no engine serves this type)" in run("catalog", "whisper").stdout


def test_a_name_that_there_is_not(api, answer, run):
    error = {"message": "no model 'x' in the catalog", "type": "invalid_request_error", "param": None, "code": None}
    api.on("GET", "/v1/catalog/x", answer(status=404, body={"error": error}))
    done = run("catalog", "x")
    assert done.exit_code == 1
    assert "no model 'x' in the catalog" in done.stderr


def test_a_launch_takes_size_and_format_by_their_short_names(api, answer):
    api.on("POST", "/v1/models?wait_ready=false", answer(body={"model_uid": "qwen3"}))
    words = ["launch", "qwen3", "--size", "0.6b", "--format", "gguf", "--quantization", "Q4_K_M", "--no-wait"]
    done = CliRunner().invoke(app, [*words, "-e", api.url])
    assert done.exit_code == 0
    (asked,) = [asked for asked in api.asked if asked.method == "POST"]
    assert asked.body["model_size_in_billions"] == "0.6b"
    assert (asked.body["model_format"], asked.body["quantization"]) == ("gguf", "Q4_K_M")
