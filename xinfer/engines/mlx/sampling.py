"""Logits to tokens, for a batch of rows of which each has its own parameters.

What a row gets does not depend on the other rows: its random numbers come from its own generator, one for each token.
"""

from collections import Counter
from collections.abc import Sequence as Rows
from typing import cast

import mlx.core as mx
import numpy as np

from xinfer.engines.token_engine import BROKEN, Candidates, Sequence
from xinfer.generation.sampling import Sampling

CANDIDATES = 1024
"""Truncated sampling looks at so many of the likeliest tokens first; sorting a whole vocabulary is slow."""


def log_softmax(logits: mx.array) -> mx.array:
    """Log probabilities over the last axis."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


class BatchSampler:
    """Samples for a fixed list of sequences; make a new one when the batch changes."""

    def __init__(self, sequences: Rows[Sequence]) -> None:
        self._sequences = list(sequences)
        self._edited = [
            row
            for row, sequence in enumerate(self._sequences)
            if sequence.sampling.edits_logits or sequence.constraint is not None
        ]
        self._scored = [row for row, sequence in enumerate(self._sequences) if sequence.sampling.logprobs is not None]
        self._random = [row for row, sequence in enumerate(self._sequences) if not sequence.sampling.is_greedy]

    def sample(self, logits: mx.array) -> tuple[list[int], list[Candidates | None] | None]:
        """The next token of every row, or ``BROKEN``, and the candidates of the rows that want them.

        Args:
            logits: [rows, vocabulary].
        """
        if not (self._edited or self._scored or self._random):
            return _integers(_likeliest(logits)), None
        logits = logits.astype(mx.float32)
        sound = _is_sound(logits)
        scores = log_softmax(logits[mx.array(self._scored)]) if self._scored else None
        if self._edited:
            rows = [logits[row] for row in range(len(self._sequences))]
            for row in self._edited:
                rows[row] = edited(rows[row], self._sequences[row])
            logits = mx.stack(rows)
        tokens = _integers(logits.argmax(-1))
        if self._random:
            drawn = draw(
                logits[mx.array(self._random)],
                [self._sequences[row].sampling for row in self._random],
                [self._sequences[row].random.random() for row in self._random],
            )
            for row, token in zip(self._random, drawn, strict=True):
                tokens[row] = token
        broken = [row for row, is_sound in enumerate(cast("list[bool]", sound.tolist())) if not is_sound]
        for row in broken:
            tokens[row] = BROKEN
        if scores is None:
            return tokens, None
        candidates: list[Candidates | None] = [None] * len(tokens)
        for index, row in enumerate(self._scored):
            wanted = self._sequences[row].sampling.logprobs or 0
            if row not in broken:
                candidates[row] = candidates_at(scores[index], tokens[row], wanted)
        return tokens, candidates


def _is_sound(logits: mx.array) -> mx.array:
    """Of each row, whether its highest value is a number: a NaN counts as the highest."""
    return mx.isfinite(logits.max(-1))


def _likeliest(logits: mx.array) -> mx.array:
    return mx.where(_is_sound(logits), logits.argmax(-1).astype(mx.int32), BROKEN)


def edited(logits: mx.array, sequence: Sequence) -> mx.array:
    """One row after penalties, bias, no end before ``min_tokens``, and its constraint."""
    sampling = sequence.sampling
    if sampling.has_penalties:
        logits = _penalized(logits, sequence)
    if sampling.logit_bias:
        tokens = mx.array(list(sampling.logit_bias))
        logits = logits.at[tokens].add(mx.array(list(sampling.logit_bias.values())))
    if sampling.stop_ids and len(sequence.generated) < sampling.min_tokens:
        logits = logits.at[mx.array(list(sampling.stop_ids))].add(-mx.inf)
    mask = sequence.constraint.mask() if sequence.constraint is not None else None
    if mask is not None:
        allowed = np.unpackbits(np.frombuffer(mask, np.uint8), count=logits.shape[0], bitorder="little")
        logits = mx.where(mx.array(allowed.astype(bool)), logits, -mx.inf)
    return logits


def _penalized(logits: mx.array, sequence: Sequence) -> mx.array:
    """Only the tokens that were seen are touched."""
    sampling = sequence.sampling
    if sequence.state is None:
        sequence.state = Seen(sequence)
    seen: Seen = sequence.state
    seen.update()
    tokens = mx.array(list(seen.counts))
    counts = mx.array(list(seen.counts.values()), dtype=mx.float32)
    values = logits[tokens]
    factor = sampling.repetition_penalty
    if factor != 1.0:
        values = mx.where(values > 0, values / factor, values * factor)
    values = values - sampling.frequency_penalty * counts - sampling.presence_penalty * mx.minimum(counts, 1)
    logits[tokens] = values
    return logits


class Seen:
    """How often each token is in the answer so far; 0 for those that are in the prompt only."""

    def __init__(self, sequence: Sequence) -> None:
        self.counts: Counter[int] = Counter(dict.fromkeys(sequence.prompt, 0))
        self._sequence = sequence
        self._read = 0

    def update(self) -> None:
        """Count what is new."""
        new = self._sequence.generated[self._read :]
        self._read += len(new)
        self.counts.update(new)


def draw(logits: mx.array, rows: Rows[Sampling], uniform: list[float]) -> list[int]:
    """One token per row, by temperature, top_k, top_p and min_p: the one in whose share its random number falls.

    Args:
        logits: [rows, vocabulary].
        rows: the parameters of each.
        uniform: a random number for each, 0..1.
    """

    def column(values: list[float]) -> mx.array:
        return mx.array(values, dtype=mx.float32)[:, None]

    probabilities = mx.softmax(logits / column([row.temperature for row in rows]), axis=-1)
    if any(row.top_p < 1 or row.top_k or row.min_p for row in rows):
        size = logits.shape[1]
        top_p, min_p = column([row.top_p for row in rows]), column([row.min_p for row in rows])
        top_k = column([float(row.top_k or size) for row in rows])
        ranked, order = _ranked(probabilities, top_k, top_p, min_p)
        before = ranked.cumsum(-1) - ranked
        rank = mx.arange(ranked.shape[1])
        keep = (before < top_p) & (rank < top_k) & (ranked >= min_p * ranked[:, :1])
        keep = keep | (rank == 0)
        # Back in the order of the vocabulary, so that a row without limits draws the same token in any company.
        probabilities = mx.put_along_axis(mx.zeros_like(probabilities), order, ranked * keep, axis=-1)
    return _picked(probabilities, column(uniform))


def _ranked(probabilities: mx.array, top_k: mx.array, top_p: mx.array, min_p: mx.array) -> tuple[mx.array, mx.array]:
    """The likeliest tokens in order, with their probabilities: as many as can matter."""
    size = probabilities.shape[1]
    few = min(size, CANDIDATES)
    order = mx.argpartition(-probabilities, few - 1, axis=-1)[:, :few] if few < size else mx.arange(size)[None]
    order = mx.broadcast_to(order, (probabilities.shape[0], few))
    values = mx.take_along_axis(probabilities, order, axis=-1)
    by_rank = mx.argsort(-values, axis=-1)
    values, order = mx.take_along_axis(values, by_rank, axis=-1), mx.take_along_axis(order, by_rank, axis=-1)
    enough = (
        (top_k <= few)
        | ((top_p < 1) & (values.sum(-1, keepdims=True) >= top_p))
        | (values[:, -1:] < min_p * values[:, :1])
    )
    if few == size or bool(enough.all()):
        return values, order
    order = mx.argsort(-probabilities, axis=-1)
    return mx.take_along_axis(probabilities, order, axis=-1), order


def _picked(weights: mx.array, point: mx.array) -> list[int]:
    """Index of the entry that holds the point, which is a share of the total weight."""
    total = weights.cumsum(-1)
    index = (total <= point * total[:, -1:]).sum(-1)
    # Rounding may put the point on the very end, behind the last token that has any weight.
    last = weights.shape[1] - 1 - (weights[:, ::-1] > 0).argmax(-1)
    return _integers(mx.minimum(index, last))


def candidates_at(scores: mx.array, token: int, wanted: int) -> Candidates:
    """The candidates at one position.

    Args:
        scores: log probabilities of the vocabulary.
        token: the one that was chosen.
        wanted: how many others to list, the likeliest first.
    """
    chosen = float(scores[token].item())
    if not wanted:
        return Candidates(chosen, [])
    few = min(wanted, scores.shape[0])
    tokens = mx.argpartition(-scores, few - 1)[:few]
    tokens = tokens[mx.argsort(-scores[tokens])]
    values = cast("list[float]", scores[tokens].tolist())
    return Candidates(chosen, list(zip(_integers(tokens), values, strict=True)))


def _integers(values: mx.array) -> list[int]:
    return cast("list[int]", values.tolist())
