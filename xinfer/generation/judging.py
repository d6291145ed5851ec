"""Language models that rerank: how one is asked whether a document answers a query, and which tokens are its answer.

Such a model is published as an ordinary language model. What it was trained to be asked is in its folder where that is
in the layout of Sentence Transformers (a chat template with a query and a document, and the ids of the tokens); else it
is one of two forms that such models share: "yes" or "no" in a chat (Qwen3-Reranker), or how likely "Yes" comes next
(bge-reranker-v2-gemma and others that FlagEmbedding trained).
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.generation.chat_template import ChatTemplate, load_chat_template, template_text

SCORING_MODULE = "LogitScore"
GENERATIVE = ("ForCausalLM", "LMHeadModel")
CHAT_MARK = "<|im_start|>"
PLACE = "\ufdd0"
"""Stands for the document while a template is rendered: a code point that no text has."""

IN_A_CHAT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: {{ instruction | default('Given a web search query, retrieve relevant passages that answer the query')"
    " }}\n<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>{{ '\n\n' }}"
)
"""What Qwen3-Reranker was trained with."""
AS_A_QUESTION = (
    "{{ bos_token | default('') }}A: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first"
    " }}\nB: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}\n"
    '{{ instruction | default("Given a query A and a passage B, determine whether the passage contains an answer to '
    "the query by providing a prediction of either 'Yes' or 'No'.\") }}"
)
"""What the rerankers of FlagEmbedding were trained with."""


class Answer(msgspec.Struct, frozen=True):
    """The tokens whose logits make the score: ids, or the words whose first token counts. ``no`` may be nothing."""

    yes: int | str
    no: int | str | None = None


class Question(msgspec.Struct, frozen=True):
    """What stands around a document."""

    before: str
    after: str


class Judge:
    """How a model is asked, and how it answers.

    The score is the logit of ``answer.yes``, less that of ``answer.no`` where there is one, through a sigmoid: with
    both, that is how likely "yes" is of the two.
    """

    def __init__(self, template: ChatTemplate, answer: Answer, architecture: str) -> None:
        """Make one.

        Args:
            template: with the roles "query" and "document".
            answer: the tokens that count.
            architecture: the class of the model, as its files name it.
        """
        self.template = template
        self.answer = answer
        self.architecture = architecture

    def question(self, query: str, instruction: str = "") -> Question:
        """The prompt for a query, parted where the document goes.

        Args:
            query: what is looked for.
            instruction: a variable of the template, or its system message; empty: what the template says by itself.

        Raises:
            UnsupportedParameter: an instruction that the template has no place for.
            InvalidRequest: the query cannot be asked for.
        """
        messages = [{"role": "query", "content": query}, {"role": "document", "content": PLACE}]
        variables = {}
        if instruction and "instruction" in self.template.variables:
            variables = {"instruction": instruction}
        elif instruction and "system" in self.template.source:
            messages = [{"role": "system", "content": instruction}, *messages]
        elif instruction:
            raise UnsupportedParameter("this model takes no instruction; leave it out", param="instruction")
        before, place, after = self.template.render(messages, None, variables).partition(PLACE)
        if not place or PLACE in after:
            raise InvalidRequest("the model's template has no place, or several, for the document", param="documents")
        return Question(before, after)


def find_judge(folder: Path) -> Judge | None:
    """How the language model in a folder reranks; None: what is in it is no language model.

    Raises:
        ValueError: a file of it is not what it should be; names it.
        OSError: a file cannot be read.
    """
    modules = [module for module in _read(folder / "modules.json", []) if isinstance(module, dict)]
    scoring = next((module for module in modules if str(module.get("type", "")).endswith(SCORING_MODULE)), None)
    architecture = next(iter(_read(folder / "config.json", {}).get("architectures") or []), "")
    if scoring is not None:
        described = _read(folder / str(scoring.get("path", "")) / "config.json", {})
        return _described(folder, described, architecture)
    if modules or not str(architecture).endswith(GENERATIVE):
        return None
    return _of_a_known_form(folder, architecture)


def is_judge(folder: Path) -> bool:
    """Whether a reranker is a language model, as far as its files are here and can be read."""
    try:
        return find_judge(folder) is not None
    except (ValueError, OSError):
        return False


def _described(folder: Path, scoring: dict[str, Any], architecture: str) -> Judge:
    """As Sentence Transformers writes it down."""
    template = load_chat_template(folder)
    yes, no = scoring.get("true_token_id"), scoring.get("false_token_id")
    if template is None or "document" not in template.source or not isinstance(yes, int):
        known = _of_a_known_form(folder, architecture)
        return Judge(known.template, Answer(yes, no), architecture) if isinstance(yes, int) else known
    return Judge(template, Answer(yes, no), architecture)


def _of_a_known_form(folder: Path, architecture: str) -> Judge:
    if CHAT_MARK in template_text(folder):
        return Judge(ChatTemplate(IN_A_CHAT, {}), Answer("yes", "no"), architecture)
    bos = _read(folder / "tokenizer_config.json", {}).get("bos_token")
    name = bos.get("content") if isinstance(bos, dict) else bos
    return Judge(ChatTemplate(AS_A_QUESTION, {"bos_token": name} if name else {}), Answer("Yes"), architecture)


def _read(path: Path, nothing: Any) -> Any:
    """The JSON in a file; ``nothing`` where it is missing."""
    if not path.is_file():
        return nothing
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
