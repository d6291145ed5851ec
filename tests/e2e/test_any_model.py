"""Models of many kinds, launched by the path of their folder and nothing else."""

import importlib.util

import pytest

LIBRARIES = ("torch", "transformers", "sentence_transformers", "gguf")
if not all(importlib.util.find_spec(library) for library in LIBRARIES):
    pytest.skip("the engines are not installed", allow_module_level=True)

from fakes.models import (  # noqa: E402 - they need the libraries
    DECODERS,
    ENCODERS,
    GGUF_TYPES,
    write_adapter,
    write_decoder,
    write_gguf,
    write_with_code,
)

GGUF = dict.fromkeys(GGUF_TYPES if importlib.util.find_spec("llama_cpp") else ())
RUNNABLE = (*DECODERS, *ENCODERS, *GGUF)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the models are."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(tmp_path_factory, open_site, folder):
    with open_site(tmp_path_factory.mktemp("any"), model_roots=folder) as site:
        site.local()
        yield site


def write(folder, name):
    """One of ``RUNNABLE``."""
    if name in GGUF:
        return write_gguf(folder / f"{name}.gguf", name)
    return write_decoder(folder / name, name) if name in DECODERS else ENCODERS[name](folder / name)


def answer(site, uid, abilities):
    """It answers in the words of what it is for."""

    def ask(path, **body):
        return site.call("POST", path, json={"model": uid, **body}).raise_for_status().json()

    if "embed" in abilities:
        vectors = [item["embedding"] for item in ask("/v1/embeddings", input=["the goose", "a lake"])["data"]]
        assert [len(vector) for vector in vectors] == [32, 32], uid
    elif "rerank" in abilities:
        found = ask("/v1/rerank", query="the goose", documents=["a lake", "quiet evening"])["results"]
        assert {item["index"] for item in found} == {0, 1}, uid
    elif "chat" in abilities:
        messages = [{"role": "user", "content": "What does the goose say?"}]
        found = ask("/v1/chat/completions", messages=messages, max_tokens=4)
        assert 1 <= found["usage"]["completion_tokens"] <= 4, uid
    else:
        found = ask("/v1/completions", prompt="What does the goose say?", max_tokens=4)
        assert 1 <= found["usage"]["completion_tokens"] <= 4, uid


def test_every_kind_of_model_answers(server, folder):
    """While one answers and ends, the next one starts already: on two cores that halves the time."""
    uids = []
    for name in RUNNABLE:
        uids.append(server.launch(str(write(folder, name)), wait_ready=False))
        if len(uids) > 1:
            finish(server, uids.pop(0))
    finish(server, uids.pop())


def finish(site, uid):
    site.until_ready_replicas(uid, 1)
    answer(site, uid, site.get(f"/v1/models/{uid}")["model_ability"])
    site.terminate(uid)


def test_the_command_launches_a_folder_with_what_it_is_told_about_it(server, folder):
    path = write_decoder(folder / "told", "base")
    done = server.run("launch", str(path), "--model-type", "embedding", "--override", "dimensions=32")
    assert done.returncode == 0, done.stderr
    answer(server, "told", ["embed"])
    assert server.get("/v1/models/told")["dimensions"] == 32
    server.terminate("told")


def test_code_of_a_model_runs_where_launch_and_setting_allow_it(open_site, tmp_path):
    """The code says so by its failure."""
    asked = {"model_engine": "transformers", "trust_remote_code": True}
    envs = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    with open_site(tmp_path, model_roots=tmp_path, trust_remote_code=True) as site:
        site.local()
        path = str(write_with_code(tmp_path / "invented"))
        answer = site.call("POST", "/v1/models", json={"model_name": path, "envs": envs, **asked})
        assert "this code was run" in answer.text


def test_the_command_says_what_would_help(server, folder):
    adapter = server.run("launch", str(write_adapter(folder / "adapter")))
    assert "xinfer launch Qwen/Qwen3-0.6B --lora-modules adapter=" in adapter.stderr
    code = str(write_with_code(folder / "invented"))
    unknown = server.run("launch", code, "--model-engine", "transformers")
    assert "launch the model with --trust-remote-code true" in unknown.stderr
    asked = server.run("launch", code, "--model-engine", "transformers", "--trust-remote-code", "true")
    assert "XINFER_TRUST_REMOTE_CODE=1 for the supervisor and the workers" in asked.stderr
    assert {unknown.returncode, asked.returncode, adapter.returncode} == {1}
