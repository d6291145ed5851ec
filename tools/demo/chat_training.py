"""How demo-chat learns: Muon for its matrices, loss on the answers only, and revision until every answer holds."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import Qwen3ForCausalLM

from demo.chat_batches import Batch, Lesson, encode_lessons, endless_batches, to_batch
from demo.chat_lessons import LessonPlan, completion_examples, golden_examples, variations
from demo.chat_model import as_stored, mark, new_chat_model
from demo.reproducible import Schedule, console, muon_and_adamw, shown_progress

SEED = 9997
GOLDEN_MARGIN = 2.0
"""By how much the right token must lead the next best in every golden answer, so that no rounding swaps them."""

VARIATION_MARGIN = 0.5
"""The same for the variations: they must hold too, but nobody compares engines by them."""

TOKENS_PER_STEP = 2048
REVISIONS = 8
_REVISED_AT_ONCE = 24


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how fast to learn; the figures were found by trying."""

    steps: int
    matrix_rate: float
    other_rate: float


FIRST_PASS = Pace(steps=2500, matrix_rate=0.005, other_rate=0.006)
REVISION = Pace(steps=150, matrix_rate=0.001, other_rate=0.001)


def train_chat_model(tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """Return a model that knows every golden answer and every variation by a margin, its weights as they are stored.

    Raises:
        RuntimeError: it did not get there in `REVISIONS` rounds.
    """
    model = new_chat_model(tokenizer)
    goldens = encode_lessons(tokenizer, golden_examples() + completion_examples())
    others = encode_lessons(tokenizer, list(variations()))
    drawn = endless_batches(tokenizer, LessonPlan(SEED), tokens=TOKENS_PER_STEP, seed=SEED)
    _learn(model, drawn, FIRST_PASS, "demo-chat")
    for revision in range(1, REVISIONS + 1):
        stored = as_stored(model)
        weak = _weak_lessons(stored, goldens, others)
        if not weak:
            return stored
        _learn(model, _with_revision(drawn, weak, revision), REVISION, f"demo-chat, revision {revision}")
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


def _with_revision(drawn: Iterator[Batch], weak: Sequence[Lesson], seed: int) -> Iterator[Batch]:
    """Yield batches of the weak lessons and newly drawn ones in turn, so that nothing else is forgotten."""
    rng = random.Random(seed)
    while True:
        yield next(drawn)
        yield to_batch(rng.sample(weak, min(len(weak), _REVISED_AT_ONCE)))


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
