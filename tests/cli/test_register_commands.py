"""``xinfer register``, ``registrations``, ``unregister``, ``engine query``, and what a launch says that it picked."""

import json

import pytest
from typer.testing import CliRunner

from xinfer.cli.main import app

TOML = """
name = "mine"
kind = "LLM"
variants = [ {format = "safetensors", source = "/data/mine"} ]
"""
CARD = {
    "model_name": "mine",
    "aliases": ["my-own"],
    "model_family": "registered",
    "model_type": "LLM",
    "model_description": "",
    "model_ability": [],
    "context_length": None,
    "default_size": "",
    "sizes": [],
    "formats": {"safetensors": ["none"]},
    "is_builtin": False,
    "is_served": True,
    "overrides_builtin": True,
    "version": 2,
    "notes": ["stop is taken from the model's own files"],
    "model_specs": [
        {"size": "", "model_format": "safetensors", "quantization": "none", "weights_mib": 0, "sources": ["/data/mine"]}
    ],
}
LIST = {"object": "list", "data": [CARD]}


def row(**fields):
    return {
        "model_engine": "llama.cpp",
        "size": "8B",
        "model_format": "gguf",
        "quantization": "Q4_K_M",
        "weights_mib": 4800,
        "weights_here": False,
        "runs": True,
        "installs_engine": False,
        "needed_mib": 6558,
        "fits_on": "cpu0 of node",
        "hindrance": "",
        "reason": "",
        "command": "",
        "warning": "",
    } | fields


FOUND = {
    "model_name": "qwen3",
    "default_size": "8B",
    "sizes": ["0.6B", "8B"],
    "best": row(),
    "combinations": [
        row(warning="there are accelerators, but llama.cpp computes on the CPU"),
        row(model_engine="vllm", installs_engine=True, command="xinfer engine install vllm"),
        row(quantization="Q8_0", runs=False, hindrance="memory", reason="too large by 7 MiB for what is free"),
        row(size="0.6B", quantization="Q2_K"),
        row(model_engine="mlx", runs=False, hindrance="library", reason="no worker has it", command="pip install mlx"),
        row(model_engine="torchy", runs=False, hindrance="format", reason="reads safetensors"),
        row(model_engine="torchy", model_format="mlx", runs=False, hindrance="format", reason="reads safetensors"),
    ],
}


@pytest.fixture
def run(api):
    return lambda *args: CliRunner().invoke(app, [*args, "-e", api.url], env={"COLUMNS": "200"})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    return str(path)


def test_registering_a_file(api, answer, run, file):
    api.on("POST", "/v1/model_registrations/LLM", answer(body=CARD))
    done = run("register", "-f", file)
    assert done.exit_code == 0, done.output
    assert "mine is registered (version 2, in place of the built-in one)" in done.stdout
    assert "- stop is taken from the model's own files" in done.stdout
    assert api.asked[0].body["model"]["variants"] == [{"format": "safetensors", "source": "/data/mine"}]


def test_updating(api, answer, run, tmp_path):
    path = tmp_path / "mine.json"
    document = {"model_name": "mine", "context_length": 8, "model_specs": [{"model_uri": "/data/mine"}]}
    path.write_text(json.dumps(document))
    api.on("PUT", "/v1/model_registrations/LLM/mine", answer(body=CARD))
    done = run("register", "-f", str(path), "--update")
    assert done.exit_code == 0, done.output
    assert api.asked[0].body == {"model": document}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.toml", "name = ", "cannot be read"),
        ("a.json", "[1]", "cannot be read"),
        ("a.toml", 'name = "m"\nkind = "poem"\nvariants = []', "kind: Invalid enum value 'poem'"),
    ],
)
def test_a_file_that_registers_nothing(api, tmp_path, name, content, complaint):
    path = tmp_path / name
    path.write_text(content)
    done = CliRunner().invoke(app, ["register", "-f", str(path), "-e", api.url])
    assert done.exit_code == 1
    assert complaint in done.stderr
    assert api.asked == []


