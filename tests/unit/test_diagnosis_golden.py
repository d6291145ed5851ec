"""What the demo models are asked, what is a right answer, and what trials show."""

import copy
from typing import Any

import msgspec
import pytest

from xinfer.catalog.sources import DEMO_FOLDER
from xinfer.worker.diagnosis.golden import KINDS, Question, Trial, demo_models, judged, tokens_of, trial_findings

GOLDEN = msgspec.json.decode((DEMO_FOLDER / "golden.json").read_bytes())


def right_answer(question: Question) -> Any:
    """What an engine that works would answer."""
    if question.path == "/v1/completions":
        return {"choices": [{"text": GOLDEN["demo-chat-completions"][0]["answer"]}]}
    if question.path == "/v1/rerank":
        best = next(one["best"] for one in GOLDEN["demo-rerank"]["queries"] if one["query"] == question.body["query"])
        return {"results": [{"index": best}]}
    if question.path == "/v1/embeddings":
        known = GOLDEN["demo-embed"]
        size = len(known["corpus"])
        positions = [*range(size), *(one["best"] for one in known["queries"])][: len(question.body["input"])]
        return {"data": [{"embedding": [float(at == position) for at in range(size)]} for position in positions]}
    if question.name == "echo":
        return {"choices": [{"message": {"content": question.body["messages"][0]["content"]}}]}
    entry = next(one for one in GOLDEN["demo-chat"] if one["kind"] == question.name)
    calls = [
        {"function": {"name": call["name"], "arguments": msgspec.json.encode(call["arguments"]).decode()}}
        for call in entry.get("tool_calls", [])
    ]
    return {"choices": [{"message": {"content": entry["answer"], "tool_calls": calls}}]}


QUESTIONS = [question for questions in demo_models().values() for question in questions]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: f"{question.path}-{question.name}")
def test_a_right_answer_is_right_and_any_other_is_not(question: Question) -> None:
    right = right_answer(question)
    assert judged(question, right) == ""
    wrong = copy.deepcopy(right)
    if "choices" in wrong:
        choice = wrong["choices"][0]
        if "text" in choice:
            choice["text"] += "!"
        else:
            choice["message"] = {"content": "something else"}
    elif "results" in wrong:
        wrong["results"][0]["index"] += 1
    else:
        wrong["data"][-1]["embedding"].reverse()
    assert judged(question, wrong).startswith(f"{question.name}: ")


@pytest.mark.parametrize("answer", [None, {}, [], {"choices": []}, {"data": [{}]}, {"results": [1]}, "text"])
def test_an_answer_of_another_shape_is_wrong(answer: Any) -> None:
    for question in QUESTIONS:
        assert "not of the shape" in judged(question, answer)


def test_a_handful_of_each_kind() -> None:
    assert [question.name for question in demo_models()["demo-chat"]] == [*KINDS, "completion"]
    assert all(1 <= len(questions) < 12 for questions in demo_models().values())


def test_tokens() -> None:
    assert tokens_of({"usage": {"completion_tokens": 7}}) == 7
    assert tokens_of({"usage": None}) == tokens_of([]) == tokens_of({}) == 0


def trial(engine: str = "e", model: str = "demo-chat", outcome: Any = "right", **more: Any) -> Trial:
    return Trial(engine=engine, model=model, outcome=outcome, **more)


def test_what_trials_show() -> None:
    trials = [
        trial(asked=9, tokens_per_s=61.6, load_s=2.04, where="cpu"),
        trial(model="demo-embed", outcome="wrong", asked=9, wrong=("sum: '5' instead of '4'",)),
        trial(model="demo-rerank", outcome="failed", reason="it died\nLast lines of its log:\nKilled"),
        trial(engine="f", outcome="no room", reason="it needs 900 MiB"),
        trial(engine="f", model="demo-embed", outcome="refused", reason="not for that"),
        trial(engine="g", outcome="refused", reason="not for that"),
        trial(engine="g", model="demo-embed", outcome="refused", reason="not for that"),
    ]
    assert [(one.subject, one.level, one.what) for one in trial_findings(trials)] == [
        (
            "e/demo-chat",
            "ok",
            "demo-chat on e: 9 of 9 answers right, loaded in 2.0 s on cpu, about 62 tokens/s",
        ),
        ("e/demo-embed", "problem", "demo-embed on e: 8 of 9 answers right, loaded in 0.0 s"),
        ("e/demo-rerank", "problem", "demo-rerank on e: it could not be asked"),
        ("f/demo-chat", "warning", "demo-chat on f: there is no room for it now"),
        ("g", "note", "g is for none of the demo models"),
    ]
    shown = {one.subject: one for one in trial_findings(trials)}
    assert shown["e/demo-embed"].why == ("sum: '5' instead of '4'",)
    assert shown["e/demo-rerank"].why == ("it died", "Last lines of its log:", "Killed")
    assert shown["g"].why == ("not for that",)


def test_a_machine_on_which_no_model_runs_is_told_so() -> None:
    (echo, nothing) = trial_findings([trial(engine="echo", model="echo", asked=1)])
    assert (echo.level, nothing.code) == ("ok", "nothing-asked")
    assert "xinfer engine install" in nothing.advice
