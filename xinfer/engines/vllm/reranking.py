"""Language models as rerankers on vLLM: it makes a classifier of one if it is told which tokens are its answers."""

from pathlib import Path
from typing import Any

from xinfer.generation.judging import Answer, find_judge
from xinfer.ops import Kind
from xinfer.spec import ModelSpec

GENERATES, CLASSIFIES = "ForCausalLM", "ForSequenceClassification"
"""How the names of architectures end, before and after."""


def reranking_suggestions(spec: ModelSpec) -> dict[str, Any]:
    """What vLLM is started with for a reranker that is a language model; nothing for every other model.

    Raises:
        ValueError: a file of it is not what it should be; names it.
    """
    judge = find_judge(Path(spec.source)) if spec.kind is Kind.RERANK else None
    if judge is None or not judge.architecture.endswith(GENERATES):
        return {}
    words = _words(judge.answer, Path(spec.source) / "tokenizer.json")
    method = "from_2_way_softmax" if len(words) > 1 else "no_post_processing"
    overrides = {
        "architectures": [judge.architecture.removesuffix(GENERATES) + CLASSIFIES],
        "classifier_from_token": words,
        "method": method,
        "num_labels": 1,
    }
    return {"hf_overrides": overrides, "chat_template": judge.template.source}


def _words(answer: Answer, tokenizer: Path) -> list[str]:
    """The tokens as the vocabulary has them, the one against it first."""
    tokens = [token for token in (answer.no, answer.yes) if token is not None]
    if all(isinstance(token, str) for token in tokens):
        return [str(token) for token in tokens]
    from tokenizers import Tokenizer  # noqa: PLC0415  it is where vLLM is

    known = Tokenizer.from_file(str(tokenizer))
    return [token if isinstance(token, str) else str(known.id_to_token(token)) for token in tokens]
