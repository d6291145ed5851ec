"""What vLLM serves beside chats, on a real vLLM: vectors, scores, classes, images, and one model on several workers."""

import base64
import importlib.util
import json
import os
import re
import struct
import zlib
from pathlib import Path

import psutil
import pytest

import xinfer.catalog

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None and "vllm" not in os.environ.get("XINFER_TEST_ENGINES", "").split(),
    reason="vLLM is not installed; make test-engines builds its environment",
)
DEMO = Path(xinfer.catalog.__file__).parent / "demo"
ENVIRONMENTS = os.environ.get("XINFER_TEST_ENVIRONMENTS", "")
VLLM = {"model_engine": "vllm", "memory_mib": 3600, "dtype": "float32", "enforce_eager": True}
LOADING_S = 600


@pytest.fixture(scope="module")
def server(tmp_path_factory, open_site):
    root = tmp_path_factory.mktemp("vllm-kinds")
    if ENVIRONMENTS:
        (root / "home").mkdir()
        (root / "home" / "environments").symlink_to(ENVIRONMENTS)
    with open_site(root) as site:
        site.local()
        yield site


def start(server, path, **options):
    body = {"model_name": "m", "model_path": str(path), **VLLM, **options}
    answer = server.call("POST", "/v1/models", json=body, timeout=LOADING_S)
    assert answer.is_success, answer.text


@pytest.fixture
def launch(server):
    """Launches a model for one test."""
    yield lambda path, **options: start(server, path, **options)
    server.terminate("m")


def ask(server, path, **fields):
    answer = server.call("POST", path, json={"model": "m", **fields})
    assert answer.is_success, answer.text
    return answer.json()


def test_vectors_and_how_alike_texts_are(server, launch):
    launch(DEMO / "demo-embed")
    first, second = ask(server, "/v1/embeddings", input=["a goose", "the lake"])["data"]
    assert len(first["embedding"]) == len(second["embedding"]) == 64
    assert ask(server, "/v1/pooling", input="a goose")["data"][0]["data"] == pytest.approx(first["embedding"], abs=1e-4)
    other, same = ask(server, "/v1/score", text_1="a goose", text_2=["the lake", "a goose"])["data"]
    assert other["score"] < same["score"] == pytest.approx(1, abs=1e-3)
    tokens = ask(server, "/v1/tokenize", prompt="a goose")["tokens"]
    assert "goose" in ask(server, "/v1/detokenize", tokens=tokens)["prompt"]


def test_documents_in_the_order_of_their_relevance(server, launch):
    launch(DEMO / "demo-rerank")
    documents = ["Bananas are yellow.", "The capital of France is Paris."]
    ranked = ask(server, "/v1/rerank", query="What is the capital of France?", documents=documents)["results"]
    assert [result["index"] for result in ranked] == [1, 0]
    scores = ask(server, "/v1/score", text_1="What is the capital of France?", text_2=documents)["data"]
    found = {result["index"]: result["relevance_score"] for result in ranked}
    assert [score["score"] for score in scores] == pytest.approx([found[0], found[1]], abs=1e-4)
    assert ask(server, "/v1/classify", input="a goose")["data"][0]["num_classes"] == 1
    objects = [{"text": text} for text in documents]
    asked = {"query": "What is the capital of France?", "documents": objects, "return_documents": False}
    bare = ask(server, "/v1/rerank", **asked)["results"]
    assert [set(result) for result in bare] == [{"index", "relevance_score"}] * 2
    assert {result["index"]: result["relevance_score"] for result in bare} == pytest.approx(found, abs=1e-4)


def test_a_chat_in_the_words_of_other_servers(server, launch):
    launch(DEMO / "demo-chat")
    chat = {"messages": [{"role": "user", "content": "Hello!"}], "temperature": 0, "max_tokens": 60}
    thoughtful = ask(server, "/v1/chat/completions", **chat, enable_thinking=True)["choices"][0]["message"]
    assert thoughtful["reasoning_content"].strip()
    assert thoughtful["reasoning_content"] == thoughtful["reasoning"]
    assert "reasoning_content" not in ask(server, "/v1/chat/completions", **chat)["choices"][0]["message"]
    for path, asked in (("/v1/chat/completions", chat), ("/v1/completions", {"prompt": "Hello!"})):
        (choice,) = ask(server, path, **asked, guided_regex="[xyz]{4}")["choices"]
        assert re.fullmatch("[xyz]{4}", choice.get("text") or choice["message"]["content"])
    for stream in (False, True):
        answer = server.call(
            "POST", "/v1/completions", json={"model": "m", "prompt": "a", "logprobs": 99, "stream": stream}
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")
    read = ask(server, "/v1/messages", messages=chat["messages"], max_tokens=1)["usage"]["input_tokens"]
    assert ask(server, "/v1/messages/count_tokens", messages=chat["messages"])["input_tokens"] == read


def png(colour, side=32):
    """A square of one colour."""
    rows = b"".join(b"\0" + bytes(colour) * side for _ in range(side))

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def as_published(folder):
    """As published: other names of the tower's tensors than the library writes, and what its language model is."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["architectures"] = ["LlamaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))
    numpy = pytest.importorskip("safetensors.numpy")
    file = folder / "model.safetensors"
    tensors = {
        name.replace("vision_tower.", "vision_tower.vision_model.", 1): tensor
        for name, tensor in numpy.load_file(file).items()
    }
    numpy.save_file(tensors, file, {"format": "pt"})
    return folder


def test_a_model_that_sees(server, tmp_path, monkeypatch):
    vision = pytest.importorskip("fakes.vision")
    # vLLM's attention on CPUs has no kernel for heads narrower than this.
    monkeypatch.setattr(vision, "LANGUAGE", {**vision.LANGUAGE, "head_dim": 32})
    folder = as_published(vision.write_seer(tmp_path / "llava", "llava"))
    answer = server.call(
        "POST", "/v1/models", json={"model_name": "m", "model_path": str(folder), **VLLM}, timeout=LOADING_S
    )
    if not answer.is_success:  # without a card: no build of what it reads images with
        assert "vLLM reads images with torchvision" in answer.json()["error"]["message"]
        return

    def said(colour):
        parts = [{"type": "image_url", "image_url": {"url": png(colour)}}, {"type": "text", "text": "What is it?"}]
        answer = ask(
            server,
            "/v1/chat/completions",
            messages=[{"role": "user", "content": parts}],
            max_tokens=12,
            temperature=0,
        )
        return answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]

    (red, red_tokens), (blue, blue_tokens) = said((210, 40, 30)), said((30, 50, 210))
    assert red != blue
    assert red_tokens == blue_tokens > 16
    assert said((210, 40, 30))[0] == red
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [broken]}]}
    answer = server.call("POST", "/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    server.terminate("m")


def test_one_model_on_two_workers_of_one_slice(server):
    start(server, DEMO / "demo-chat", tensor_parallel_size=2, memory_mib=5600)
    with server.client() as client:
        asked = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0}
        assert client.chat.completions.create(**asked, max_tokens=24).choices[0].message.content
    (pid,) = server.ready_pids("m").values()
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    workers = [process for process in family if "Worker" in " ".join(process.cmdline())]
    assert len(workers) == 2
    assert sum(process.memory_info().rss for process in family) < 5600 * 1024 * 1024
    server.terminate("m")
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