def test_listing_and_showing(api, answer, run):
    api.on("GET", "/v1/model_registrations", answer(body=LIST))
    listed = run("registrations").stdout
    assert all(word in listed for word in ("mine", "LLM", "/data/mine", "is hidden"))
    assert "safetensors" in run("registrations", "my-own").stdout
    assert json.loads(run("registrations", "mine", "--json").stdout) == CARD
    assert json.loads(run("registrations", "--json").stdout) == [CARD]
    missing = run("registrations", "other")
    assert missing.exit_code == 1
    assert "no model 'other' is registered; there are: mine" in missing.stderr
    api.on("GET", "/v1/model_registrations", answer(body={"data": []}))
    assert "No model is registered" in run("registrations").stdout


def test_unregistering(api, answer, run):
    api.on("GET", "/v1/model_registrations", answer(body=LIST))
    api.on("DELETE", "/v1/model_registrations/LLM/mine", answer(body={"deleted": True}))
    done = run("unregister", "mine")
    assert done.exit_code == 0, done.output
    assert "the built-in model of that name can be launched again" in done.stdout
    assert api.asked[-1].method == "DELETE"


def cells(output, *words):
    """The cells of the one row of a table with these words."""
    (line,) = [line for line in output.splitlines() if all(word in line for word in words)]
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_a_query_shows_the_best_first_and_then_what_does_not_run(api, answer, run):
    api.on("GET", "/v1/engines/qwen3?detailed=true", answer(body=FOUND))
    done = run("engine", "query", "qwen3")
    assert done.exit_code == 0, done.output
    assert cells(done.stdout, "llama.cpp", "Q4_K_M")[3:] == [
        "Q4_K_M",
        "4.7 GiB",
        "6558",
        "cpu0 of node (after a download)",
    ]
    assert "after xinfer engine install vllm" in done.stdout
    assert cells(done.stdout, "Q8_0")[-1] == "too large by 7 MiB for what is free"
    assert cells(done.stdout, "torchy") == ["torchy", "gguf, mlx", "other format", "reads safetensors"]
    assert "pip install mlx" in done.stdout
    assert "Q2_K" not in done.stdout
    assert "Other sizes: 0.6B" in done.stdout
    assert "Warning: there are accelerators" in done.stdout
    assert done.stdout.index("Q4_K_M") < done.stdout.index("Q8_0") < done.stdout.index("torchy")


def test_a_query_takes_words_and_every_size(api, answer, run):
    api.on("GET", "/v1/engines/LLM/qwen3?format=gguf&detailed=true", answer(body=FOUND))
    done = run("engine", "query", "qwen3", "--size", "all", "-f", "gguf", "-t", "LLM")
    assert "Q2_K" in done.stdout
    assert "Other sizes" not in done.stdout
    api.on("GET", "/v1/engines/qwen3?detailed=true", answer(body=FOUND))
    assert json.loads(run("engine", "query", "qwen3", "--json").stdout) == FOUND


def test_a_query_of_what_runs_nowhere_says_so(api, answer, run):
    nothing = FOUND | {"combinations": [row(runs=False, hindrance="library", reason="no worker has it")]}
    api.on("GET", "/v1/engines/qwen3?detailed=true", answer(body=nothing))
    assert "Nothing of this runs here now." in run("engine", "query", "qwen3").stdout


def test_a_launch_says_what_it_picked_and_warns(api, answer, run):
    launched = {"model_uid": "qwen3", "picked": "llama.cpp with qwen3: the best", "warnings": ["on the CPU"]}
    api.on("POST", "/v1/models?wait_ready=false", answer(body=launched))
    done = run("launch", "qwen3", "--no-wait")
    assert done.exit_code == 0, done.output
    assert "Picked llama.cpp with qwen3: the best." in done.stdout
    assert "Warning: on the CPU" in done.stderr
