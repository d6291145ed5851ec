"""Two vLLM replicas with different slices of one device: their budgets add up to at most what it has."""

import importlib.util
import os
import re

import psutil
import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None and "vllm" not in os.environ.get("XINFER_TEST_ENGINES", "").split(),
    reason="vLLM is not installed; make test-engines builds its environment",
)
ENVIRONMENTS = os.environ.get("XINFER_TEST_ENVIRONMENTS", "")
SLICES = {"small": 3200, "large": 4200}
MIB = 1024 * 1024


def worker_of(pid: int) -> psutil.Process:
    """The process of vLLM that holds weights and cache."""
    return max(psutil.Process(pid).children(recursive=True), key=lambda child: child.memory_info().rss)


def test_two_replicas_with_different_slices_of_one_device(tmp_path, open_site):
    if ENVIRONMENTS:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "environments").symlink_to(ENVIRONMENTS)
    with open_site(tmp_path) as site:
        site.local()
        for uid, mib in SLICES.items():
            body = {"model_name": "demo-chat", "model_uid": uid, "model_engine": "vllm", "memory_mib": mib}
            answer = site.call(
                "POST", "/v1/models", json={**body, "dtype": "float32", "enforce_eager": True}, timeout=600
            )
            assert answer.is_success, answer.text
        device = site.get("/v1/cluster/devices")[0]
        assert {piece["model_uid"]: piece["memory_mib"] for piece in device["slices"]} == SLICES
        assert device["reserved_mib"] == sum(SLICES.values()) <= device["capacity_mib"]

        planned = {}
        for uid, mib in SLICES.items():
            log = next((tmp_path / "home").glob(f"workers/*/replicas/{uid}-0/*/log")).read_text(errors="replace")
            found = re.search(r"with ([\d.]+) GiB requested memory", log)
            assert found, log
            planned[uid] = float(found[1]) * 1024
            pid = site.ready_pids(uid)[f"{uid}-0"]
            frontend = psutil.Process(pid).memory_info().rss / MIB
            assert planned[uid] + frontend < mib
            assert worker_of(pid).memory_info().rss / MIB < mib
        assert planned["small"] < planned["large"]

        with site.client() as client:
            for uid in SLICES:
                answer = client.chat.completions.create(model=uid, messages=[{"role": "user", "content": "Hello!"}])
                assert answer.choices[0].message.content
