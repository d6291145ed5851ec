"""What is said of a server, from what was seen of it."""

from typing import Any

import pytest

from xinfer.worker.diagnosis.server import ServerFacts, WorkerSeen, server_findings

HERE = "http://127.0.0.1:9997"
WELL = (WorkerSeen(name="node-7"),)


def said(**facts: Any) -> dict[str, tuple[str, str]]:
    """Code -> level and text."""
    defaults = {"endpoint": HERE, "contact": "answered", "version": "1.0", "workers": WELL, "token": "same"}
    findings = list(server_findings(ServerFacts(**{**defaults, **facts}), "1.0"))
    assert all(one.advice for one in findings if one.level in ("warning", "problem"))
    return {one.code: (one.level, one.what) for one in findings}


@pytest.mark.parametrize(
    ("contact", "level", "what"),
    [
        ("nobody", "note", f"no server at {HERE}"),
        ("stranger", "problem", f"another program answers at {HERE}"),
        ("refused", "problem", f"the server at {HERE} does not let us look"),
        ("failed", "problem", f"the server at {HERE} cannot say how it is"),
    ],
)
def test_no_answer(contact: str, level: str, what: str) -> None:
    assert said(contact=contact, reason="because") == {"contact": (level, what)}


def test_a_server_as_it_should_be() -> None:
    assert {level for level, _ in said().values()} == {"ok"}
    assert said()["worker"] == ("ok", "worker node-7: alive")


def test_what_can_be_wrong_with_a_server() -> None:
    assert said(version="0.9")["version"] == ("warning", f"xinfer 0.9 serves at {HERE}; this command is 1.0")
    assert said(token="another")["token"][0] == "warning"
    assert said(token="unknown")["token"][0] == "note"
    assert said(settling=True)["settling"][0] == "note"
    assert said(workers=())["worker"] == ("problem", "no worker has joined: nothing can be launched")
    lost = (WorkerSeen(name="node-7", alive=False, last_seen_s_ago=61.4),)
    assert said(workers=lost)["worker"] == ("problem", "worker node-7: not heard of for 61 s")
    assert said(failed_models=(("chat", "it died\nKilled"),))["model"] == ("problem", "chat has failed")
