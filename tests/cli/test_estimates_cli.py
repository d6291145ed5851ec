"""``xinfer estimate`` against a scripted server."""

import json

import pytest
from typer.testing import CliRunner

from xinfer.cli.main import app

CPU = {
    "device_kind": "cpu",
    "weights_mib": 2400,
    "kv_cache_mib": 896,
    "activations_mib": 49,
    "engine_mib": 512,
    "safety_mib": 193,
    "per_device_mib": 4050,
    "total_mib": 4050,
    "context_length": 8192,
    "concurrency": 16,
    "kv_tokens": 8192,
    "needed_mib": 4050,
    "notes": ["the cache has room for 8192 tokens"],
}
CARD = {
    **CPU,
    "device_kind": "accelerator",
    "driver_mib": 512,
    "per_device_mib": 3000,
    "needed_mib": 2625,
    "observed_mib": 2500,
    "error_percent": 20.0,
}
ANSWER = {
    "model_name": "qwen3",
    "model_engine": "transformers",
    "model_format": "safetensors",
    "quantization": "none",
    "size_in_billions": 0.6,
    "device_kind": "accelerator",
    "estimates": {"cpu": CPU, "accelerator": CARD},
    "fits": True,
    "message": "it fits on GPU-a",
    "placements": [{"worker_id": "w", "slices": [{"device_id": "GPU-a", "memory_mib": 2625}]}],
    "explanation": {
        "devices": [{"worker_id": "w", "worker": "node", "device_id": "GPU-a", "needed_mib": 2625, "free_mib": 9000}]
    },
}


@pytest.fixture
def run(api):
    return lambda *args: CliRunner().invoke(app, [*args, "-e", api.url], env={"COLUMNS": "160"})


def row(output, name):
    """The cells of a row of the table."""
    (line,) = [line for line in output.splitlines() if name in line and "│" in line]
    return [cell.strip() for cell in line.strip("│ ").split("│")][1:]


def test_a_table_of_the_parts_and_what_was_observed(api, answer, run):
    api.on("POST", "/v1/estimates", answer(body=ANSWER))
    done = run("estimate", "qwen3")
    assert done.exit_code == 0, done.output
    assert "qwen3 (transformers, safetensors, 0.6 billion parameters)" in done.stdout
    assert row(done.stdout, "│ KV cache") == ["896", "896"]
    assert row(done.stdout, "driver of the device") == ["512", "0"]
    assert row(done.stdout, "estimate for each device") == ["3000", "4050"]
    assert row(done.stdout, "observed peak") == ["2500 (estimate +20 %)", "-"]
    assert row(done.stdout, "what a launch reserves") == ["2625", "4050"]
    assert row(done.stdout, "tokens in the KV cache") == ["8192", "8192"]
    assert done.stdout.count("- the cache has room for 8192 tokens") == 1
    assert "it fits on GPU-a" in done.stdout
    assert "takes 1 replica" in done.stdout


def test_options_are_those_of_a_launch(api, answer, run, tmp_path):
    api.on("POST", "/v1/estimates", answer(body=ANSWER))
    words = "--engine-option x --max-model-len 8192 --dtype bfloat16 --gpu 2 -en transformers -f gguf --worker-ip w"
    done = run("estimate", f"{tmp_path}", *words.split())
    assert done.exit_code == 0, done.output
    assert api.asked[0].body == {
        "model_name": tmp_path.name,
        "model_path": str(tmp_path),
        "engine_option": "x",
        "max_model_len": 8192,
        "dtype": "bfloat16",
        "gpu": 2,
        "model_engine": "transformers",
        "model_format": "gguf",
        "worker_ip": "w",
    }


def test_several_devices_add_up(api, answer, run):
    parts = {**CPU, "devices": 2, "total_mib": 8100}
    api.on("POST", "/v1/estimates", answer(body={**ANSWER, "device_kind": "cpu", "estimates": {"cpu": parts}}))
    assert row(run("estimate", "qwen3").stdout, "estimate for all devices") == ["8100"]


def test_json_is_the_answer_itself(api, answer, run):
    api.on("POST", "/v1/estimates", answer(body=ANSWER))
    done = run("estimate", "qwen3", "--json")
    assert json.loads(done.stdout) == ANSWER


def test_a_refusal_is_shown(api, answer, run):
    error = {"message": "no model 'x' in the catalog", "type": "invalid_request_error", "param": None, "code": None}
    api.on("POST", "/v1/estimates", answer(400, {"error": error}))
    done = run("estimate", "x")
    assert done.exit_code == 1
    assert "no model 'x' in the catalog" in done.stderr
