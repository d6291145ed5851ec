"""Models by name whose weights are on a hub only: launched, downloaded, cut off by kill -9, gone on with."""

import json

import pytest
from e2e.hub_site import LAUNCH, REPOSITORY, WEIGHTS, demo_files, downloaded, progress, say, site_of, size_of_weights
from fakes.hub.process import fake_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with fake_hub(tmp_path_factory.mktemp("hub")) as hub:
        hub.add(REPOSITORY, demo_files())
        yield hub


@pytest.fixture
def site(hub, tmp_path):
    with site_of(hub, tmp_path) as site:
        yield site


def test_a_name_is_enough_and_two_replicas_download_once(hub, site, wait):
    hub.behave(hold_after=1_000_000)
    site.local()
    site.launch("qwen3", model_uid="q", replica=2, wait_ready=False, **LAUNCH)
    wait(lambda: downloaded(site, "q") > 500_000, "half of it is here")
    now = progress(site, "q")
    assert {replica["state"] for replica in now["replicas"]} == {"DOWNLOADING"}
    assert now["stage"].startswith(f"downloading {WEIGHTS}, ")
    assert not now["done"]
    sent = hub.sent
    hub.behave()
    site.until_ready_replicas("q", 2)
    assert say(site, "q")["content"]
    assert size_of_weights() <= sent[WEIGHTS] + hub.sent[WEIGHTS] <= size_of_weights() + 512 * 1024

    listed = json.loads(site.run("models", "cached", "--json").stdout)
    assert [(row["source"], row["used_by"]) for row in listed] == [(f"hf:{REPOSITORY}", ["q-0", "q-1"])]
    refused = site.run("models", "remove", REPOSITORY)
    assert refused.returncode == 1
    assert "is used by q-0, q-1" in refused.stderr
    site.terminate("q")
    removed = site.run("models", "remove", REPOSITORY)
    assert removed.returncode == 0, removed.stderr
    assert json.loads(site.run("models", "cached", "--json").stdout) == []


def test_a_worker_that_is_killed_at_60_percent_goes_on_from_there(hub, site, wait):
    held = size_of_weights() * 6 // 10
    hub.behave(hold_after=held)
    supervisor = ("xinfer-supervisor", "-p", str(site.port))
    site.until_ready(site.serve(*supervisor))
    worker = site.serve("xinfer-worker", "-e", site.url)
    wait(lambda: site.get_or_none("/v1/workers"), "a worker")
    site.launch("qwen3", model_uid="q", wait_ready=False, **LAUNCH)
    wait(lambda: downloaded(site, "q") >= size_of_weights() // 2, "60 % is here")
    worker.kill()
    (part,) = (site.root / "hf").rglob("*.incomplete")
    here = part.stat().st_size
    hub.behave()
    site.serve("xinfer-worker", "-e", site.url)
    site.until_ready_replicas("q", 1)
    assert say(site, "q")["content"]
    assert hub.sent == {WEIGHTS: size_of_weights() - here}
    (asked,) = [one["headers"].get("range") for one in hub.requests if "/contents/" in one["path"]]
    assert asked == f"bytes={here}-"


def test_pull_first_then_launch_offline(hub, site):
    pulled = site.run("models", "pull", "qwen3", "--size", "0.6", "--format", "pytorch", "--quantization", "none")
    assert pulled.returncode == 0, pulled.stderr
    assert f"hf:{REPOSITORY} is on this machine: 6 files, 2 MiB" in pulled.stdout
    assert hub.sent[WEIGHTS] == size_of_weights()
    hub.behave()
    site.local(offline=True)
    site.launch("qwen3", model_uid="q", **LAUNCH)
    assert say(site, "q")["content"]
    larger = {"model_name": "qwen3", "model_uid": "larger", **LAUNCH, "model_size_in_billions": "1.7"}
    refused = site.call("POST", "/v1/models", params={"wait_ready": "true"}, json=larger)
    message = refused.json()["error"]["message"]
    assert not refused.is_success
    assert "XINFER_OFFLINE is set" in message
    assert "missing are the files of https://huggingface.co/Qwen/Qwen3-1.7B in" in message
    assert hub.requests == []


def test_an_id_that_no_catalog_knows_is_looked_at_and_launched(hub, site):
    hub.add("me/mine", demo_files())
    hub.behave()
    site.local()
    assert site.launch("ms:me/mine", gpumem=900) == "mine"
    assert say(site, "mine")["content"]
    refused = site.call("POST", "/v1/models", json={"model_name": "hf:me/nothing"})
    assert "has no me/nothing, or not for us (404)" in refused.json()["error"]["message"]


def test_cancelling_a_launch_ends_its_download(hub, site, wait):
    hub.behave(hold_after=1_000_000)
    site.local()
    site.launch("qwen3", model_uid="q", wait_ready=False, **LAUNCH)
    wait(lambda: downloaded(site, "q") > 500_000, "half of it is here")
    site.call("POST", "/v1/models/q/cancel").raise_for_status()
    wait(lambda: "q" not in site.running_models(), "it is gone")
    assert list((site.root / "hf").rglob("*.incomplete")), "what came is kept"
