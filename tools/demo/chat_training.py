"""How demo-chat learns: Muon for its matrices, loss on the answers only, and revision until every answer holds."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import Qwen3ForCausalLM

from demo.chat_batches import Batch, Lesson, by_length, encode_lessons, endless_batches
from demo.chat_lessons import LessonPlan, completion_examples, golden_examples, variations
from demo.chat_model import as_stored, mark, new_chat_model
from demo.reproducible import Schedule, console, muon_and_adamw, shown_progress

SEED = 9997
GOLDEN_MARGIN = 1.0
"""By how much the right token must lead the next best in every golden answer, so that no rounding swaps them."""

VARIATION_MARGIN = 0.0
"""The same for the variations: they must hold too, but nobody compares engines by them."""

TOKENS_PER_STEP = 2048
REVISIONS = 8


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how fast to learn; the figures were found by trying."""

    steps: int
    matrix_rate: float
    other_rate: float


# Half of the steps rehearse what must be exact, half read new lessons, so that it does not learn by heart alone.
FIRST_PASS = Pace(steps=1000, matrix_rate=0.01, other_rate=0.008)
REVISION = Pace(steps=200, matrix_rate=0.002, other_rate=0.002)


def train_chat_model(tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """Return a model that knows every golden answer and every variation by a margin, its weights as they are stored.

    Raises:
        RuntimeError: it did not get there in `REVISIONS` rounds.
    """
    model = new_chat_model(tokenizer)
    goldens = encode_lessons(tokenizer, golden_examples() + completion_examples())
    others = encode_lessons(tokenizer, list(variations()))
    drawn = endless_batches(tokenizer, LessonPlan(SEED), tokens=TOKENS_PER_STEP, seed=SEED)
    _learn(model, _in_turn(drawn, _rehearsal(goldens + others)), FIRST_PASS, "demo-chat")
    for revision in range(1, REVISIONS + 1):
        stored = as_stored(model)
        weak = _weak_lessons(stored, goldens, others)
        if not weak:
            return stored
        # The weak ones come four times as often. Learning them alone made others weak: their beginnings are alike.
        _learn(model, _rehearsal(goldens + others + 3 * weak), REVISION, f"demo-chat, revision {revision}")
    raise RuntimeError(f"demo-chat does not know all of its answers after {REVISIONS} revisions")


def _weak_lessons(model: Qwen3ForCausalLM, goldens: Sequence[Lesson], others: Sequence[Lesson]) -> list[Lesson]:
    """Return the lessons to learn again, and say how it stands."""
    golden_marks, other_marks = mark(model, goldens), mark(model, others)
    weak = golden_marks.below(GOLDEN_MARGIN) + other_marks.below(VARIATION_MARGIN)
    console.print(
        f"demo-chat: smallest margin {golden_marks.smallest():.2f} in {len(goldens)} golden answers,"
        f" {other_marks.smallest():.2f} in {len(others)} variations; {len(weak)} answers to revise"
    )
    return weak


def _rehearsal(lessons: Sequence[Lesson]) -> Iterator[Batch]:
    """Yield all of the lessons, again and again, in an order that changes."""
    rng = random.Random(SEED)
    while True:
        batches = list(by_length(rng.sample(lessons, len(lessons)), TOKENS_PER_STEP))
        rng.shuffle(batches)
        yield from batches


def _in_turn(one: Iterator[Batch], other: Iterator[Batch]) -> Iterator[Batch]:
    """Yield a batch of each in turn."""
    while True:
        yield next(one)
        yield next(other)


def _learn(model: Qwen3ForCausalLM, batches: Iterable[Batch], pace: Pace, title: str) -> None:
    """Take `pace.steps` steps over the batches."""
    model.train()
    optimizers = muon_and_adamw(model, matrix_rate=pace.matrix_rate, other_rate=pace.other_rate)
    schedule = Schedule(optimizers, pace.steps)
    with shown_progress(title, pace.steps) as progress:
        for step, batch in zip(range(pace.steps), batches, strict=False):
            schedule.set_for(step)
            loss = _loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            progress.done(loss.item())


def _loss(model: Qwen3ForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the cross entropy over the tokens to write; only their places are projected on the vocabulary."""
    asked = batch.asked()
    hidden = model.model(input_ids=batch.tokens).last_hidden_state
    return cross_entropy(model.lm_head(hidden[asked]), batch.targets[asked])
