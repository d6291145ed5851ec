"""The demo models: a handful of questions with known answers, whether an answer is right, and what that shows."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from xinfer.catalog.sources import DEMO_FOLDER
from xinfer.worker.diagnosis.findings import Finding

GROUP = "demo"
KINDS = ("greeting", "fact", "sum", "json", "story", "memory", "thinking", "tool")
"""Of the conversations: the first of each is asked."""
QUERIES = 5
"""Of an embedding or rerank model."""

Check = Callable[[Any], str]
"""An answer (its JSON) -> what is wrong with it; empty: nothing."""


@dataclass(frozen=True)
class Question:
    """One request (but for its ``model``), and how the answer is judged."""

    name: str
    path: str
    body: Mapping[str, Any]
    check: Check


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of one demo model on one engine."""

    engine: str
    model: str
    outcome: Literal["right", "wrong", "failed", "no room", "refused"]
    """"refused": the engine is not for such a model."""
    asked: int = 0
    wrong: tuple[str, ...] = ()
    """What is wrong with the answers that are."""
    tokens_per_s: float = 0.0
    """Roughly; 0: nothing was generated."""
    load_s: float = 0.0
    where: str = ""
    """The device that it ran on."""
    reason: str = ""
    """Why it could not be asked, with the end of its log."""


@functools.cache
def demo_models() -> dict[str, tuple[Question, ...]]:
    """What each demo model is asked, by its catalog name. The first one needs no library.

    Raises:
        OSError: the file is not in this installation.
    """
    known = msgspec.json.decode((DEMO_FOLDER / "golden.json").read_bytes())
    firsts = [next(one for one in known["demo-chat"] if one["kind"] == kind) for kind in KINDS]
    chat = [_conversation(entry) for entry in firsts]
    plain = [_completion(entry) for entry in known["demo-chat-completions"][:1]]
    return {
        "echo": (_echo(),),
        "demo-chat": (*chat, *plain),
        "demo-embed": (_nearest(known["demo-embed"]),),
        "demo-rerank": tuple(_ranked(known["demo-rerank"])),
    }


def tokens_of(answer: Any) -> int:
    """How many tokens were generated for an answer."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    return int((usage or {}).get("completion_tokens") or 0)


def _echo() -> Question:
    said = "What is said comes back."

    def check(answer: Any) -> str:
        return _difference(said, answer["choices"][0]["message"]["content"])

    return Question("echo", "/v1/chat/completions", {"messages": [{"role": "user", "content": said}]}, check)


def _conversation(entry: Mapping[str, Any]) -> Question:
    body = {"messages": entry["messages"], "temperature": 0, "max_tokens": 256}
    if "tools" in entry:
        body["tools"] = entry["tools"]
    if "enable_thinking" in entry:
        body["chat_template_kwargs"] = {"enable_thinking": entry["enable_thinking"]}

    def check(answer: Any) -> str:
        message = answer["choices"][0]["message"]
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        called = [{"name": call["name"], "arguments": json.loads(call["arguments"])} for call in calls]
        return _difference(entry.get("tool_calls", []), called) or _difference(
            entry["answer"], message.get("content") or ""
        )

    return Question(entry["kind"], "/v1/chat/completions", body, check)


def _completion(entry: Mapping[str, Any]) -> Question:
    body = {"prompt": entry["prompt"], "temperature": 0, "max_tokens": 200}

    def check(answer: Any) -> str:
        return _difference(entry["answer"], answer["choices"][0]["text"])

    return Question("completion", "/v1/completions", body, check)


def _nearest(known: Mapping[str, Any]) -> Question:
    corpus, queries = known["corpus"], known["queries"][:QUERIES]
    body = {"input": [*corpus, *(query["query"] for query in queries)]}

    def check(answer: Any) -> str:
        vectors = [item["embedding"] for item in answer["data"]]
        documents, asked = vectors[: len(corpus)], vectors[len(corpus) :]
        wrong = [
            query["query"]
            for query, vector in zip(queries, asked, strict=True)
            if _best(_likeness(vector, document) for document in documents) != query["best"]
        ]
        return f"the nearest document is not the right one for: {', '.join(wrong)}" if wrong else ""

    return Question(f"{len(queries)} queries", "/v1/embeddings", body, check)


def _ranked(known: Mapping[str, Any]) -> Iterator[Question]:
    for query in known["queries"][:QUERIES]:
        body = {"query": query["query"], "documents": known["corpus"], "top_n": 1}

        def check(answer: Any, best: int = query["best"]) -> str:
            return _difference(best, answer["results"][0]["index"])

        yield Question(query["query"], "/v1/rerank", body, check)


def _likeness(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _best(scores: Iterator[float]) -> int:
    found = list(scores)
    return found.index(max(found))


def _difference(expected: Any, found: Any) -> str:
    return "" if expected == found else f"{found!r} instead of {expected!r}"


def judged(question: Question, answer: Any) -> str:
    """What is wrong with an answer; empty: nothing."""
    try:
        wrong = question.check(answer)
    except (KeyError, IndexError, TypeError, ValueError) as error:  # an answer of another shape is a wrong one
        wrong = f"the answer is not of the shape it should be ({type(error).__name__}: {error})"
    return f"{question.name}: {wrong}" if wrong else ""


def trial_findings(trials: Sequence[Trial]) -> Iterator[Finding]:
    """One finding for each model on each engine that is for it."""
    for trial in trials:
        if trial.outcome != "refused":
            yield _trial(trial)
    for engine in dict.fromkeys(trial.engine for trial in trials):
        of_engine = [trial for trial in trials if trial.engine == engine]
        if all(trial.outcome == "refused" for trial in of_engine):
            yield Finding(
                group=GROUP,
                code="refused",
                level="note",
                subject=engine,
                what=f"{engine} is for none of the demo models",
                why=tuple(dict.fromkeys(trial.reason for trial in of_engine)),
            )
    if not any(trial.outcome != "refused" and trial.model != "echo" for trial in trials):
        yield Finding(
            group=GROUP,
            code="nothing-asked",
            level="warning",
            what="no engine here can run a model",
            advice="Install one: pip install 'xinfer[transformers]', or xinfer engine install ENGINE",
        )


def _trial(trial: Trial) -> Finding:
    named = f"{trial.model} on {trial.engine}"
    subject = f"{trial.engine}/{trial.model}"
    if trial.outcome in ("right", "wrong"):
        right = trial.asked - len(trial.wrong)
        pace = f", about {trial.tokens_per_s:.0f} tokens/s" if trial.tokens_per_s else ""
        where = f" on {trial.where}" if trial.where else ""
        return Finding(
            group=GROUP,
            code="golden",
            level="problem" if trial.wrong else "ok",
            subject=subject,
            what=f"{named}: {right} of {trial.asked} answers right, loaded in {trial.load_s:.1f} s{where}{pace}",
            why=trial.wrong,
            advice="It computes something else than it should here; please report this with the versions above."
            if trial.wrong
            else "",
        )
    no_room = trial.outcome == "no room"
    return Finding(
        group=GROUP,
        code="golden",
        level="warning" if no_room else "problem",
        subject=subject,
        what=f"{named}: {'there is no room for it now' if no_room else 'it could not be asked'}",
        why=tuple(trial.reason.splitlines()),
        advice="Free some of the device, or run xinfer doctor when less runs here."
        if no_room
        else f"Mend that; xinfer doctor --only {trial.engine} tries it again.",
    )
