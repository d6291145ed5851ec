"""LoRA adapters on a real vLLM: several at once beside the base model, added and removed while it serves."""

import concurrent.futures
import importlib.util
import os
import shutil
import signal

import pytest
from fakes.lora import write_lora

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None and "vllm" not in os.environ.get("XINFER_TEST_ENGINES", "").split(),
    reason="vLLM is not installed; make test-engines builds its environment",
)
ENVIRONMENTS = os.environ.get("XINFER_TEST_ENVIRONMENTS", "")
VLLM = {"model_engine": "vllm", "memory_mib": 3500, "dtype": "float32", "enforce_eager": True}
LOADING_S = 600


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    return {
        "none": str(write_lora(folder / "none", seed=1, strength=0.0)),
        "odd": str(write_lora(folder / "odd", seed=2)),
        "queer": str(write_lora(folder / "queer", seed=3, rank=8)),
        "high": str(write_lora(folder / "high", seed=4, rank=64)),
        "other": str(write_lora(folder / "other", seed=5, modules={"mlp.down_proj": (64, 32)}, base="another")),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory, open_site, loras):
    root = tmp_path_factory.mktemp("vllm")
    if ENVIRONMENTS:
        (root / "home").mkdir()
        (root / "home" / "environments").symlink_to(ENVIRONMENTS)
    with open_site(root) as site:
        site.local()
        body = {"model_name": "demo-chat", "model_uid": "base", "lora_modules": {"odd": loras["odd"]}, **VLLM}
        answer = site.call("POST", "/v1/models", json=body, timeout=LOADING_S)
        assert answer.is_success, answer.text
        yield site


def said(site, model, question="Hello!"):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 24}
    answer = site.call("POST", "/v1/chat/completions", json=body)
    assert answer.is_success, answer.text
    assert answer.json()["model"] == model
    return answer.json()["choices"][0]["message"]["content"]


def add(site, name, path):
    return site.call("POST", "/v1/models/base/adapters", json={"name": name, "path": path})


def test_each_adapter_answers_for_itself_and_they_come_and_go(server, loras, wait):
    plain, odd = said(server, "base"), said(server, "odd")
    assert plain != odd
    pids = server.ready_pids("base")
    for name in ("none", "queer"):
        answer = add(server, name, loras[name])
        assert answer.is_success, answer.text
    assert said(server, "none") == plain
    queer = said(server, "queer")
    assert queer not in (plain, odd)
    expected = {"base": plain, "odd": odd, "none": plain, "queer": queer}
    models = [*expected] * 6
    with concurrent.futures.ThreadPoolExecutor(12) as pool:  # all in the same batches
        assert list(pool.map(lambda model: said(server, model), models)) == [expected[model] for model in models]

    server.call("DELETE", "/v1/models/base/adapters/none").raise_for_status()
    assert server.call("POST", "/v1/chat/completions", json={"model": "none", "messages": []}).status_code == 404
    assert add(server, "none", loras["queer"]).is_success  # another one of the same name
    assert said(server, "none") == queer
    assert server.ready_pids("base") == pids

    os.kill(pids["base-0"], signal.SIGKILL)
    wait(lambda: server.ready_pids("base").get("base-0", pids["base-0"]) != pids["base-0"], "it is back", 180)
    assert {name: said(server, name) for name in ("base", "odd", "none")} == {"base": plain, "odd": odd, "none": queer}


def test_an_adapter_with_new_weights_at_the_same_path_is_another_one(server, loras, tmp_path):
    question = "one two three " * 100  # several blocks of the cache of prefixes
    folder = tmp_path / "changing"
    answers = []
    for weights in ("none", "queer", "none"):
        shutil.copytree(loras[weights], folder, dirs_exist_ok=True)
        add(server, "changing", str(folder)).raise_for_status()
        answers.append(said(server, "changing", question))
        server.call("DELETE", "/v1/models/base/adapters/changing").raise_for_status()
    assert answers[0] == answers[2] == said(server, "base", question)
    assert answers[1] != answers[0]


def test_another_engine_says_the_same(server, loras):
    names = {"t-none": loras["none"], "t-odd": loras["odd"], "t-queer": loras["queer"]}
    body = {"model_name": "demo-chat", "model_uid": "t", "model_engine": "transformers", "dtype": "float32"}
    launch = {**body, "lora_modules": names, "memory_mib": 1500}
    server.call("POST", "/v1/models", json=launch, timeout=LOADING_S).raise_for_status()
    add(server, "v-queer", loras["queer"]).raise_for_status()
    assert said(server, "t-none") == said(server, "t") == said(server, "base")
    assert said(server, "t-odd") == said(server, "odd")
    assert said(server, "t-queer") == said(server, "v-queer")


def test_what_does_not_fit_is_refused_in_words(server, loras):
    answer = add(server, "high", loras["high"])
    assert answer.status_code == 400
    assert "its rank is 64" in answer.json()["error"]["message"]
    assert "--max-lora-rank 64" in answer.json()["error"]["message"]
    answer = add(server, "other", loras["other"])
    assert answer.status_code == 400
    assert "made for another" in answer.json()["error"]["message"]
    answer = server.call("POST", "/v1/models/base/sleep")
    assert answer.status_code == 400
    assert "--enable-sleep-mode" in answer.json()["error"]["message"]


def test_sleep_mode_needs_cuda_and_says_so(server):
    body = {"model_name": "demo-chat", "model_uid": "sleepy", "enable_sleep_mode": True, **VLLM, "memory_mib": 3200}
    answer = server.call("POST", "/v1/models", json=body, timeout=LOADING_S)
    if answer.is_success:  # on a machine with a card
        assert server.call("POST", "/v1/models/sleepy/sleep").is_success
        assert said(server, "sleepy")
    else:
        assert "Sleep mode is not supported on current platform" in answer.json()["error"]["message"]
