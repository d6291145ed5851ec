"""Conversations as tensors: lessons made of tokens, and batches of lessons of about the same length."""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from demo.chat_example import Example
from demo.chat_lessons import LessonPlan
from demo.chat_template import TURN_END
from demo.chat_tokenizer import id_of

NO_TARGET = -100
"""Marks the places where the model is not asked for the next token; the value that cross entropy ignores."""

_BLOCK = 2000


class Lesson(NamedTuple):
    """An example as tokens: what is given, and what is to be written."""

    prompt: list[int]
    answer: list[int]

    def size(self) -> int:
        """Return how many tokens the lesson has."""
        return len(self.prompt) + len(self.answer)


class Batch(NamedTuple):
    """Lessons side by side, padded on the right: the tokens, and the token to write after each (or `NO_TARGET`)."""

    tokens: torch.Tensor
    targets: torch.Tensor

    def asked(self) -> torch.Tensor:
        """Return where there is something to write."""
        return self.targets != NO_TARGET


def encode_lessons(tokenizer: Tokenizer, examples: Sequence[Example]) -> list[Lesson]:
    """Return the examples as tokens. Prompt and answer are encoded apart, as they are when an engine generates."""
    end = id_of(tokenizer, TURN_END)
    prompts = tokenizer.encode_batch_fast([example.prompt() for example in examples])
    answers = tokenizer.encode_batch_fast([example.completion() for example in examples])
    return [Lesson(prompt.ids, [*answer.ids, end]) for prompt, answer in zip(prompts, answers, strict=True)]


def to_batch(lessons: Sequence[Lesson]) -> Batch:
    """Return the lessons as one batch. Causal attention never looks at the padding, so it needs no mask."""
    width = max(lesson.size() for lesson in lessons)
    tokens = torch.zeros(len(lessons), width, dtype=torch.long)
    targets = torch.full((len(lessons), width), NO_TARGET)
    for row, lesson in enumerate(lessons):
        tokens[row, : lesson.size()] = torch.tensor(lesson.prompt + lesson.answer)
        targets[row, len(lesson.prompt) - 1 : lesson.size() - 1] = torch.tensor(lesson.answer)
    return Batch(tokens, targets)


def by_length(lessons: Iterable[Lesson], tokens: int) -> Iterator[Batch]:
    """Yield the lessons in batches of at most `tokens` tokens, the short ones first."""
    waiting: list[Lesson] = []
    for lesson in sorted(lessons, key=Lesson.size):
        if waiting and (len(waiting) + 1) * lesson.size() > tokens:
            yield to_batch(waiting)
            waiting = []
        waiting.append(lesson)
    if waiting:
        yield to_batch(waiting)


def endless_batches(tokenizer: Tokenizer, plan: LessonPlan, *, tokens: int, seed: int) -> Iterator[Batch]:
    """Yield batches of newly drawn lessons for as long as one asks for them."""
    rng = random.Random(seed)
    while True:
        lessons = encode_lessons(tokenizer, [plan.draw() for _ in range(_BLOCK)])
        batches = list(by_length(lessons, tokens))
        rng.shuffle(batches)
        yield from batches
