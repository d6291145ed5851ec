"""Models of many kinds, launched by the path of their folder and nothing else."""

import importlib.util
import re

import pytest
from e2e.answering import check_answer
from e2e.engine_cases import LOADING_S

LIBRARIES = ("torch", "transformers", "sentence_transformers", "gguf")
if not all(importlib.util.find_spec(library) for library in LIBRARIES):
    pytest.skip("the engines are not installed", allow_module_level=True)

from fakes.models import (  # noqa: E402 - they need the libraries
    BROKEN,
    DECODERS,
    ENCODERS,
    LOOKALIKES,
    write_adapter,
    write_decoder,
    write_gguf,
    write_with_code,
)

RUNNABLE = (*DECODERS, *ENCODERS)
ELSEWHERE = frozenset({"vision-language", "whisper"})
"""Engines here serve these kinds, but not these weights; ``test_vision.py`` and ``test_speech.py`` have others."""
WAY_OUT = re.compile(
    r"xinfer (engine install|engine query|launch)|pip install|git lfs pull|download|fetch|convert|launch that one|"
    r"launch the model with|types are served|has a config.json|take the model from"
)
"""What a refusal that helps tells its reader to do, or to look for."""


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
    return write_decoder(folder / name, name) if name in DECODERS else ENCODERS[name](folder / name)


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
    check_answer(site, uid)
    site.terminate(uid)


@pytest.mark.parametrize("name", sorted({*LOOKALIKES, *BROKEN, "gguf"} - ELSEWHERE))
def test_what_cannot_run_here_is_refused_with_a_way_out(server, folder, name):
    writers = {**LOOKALIKES, **BROKEN, "gguf": lambda path: write_gguf(path.with_suffix(".gguf"), "Q4_0")}
    path = writers[name](folder / f"look-{name}")
    answer = server.call("POST", "/v1/models", json={"model_name": str(path)}, timeout=LOADING_S)
    if answer.is_success:  # an engine here has learnt it, or its libraries are installed
        check_answer(server, answer.json()["model_uid"])
        server.terminate(answer.json()["model_uid"])
    else:
        assert answer.status_code == 400, answer.text
        assert WAY_OUT.search(answer.json()["error"]["message"]), answer.text


def test_the_command_launches_a_folder_with_what_it_is_told_about_it(server, folder):
    path = write_decoder(folder / "told", "base")
    done = server.run("launch", str(path), "--model-type", "embedding", "--override", "dimensions=32")
    assert done.returncode == 0, done.stderr
    check_answer(server, "told", dimensions=32)
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
