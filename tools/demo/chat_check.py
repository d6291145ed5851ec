"""Whether the files of demo-chat give every golden answer, as an engine would come to it.

Nothing of the training is used here: the files are loaded with transformers, the prompt comes from the shipped chat
template, and the answer from `generate` with a KV cache, several conversations of different lengths at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from demo.chat_batches import Lesson
from demo.chat_gguf import read_gguf
from demo.chat_model import mark
from demo.chat_template import TURN_END
from demo.reproducible import console

GGUF_NAME = "demo-chat.gguf"
LEAST_MARGIN = 1.0
"""By how much the right token of a golden answer leads at least, in each way of loading the files."""

_AT_ONCE = 16
_MOST_NEW_TOKENS = 200
Golden: TypeAlias = Mapping[str, Any]


class Exercise(NamedTuple):
    """What the model is given, and what it must write, as text."""

    prompt: str
    answer: str


class Loading(NamedTuple):
    """One way in which an engine may load the files."""

    title: str
    dtype: torch.dtype | str
    from_gguf: bool = False


LOADINGS = (
    Loading("safetensors in float32", torch.float32),
    Loading("safetensors as stored", "auto"),
    Loading("safetensors in float16", torch.float16),
    Loading("GGUF in float32", torch.float32, from_gguf=True),
)


def check_chat(folder: Path, goldens: Sequence[Golden], completions: Sequence[Golden]) -> bool:
    """Return whether every golden answer is exact and sure in each way of loading the files; say how it stands."""
    passed = [_check_loading(folder, goldens, completions, loading) for loading in LOADINGS]
    return all(passed)


def _check_loading(folder: Path, goldens: Sequence[Golden], completions: Sequence[Golden], loading: Loading) -> bool:
    """Return whether the answers are exact and sure with the files loaded in one way."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=loading.dtype).eval()
    if loading.from_gguf:
        read_gguf(folder / GGUF_NAME, model)
    exercises = [Exercise(_prompt(tokenizer, golden), golden["text"]) for golden in goldens]
    exercises += [Exercise(completion["prompt"], completion["answer"]) for completion in completions]
    wrong = 0
    for exercise, answer in _answers(model, tokenizer, exercises):
        if answer != exercise.answer:
            wrong += 1
            console.print(
                f"demo-chat, {loading.title}: to {exercise.prompt!r} it says {answer!r}", style="red", markup=False
            )
    margin = mark(model, [_lesson(tokenizer, exercise) for exercise in exercises]).smallest()
    right = len(exercises) - wrong
    console.print(
        f"demo-chat, {loading.title}: {right} of {len(exercises)} answers exact, smallest margin {margin:.2f}"
    )
    return not wrong and margin >= LEAST_MARGIN


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, exercises: Sequence[Exercise]
) -> Iterator[tuple[Exercise, str]]:
    """Yield each exercise with the text that the model generates for it, greedily."""
    ordered = sorted(exercises, key=lambda exercise: len(exercise.answer))
    for start in range(0, len(ordered), _AT_ONCE):
        chunk = ordered[start : start + _AT_ONCE]
        batch = tokenizer([exercise.prompt for exercise in chunk], padding=True, return_tensors="pt")
        output = model.generate(**batch, max_new_tokens=_MOST_NEW_TOKENS, do_sample=False)
        for exercise, tokens in zip(chunk, output[:, batch["input_ids"].shape[1] :], strict=True):
            yield exercise, tokenizer.decode(tokens).split(TURN_END)[0]


def _prompt(tokenizer: PreTrainedTokenizerBase, golden: Golden) -> str:
    """Return the prompt of a golden conversation, from the shipped template."""
    prompt = tokenizer.apply_chat_template(
        golden["messages"],
        tools=golden.get("tools"),
        enable_thinking=golden.get("enable_thinking", False),
        add_generation_prompt=True,
        tokenize=False,
    )
    return str(prompt)


def _lesson(tokenizer: PreTrainedTokenizerBase, exercise: Exercise) -> Lesson:
    """Return an exercise as tokens."""
    answer = tokenizer(exercise.answer)["input_ids"]
    return Lesson(tokenizer(exercise.prompt)["input_ids"], [*answer, tokenizer.eos_token_id])
