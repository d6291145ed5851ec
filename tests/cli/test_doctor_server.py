"""What ``xinfer doctor`` sees of servers that answer in every way that one can."""

from pathlib import Path
from typing import Any

import pytest

from xinfer.cli.doctor_server import look_at
from xinfer.client import Client
from xinfer.processes import free_port
from xinfer.settings import Settings

INFO, ADDRESS = "/v1/cluster/info", "/v1/address"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, token_file=tmp_path / "token")


def refusal(code: str) -> dict[str, Any]:
    return {"error": {"message": "no", "type": "x", "code": code}}


def seen(url: str, settings: Settings) -> Any:
    with Client(url) as client:
        return look_at(client, settings)


@pytest.mark.parametrize(
    ("status", "body", "contact"),
    [
        (401, refusal("invalid_api_key"), "refused"),
        (503, refusal("supervisor_away"), "failed"),
        (404, {"detail": "Not Found"}, "stranger"),
    ],
)
def test_who_does_not_say_how_it_is(api, answer, settings, *, status, body, contact):
    api.on("GET", INFO, answer(status, body))
    assert seen(api.url, settings).contact == contact


def test_another_kind_of_server(api, answer, settings):
    api.on("GET", INFO, answer(200, ["not", "us"]))
    assert seen(api.url, settings).contact == "stranger"


def test_nobody(settings):
    facts = seen(f"http://127.0.0.1:{free_port('127.0.0.1')}", settings)
    assert (facts.contact, facts.reason) == ("nobody", "")


def test_a_server_with_a_lost_worker_and_a_failed_replica(api, answer, settings):
    replicas = [
        {"replica_id": "chat-0", "state": "READY"},
        {"replica_id": "chat-1", "state": "FAILED", "reason": "it died"},
    ]
    info = {
        "version": "9.9",
        "workers": [{"worker_id": "w", "name": "node-7", "alive": False, "last_seen_s_ago": 61.0}],
        "models": [{"model_uid": "chat", "replica_statuses": replicas}, {"model_uid": "well"}],
    }
    api.on("GET", INFO, answer(200, info))
    api.on("GET", ADDRESS, answer(200, f"127.0.0.1:{free_port('127.0.0.1')}"))
    facts = seen(api.url, settings)
    assert (facts.contact, facts.version) == ("answered", "9.9")
    assert [(worker.name, worker.alive, worker.last_seen_s_ago) for worker in facts.workers] == [
        ("node-7", False, 61.0)
    ]
    assert facts.failed_models == (("chat", "chat-1: it died"),)
    assert (facts.token, settings.token_file.exists()) == ("unknown", False), "it makes no token only to compare it"
    assert "does not exist" in facts.token_reason

    settings.token_file.write_text("ours")
    facts = seen(api.url, settings)
    assert facts.token == "unknown"
    assert "cannot be reached from here" in facts.token_reason
