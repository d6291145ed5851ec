"""Continuous batching: one forward pass per step for all running sequences, prompts read in chunks in between.

mlx-lm has a batch generator of its own. This one differs where the contract asks for it: random numbers, penalties and
masks of every sequence by itself, log probabilities of prompts, and a bound on memory.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import msgspec

from xinfer.engines.base import Load
from xinfer.engines.mlx.batch import Batch, States, evaluate, fresh, merged, read_together
from xinfer.engines.mlx.prompts import Reading, next_window, take_group
from xinfer.engines.mlx.sampling import BatchSampler, candidates_at, log_softmax
from xinfer.engines.token_engine import BROKEN, Candidates, Progress, Sequence


class BatchLimits(msgspec.Struct, frozen=True):
    """``positions``: what the memory has room for, in tokens over all rows, each as long as the longest.

    ``pads``: prompts of different lengths may be read together.
    """

    max_rows: int
    positions: int
    pads: bool = True


class Row:
    """A sequence that is being continued. ``length``: its tokens, of which the states lack the last."""

    __slots__ = ("length", "sequence")

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.length = len(sequence.prompt) + len(sequence.generated)

    @property
    def last(self) -> int:
        """The token that comes next into the model."""
        generated = self.sequence.generated
        return generated[-1] if generated else self.sequence.prompt[-1]


class BatchRunner:
    """Implements ``token_engine.Runner`` for one model.

    Args:
        model: of mlx-lm.
        limits: rows and tokens that run at once.
        prefill_chunk: tokens of prompts that are read per step, so that running sequences never wait long.
    """

    def __init__(self, model: Any, limits: BatchLimits, prefill_chunk: int) -> None:
        self._model = model
        self._limits = limits
        self._prefill_chunk = prefill_chunk
        self._waiting: deque[Sequence] = deque()
        self._readings: list[Reading] = []
        self._rows: list[Row] = []
        self._batch = Batch()
        self._sampler: BatchSampler | None = None
        self._load = Load()

    # --- the interface ---

    def add(self, sequence: Sequence) -> None:
        """Take a sequence; it waits until there is room."""
        self._waiting.append(sequence)

    def discard(self, sequence: Sequence) -> None:
        """Drop a sequence that waits, is read or runs."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        for reading in self._readings:
            if sequence in reading.sequences:
                reading.sequences.remove(sequence)
        self._readings = [reading for reading in self._readings if reading.sequences]
        self._keep(row for row in range(len(self._rows)) if self._rows[row].sequence is not sequence)
        self._note_load()

    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self._rows or self._readings or self._waiting)

    def step(self) -> list[Progress]:
        """Let in who waits, read one chunk of prompts, and continue every sequence by one token."""
        self._admit()
        if self._readings:
            self._read()
        progress = self._continue() if self._rows else []
        self._note_load()
        return progress

    def report(self) -> Load:
        """How it was after the last step."""
        return self._load

    # --- letting in ---

    def _admit(self) -> None:
        while self._waiting and self._count() < self._limits.max_rows:
            first = self._waiting[0]
            longest = max(self._longest(), len(first.prompt) + len(first.generated) + 1)
            # One token more than they have: who comes in now shall not be sent out again in this very step.
            room = min(self._limits.max_rows, self._limits.positions // (longest + 1)) - self._count()
            if room < 1 and self._count():
                return
            group = take_group(self._waiting, max(1, room))
            self._readings.append(Reading(group, fresh(self._model)))

    def _count(self) -> int:
        return len(self._rows) + sum(len(reading.sequences) for reading in self._readings)

    def _longest(self) -> int:
        rows = [row.length + 1 for row in self._rows]
        return max([*rows, *(len(reading.tokens) + 1 for reading in self._readings)], default=0)

    # --- reading prompts ---

    def _read(self) -> None:
        count, size = next_window(self._readings, self._prefill_chunk, pads=self._limits.pads)
        window = self._readings[:count]
        if count == 1:
            self._read_part(window[0], size)
            if window[0].remaining:
                return
            alone = self._limits.max_rows == 1  # then nothing is ever joined, and some caches cannot be
            states = window[0].states if alone else merged([window[0].states] * len(window[0].sequences))
        else:
            states = self._read_together(window)
        del self._readings[:count]
        self._rows += [Row(sequence) for reading in window for sequence in reading.sequences]
        self._batch.join(states)
        self._sampler = None

    def _read_part(self, reading: Reading, size: int) -> None:
        """One prompt, or a chunk of it."""
        tokens = reading.tokens[reading.filled : reading.filled + size]
        if tokens:
            logits = self._model(mx.array([tokens]), cache=reading.states)
            if reading.wants_scores:
                _score_prompt(reading, logits[0])
            evaluate(reading.states)
        elif reading.wants_scores:
            _score_prompt(reading, None)  # a prompt of one token, of which nothing can be said
        reading.filled += len(tokens)

    def _read_together(self, window: list[Reading]) -> States:
        """Several whole prompts, padded on their right; the rows of all their sequences."""
        states = read_together(self._model, [reading.tokens[:-1] for reading in window])
        rows = [index for index, reading in enumerate(window) for _ in reading.sequences]
        if len(rows) > len(window):
            for layer in states:
                layer.filter(rows)
        evaluate(states)
        return states

    # --- continuing ---

    def _continue(self) -> list[Progress]:
        while len(self._rows) > 1 and len(self._rows) * (self._longest() + 1) > self._limits.positions:
            self._suspend_last()
        tokens = mx.array([[row.last] for row in self._rows])
        logits = self._model(tokens, cache=self._batch.states)[:, -1]
        if self._sampler is None:
            self._sampler = BatchSampler([row.sequence for row in self._rows])
        chosen, candidates = self._sampler.sample(logits)
        progress = [
            _append(row, token, candidates[index] if candidates else None)
            for index, (row, token) in enumerate(zip(self._rows, chosen, strict=True))
        ]
        self._keep(index for index, item in enumerate(progress) if item.ending is None)
        return progress

    def _suspend_last(self) -> None:
        """The youngest gives its row back; what it has so far will be read again."""
        self._waiting.appendleft(self._rows[-1].sequence)
        self._keep(range(len(self._rows) - 1))

    def _keep(self, rows: Iterable[int]) -> None:
        kept = list(rows)
        if len(kept) < len(self._rows):
            self._rows = [self._rows[index] for index in kept]
            self._batch.keep(kept)
            self._sampler = None

    def _note_load(self) -> None:
        used = len(self._rows) * max((row.length for row in self._rows), default=0)
        unread = sum(reading.remaining for reading in self._readings)
        self._load = Load(
            running=self._count(),
            queued=len(self._waiting),
            tokens_queued=unread + sum(len(sequence.prompt) for sequence in self._waiting),
            kv_usage=min(1.0, used / self._limits.positions),
        )


def _append(row: Row, token: int, candidates: Candidates | None) -> Progress:
    progress = row.sequence.followed_by(token, candidates)
    if token != BROKEN:
        row.length += 1
    return progress


def _score_prompt(reading: Reading, logits: mx.array | None) -> None:
    """Note the candidates at the prompt's tokens; the logits of one token are about the next one."""
    scores = None if logits is None else log_softmax(logits)
    for sequence in reading.sequences:
        found = sequence.prompt_candidates
        assert found is not None
        if not found:
            found.append(None)
        if scores is None:
            continue
        following = sequence.prompt[reading.filled + 1 : reading.filled + 1 + scores.shape[0]]
        wanted = sequence.sampling.logprobs or 0
        found.extend(candidates_at(scores[index], token, wanted) for index, token in enumerate(following))
