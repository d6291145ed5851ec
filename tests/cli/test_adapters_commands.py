"""``xinfer adapter``, ``sleep``, ``wake``, and adapters in ``launch`` and ``list``."""

import pytest
from typer.testing import CliRunner

from xinfer.cli.main import app

ADAPTER = {"name": "sql", "path": "/data/sql", "rank": 8, "base_model": "demo-chat", "replicas": ["m-0"]}


@pytest.fixture
def run(api):
    def run(*args):
        return CliRunner().invoke(app, args, env={"XINFER_ENDPOINT": api.url, "COLUMNS": "200"})

    return run


def test_adapters_are_added_listed_and_removed(api, answer, run):
    api.on("POST", "/v1/models/m/adapters", answer(body={"id": "sql", "object": "model", "parent": "m"}))
    api.on("GET", "/v1/models/m/adapters", answer(body=[{**ADAPTER, "failures": {"m-1": "no room"}}]))
    api.on("DELETE", "/v1/models/m/adapters/sql", answer(body={"id": "sql", "deleted": True}))
    done = run("adapter", "add", "m", "sql=/data/sql")
    assert "sql is ready" in done.stdout
    assert api.asked[-1].body == {"name": "sql", "path": "/data/sql"}
    shown = run("adapter", "list", "m").stdout
    assert all(word in shown for word in ("sql", "8", "demo-chat", "m-0", "m-1: no room", "/data/sql"))
    assert '"rank": 8' in run("adapter", "list", "m", "--json").stdout
    assert "removed" in run("adapter", "remove", "m", "sql").stdout


def test_a_model_without_adapters_says_how_to_add_one(api, answer, run):
    api.on("GET", "/v1/models/m/adapters", answer(body=[]))
    assert "xinfer adapter add m NAME=PATH" in run("adapter", "list", "m").stdout


def test_an_adapter_has_a_name_and_a_path(run):
    refused = run("adapter", "add", "m", "sql")
    assert refused.exit_code == 2
    assert "NAME=PATH" in refused.output


@pytest.mark.parametrize(
    "words", [("--lora-modules", "sql=/data/sql", "law=/data/law"), ("-lm", "sql", "/data/sql", "-lm", "law=/data/law")]
)
def test_launch_sends_adapters(api, answer, run, words):
    api.on("POST", "/v1/models?wait_ready=false", answer(body={"model_uid": "demo"}))
    assert run("launch", "demo", *words, "--no-wait").exit_code == 0
    assert api.asked[-1].body["lora_modules"] == [
        {"name": "sql", "path": "/data/sql"},
        {"name": "law", "path": "/data/law"},
    ]


def test_an_adapter_in_the_list_names_its_model(api, answer, run):
    models = [{"id": "sql", "model_type": "LLM", "parent": "m", "status": "ready"}]
    api.on("GET", "/v1/models", answer(body={"data": models}))
    assert "adapter of m" in run("list").stdout


def test_sleep_and_wake(api, answer, run):
    api.on("POST", "/v1/models/m/sleep", answer(body={"model_uid": "m", "sleep_level": 2}))
    api.on("POST", "/v1/models/m/wake", answer(body={"model_uid": "m", "sleep_level": 0}))
    assert "xinfer wake m" in run("sleep", "m", "--level", "2").stdout
    assert api.asked[-1].body == {"level": 2}
    assert "m is awake" in run("wake", "m").stdout
