"""SGLang on a real site: a replica whose server dies in the middle of an answer, and what becomes of both."""

import importlib.util
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from e2e.conftest import Site, site_in, wait_for

if importlib.util.find_spec("sglang") is None:
    pytest.skip("sglang is not installed in this environment", allow_module_level=True)

pytestmark = pytest.mark.engine("sglang")

STAND_INS = Path(__file__).parents[1] / "fakes" / "sglang"
PATIENCE_S = 300.0
"""For a server that imports torch several times over."""
HELLO = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def site(tmp_path) -> Iterator[Site]:
    with site_in(tmp_path) as site:
        site.local()
        yield site


def family(site: Site) -> list[psutil.Process]:
    """What the replica has started. (Some of it hides its environment, by which the site would find it.)"""
    (pid,) = site.ready_pids("demo-chat").values()
    return psutil.Process(pid).children(recursive=True)


def until_ready(site: Site, restarts: int) -> None:
    def ready() -> bool:
        (replica,) = site.replicas("demo-chat")
        assert replica["state"] != "FAILED", replica["reason"]
        return replica["state"] == "READY" and replica["restarts"] == restarts

    wait_for(ready, "the replica is READY", PATIENCE_S)


def test_a_server_that_dies_in_the_middle_of_an_answer_comes_back(site):
    envs = {} if importlib.util.find_spec("sgl_kernel") else {"PYTHONPATH": str(STAND_INS)}
    options = {"attention_backend": "torch_native", "dtype": "float32", "max_running_requests": 8}
    site.launch("demo-chat", model_engine="sglang", wait_ready=False, envs=envs, memory_mib=2600, **options)
    until_ready(site, restarts=0)
    with site.client() as client:
        answer = client.chat.completions.create(model="demo-chat", messages=HELLO, temperature=0)
    body = {"model": "demo-chat", "prompt": "a", "max_tokens": 1900, "stream": True, "ignore_eos": True}
    with site._http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("data: ")
        first = family(site)
        scheduler = next(process for process in first if "scheduler" in " ".join(process.cmdline()))
        scheduler.send_signal(signal.SIGKILL)
        events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert json.loads(events[-1])["error"]["code"] in {"endpoint_failed", "replica_lost"}
    until_ready(site, restarts=1)
    with site.client() as client:
        again = client.chat.completions.create(model="demo-chat", messages=HELLO, temperature=0)
    assert again.choices[0].message.content == answer.choices[0].message.content
    second = family(site)
    site.terminate("demo-chat")
    assert psutil.wait_procs([*first, *second], timeout=PATIENCE_S)[1] == []
