"""``xinfer models pull | cached | remove | pause | resume`` against a scripted server."""

import json

import pytest
from typer.testing import CliRunner

from xinfer.cli.main import app

NAME = "hf--me--mine--1"
BEGUN = {"name": NAME, "done": False, "workers": {"one": {"state": "downloading", "source": "hf:me/mine"}}}
HALF = {
    "name": NAME,
    "done": False,
    "downloaded": 2097152,
    "total": 4194304,
    "workers": {"one": {"stage": "downloading w", "files": [{"name": "w", "done": 2097152, "total": 4194304}]}},
}
READY = {
    "source": "hf:me/mine",
    "state": "ready",
    "total": 4194304,
    "files": [{"name": "w", "done": 4194304, "total": 4194304}],
    "path": "/there",
}
ENDED = {"name": NAME, "done": True, "downloaded": 4194304, "total": 4194304, "workers": {"one": READY}}
ROW = {
    "name": NAME,
    "source": "hf:me/mine",
    "format": "gguf",
    "size": 4194304,
    "complete": True,
    "used_by": ["q-0"],
    "downloaded_at": 1_700_000_000.0,
    "path": "/there",
}
UNFINISHED = ROW | {"name": "hf:me/other", "source": "hf:me/other", "format": None, "complete": False, "used_by": []}


@pytest.fixture
def run(api, answer):
    api.on("GET", "/health", answer(body={"status": "ok"}))
    return lambda *args: CliRunner().invoke(app, ["models", *args, "-e", api.url], env={"COLUMNS": "160"})


def test_a_pull_is_shown_until_it_is_done(api, answer, run):
    api.on("POST", "/v1/weights", answer(body=BEGUN))
    api.on("GET", f"/v1/weights/{NAME}/progress", answer(body=HALF), answer(body=ENDED))
    done = run("pull", "me/mine", "--format", "gguf", "--worker", "one")
    assert done.exit_code == 0, done.output
    assert "hf:me/mine is on one: 1 files, 4 MiB, /there" in done.stdout
    asked = api.wait_for("POST", "/v1/weights").body
    assert asked == {"model_name": "me/mine", "workers": ["one"], "verify": False, "model_format": "gguf"}


def test_a_worker_that_failed_is_named(api, answer, run):
    api.on("POST", "/v1/weights", answer(body=BEGUN))
    failed = {"state": "failed", "reason": "the disk is full"}
    ended = ENDED | {"reason": "the disk is full", "workers": {"one": READY, "two": failed}}
    api.on("GET", f"/v1/weights/{NAME}/progress", answer(body=ended))
    done = run("pull", "me/mine")
    assert done.exit_code == 1
    assert "is on one" in done.stdout
    assert "two: the disk is full" in done.stderr


def test_what_is_there(api, answer, run):
    workers = {"one": {"cached": [ROW, UNFINISHED]}, "two": {"cached": [ROW | {"complete": False}]}}
    api.on("GET", "/v1/weights", answer(body={"workers": workers}))
    shown = run("cached").stdout
    assert "q-0" in shown
    assert "unfinished: the same pull or launch goes on with it" in shown
    assert "damaged: the next launch repairs it" in shown
    rows = json.loads(run("cached", "--json").stdout)
    assert rows[0] == {"worker": "one"} | ROW
    api.on("GET", "/v1/weights?worker=one", answer(body={"workers": {"one": {}}}))
    assert "Nothing was downloaded" in run("cached", "--worker", "one").stdout


def test_removing_pausing_resuming(api, answer, run):
    api.on("DELETE", "/v1/weights/me%2Fmine", answer(body={"freed_bytes": 4194304}))
    assert "Removed me/mine: 4 MiB free." in run("remove", "me/mine").stdout
    for verb, said in (("pause", "Go on: xinfer models resume q"), ("resume", "goes on")):
        api.on("POST", f"/v1/models/q/{verb}", answer(body={}))
        assert said in run(verb, "q").stdout


def test_without_a_server_it_is_this_machine_unless_one_was_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XINFER_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("XINFER_HF_CACHE", str(tmp_path / "hf"))
    done = CliRunner().invoke(app, ["models", "cached"])
    assert (done.exit_code, "Nothing was downloaded" in done.stdout) == (0, True)
    assert "No server answers at http://127.0.0.1:1: on this machine." in done.stderr
    for named in (["-e", "http://127.0.0.1:1"], ["--worker", "one"]):
        assert CliRunner().invoke(app, ["models", "cached", *named]).exit_code == 1
    local = CliRunner().invoke(app, ["models", "remove", "me/mine", "--local"])
    assert "xinfer models cached --local shows what there is" in local.stderr
