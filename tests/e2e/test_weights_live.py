"""Weights that are downloaded ahead of launches, paused, listed and removed, through a server."""

import json
import signal

import pytest
from e2e.hub_site import LAUNCH, REPOSITORY, WEIGHTS, demo_files, downloaded, say, site_of, size_of_weights
from fakes.hub.process import fake_hub

from xinfer.catalog.sources import DEMO_FOLDER

PULL = ("qwen3", "--size", "0.6b", "--format", "safetensors", "--quantization", "none")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with fake_hub(tmp_path_factory.mktemp("hub")) as hub:
        for repository in (REPOSITORY, "me/mine"):
            hub.add(repository, demo_files())
        yield hub


@pytest.fixture
def site(hub, tmp_path):
    with site_of(hub, tmp_path) as site:
        yield site


def replicas(site, uid):
    found = site.get_or_none(f"/v1/models/{uid}/replicas") or []
    return [(replica["state"], replica["stage"]) for replica in found]


def cached(site, *options):
    done = site.run("models", "cached", "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_paused_launch_rests_over_restarts_and_goes_on_with_its_bytes(hub, site, wait):
    hub.behave(hold_after=1_000_000)
    supervisor = site.serve("xinfer-supervisor", "-p", str(site.port))
    site.until_ready(supervisor)
    worker = site.serve("xinfer-worker", "-e", site.url)
    wait(lambda: site.get_or_none("/v1/workers"), "a worker")
    site.launch("qwen3", model_uid="q", replica=2, wait_ready=False, **LAUNCH)
    wait(lambda: downloaded(site, "q") > 500_000, "half of it is here")
    paused = site.run("models", "pause", "q")
    assert paused.returncode == 0, paused.stderr
    assert "xinfer models resume q" in paused.stdout
    rest = wait(lambda: [one for one in replicas(site, "q") if "paused at" in one[1]], "it rests")
    assert {state for state, _ in rest} == {"DOWNLOADING"}
    (part,) = (site.root / "hf").rglob("*.incomplete")
    here = part.stat().st_size
    hub.behave()

    worker.kill()
    supervisor.kill()
    site.until_ready(site.serve("xinfer-supervisor", "-p", str(site.port)))
    site.serve("xinfer-worker", "-e", site.url)
    wait(lambda: replicas(site, "q") == [("DOWNLOADING", "paused")] * 2, "it rests again")
    assert (hub.requests, part.stat().st_size) == ([], here)
    (instance,) = site.get("/v1/models/instances?model_uid=q")
    assert instance["paused"]

    assert site.run("models", "resume", "q").returncode == 0
    site.until_ready_replicas("q", 2)
    assert hub.sent == {WEIGHTS: size_of_weights() - here}
    assert say(site, "q")["content"]
    refused = site.run("models", "pause", "q")
    assert "downloads nothing: none of its replicas waits to start" in refused.stderr


def test_two_workers_have_weights_pulled_seen_and_removed(hub, site, wait):
    site.until_ready(site.serve("xinfer-supervisor", "-p", str(site.port)))
    for name in ("one", "two"):
        site.serve("xinfer-worker", "-e", site.url, "--name", name)
    wait(lambda: len(site.get_or_none("/v1/workers") or ()) == 2, "two workers")
    pulled = site.run("models", "pull", *PULL)
    assert pulled.returncode == 0, pulled.stderr
    for name in ("one", "two"):
        assert f"hf:{REPOSITORY} is on {name}: 6 files, 2 MiB, {site.root}" in pulled.stdout
    assert hub.sent[WEIGHTS] == size_of_weights(), "they have the same home, and download once"
    assert [(row["worker"], row["source"], row["complete"]) for row in cached(site)] == [
        ("one", f"hf:{REPOSITORY}", True),
        ("two", f"hf:{REPOSITORY}", True),
    ]
    assert [row["worker"] for row in cached(site, "--worker", "two")] == ["two"]
    assert [row["worker"] for row in cached(site, "--local")] == ["this machine"]

    found = site.get("/v1/engines/qwen3?detailed=true&size=0.6b&format=safetensors")["combinations"]
    assert {row["weights_here"] for row in found if row["quantization"] == "none"} == {True}
    assert {row["weights_here"] for row in found if row["quantization"] != "none"} == {False}

    hub.behave()
    site.launch("qwen3", model_uid="q", replica=2, **LAUNCH)
    assert hub.requests == []
    refused = site.run("models", "remove", REPOSITORY)
    assert "q-0" in refused.stderr
    assert "Terminate what uses it first" in refused.stderr
    site.terminate("q")
    removed = site.run("models", "remove", REPOSITORY)
    assert "Removed Qwen/Qwen3-0.6B: 2 MiB free." in removed.stdout
    assert cached(site) == []
    again = site.run("models", "remove", REPOSITORY)
    assert again.returncode == 1
    assert "no worker has weights of" in again.stderr


def test_a_pull_that_is_interrupted_keeps_what_came(hub, site, wait):
    hub.behave(hold_after=1_000_000)
    site.local()
    pulling = site.start("models", "pull", "me/mine")
    name = wait(lambda: next(iter(pulls(site)), None), "it has begun")
    wait(lambda: site.get(f"/v1/weights/{name}/progress")["downloaded"] > 500_000, "half of it is here")
    pulling.send_signal(signal.SIGINT)
    _, said = pulling.communicate()
    assert pulling.returncode == 130
    assert "What came is kept; the same command goes on from there." in said
    assert pulls(site)[name]["state"] == "cancelled"
    (unfinished,) = cached(site)
    assert (unfinished["source"], unfinished["format"], unfinished["complete"]) == ("hf:me/mine", None, False)

    here = unfinished["size"]
    hub.behave()
    assert site.run("models", "pull", "me/mine").returncode == 0
    assert hub.sent == {WEIGHTS: size_of_weights() - here}
    assert [event["done"] for event in events(site, name)] == [True]
    assert site.call("POST", f"/v1/weights/{name}/cancel").status_code == 404


def pulls(site):
    return {pull["name"]: pull for here in site.get("/v1/weights")["workers"].values() for pull in here["pulls"]}


def events(site, name):
    answer = site.call("GET", f"/v1/weights/{name}/events")
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_what_was_pulled_launches_by_its_id_without_a_network(hub, site, wait):
    """Also where only a worker has it: the supervisor asks."""
    with_network = site.run("models", "pull", "me/mine", "--local")
    assert with_network.returncode == 0, with_network.stderr
    assert "hf:me/mine is on this machine: 6 files, 2 MiB, " in with_network.stdout
    hub.behave()
    elsewhere = {"hf_cache": site.root / "elsewhere"}
    site.until_ready(site.serve("xinfer-supervisor", "-p", str(site.port), offline=True, home="far", **elsewhere))
    site.serve("xinfer-worker", "-e", site.url, offline=True)
    wait(lambda: site.get_or_none("/v1/workers"), "a worker")
    launched = site.run("launch", "me/mine", "--gpumem", "900")
    assert launched.returncode == 0, launched.stderr
    assert "it is hf:me/mine" in launched.stdout
    assert say(site, "mine")["content"]
    refused = site.run("launch", "me/other")
    assert (
        "no machine here has its weights, and XINFER_OFFLINE keeps us from asking https://huggingface.co/me/other"
        in (refused.stderr)
    )
    assert hub.requests == []


def test_a_folder_of_that_name_goes_before_the_hubs(hub, site):
    (site.root / "models" / "me").mkdir(parents=True)
    (site.root / "models" / "me" / "mine").symlink_to(DEMO_FOLDER / "demo-chat")
    site.local(model_roots=f"{site.root / 'models'}:{DEMO_FOLDER}")
    launched = site.run("launch", "me/mine", "--gpumem", "900")
    assert f"it is the folder {site.root}/models/me/mine" in launched.stdout
    typo = site.run("launch", "Qwen/Qwen3-0.5B")
    assert "no hub has a repository 'Qwen/Qwen3-0.5B'" in typo.stderr
    assert "did you mean qwen3" in typo.stderr
