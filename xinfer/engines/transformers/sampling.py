"""Logits to tokens, for a batch of rows of which each has its own parameters.

What a row gets does not depend on the other rows: its random numbers come from its own generator, one for each token.
"""

from collections.abc import Sequence as Rows

import numpy as np
import torch

from xinfer.engines.token_engine import Candidates, Sequence
from xinfer.generation.sampling import Sampling

CANDIDATES = 1024
"""Truncated sampling looks at so many of the likeliest tokens first; sorting a whole vocabulary is slow."""


class Seen:
    """What a sequence has seen, for penalties: one entry per token id, kept on the device."""

    def __init__(self, sequence: Sequence, size: int, device: torch.device) -> None:
        self._counts = torch.zeros(size, device=device)
        self._anywhere = torch.zeros(size, dtype=torch.bool, device=device)
        self._anywhere[torch.tensor(sequence.prompt, device=device)] = True
        self._read = 0
        self._sequence = sequence

    def apply(self, logits: torch.Tensor) -> None:
        """Change one row of logits in place."""
        sampling = self._sequence.sampling
        new = self._sequence.generated[self._read :]
        self._read += len(new)
        for token in new:
            self._counts[token] += 1
            self._anywhere[token] = True
        if sampling.repetition_penalty != 1.0:
            factor = sampling.repetition_penalty
            penalized = torch.where(logits > 0, logits / factor, logits * factor)
            logits.copy_(torch.where(self._anywhere, penalized, logits))
        if sampling.frequency_penalty:
            logits.sub_(self._counts, alpha=sampling.frequency_penalty)
        if sampling.presence_penalty:
            logits.sub_(self._counts.clamp(max=1), alpha=sampling.presence_penalty)


class BatchSampler:
    """Samples for a fixed list of sequences; make a new one when the batch changes."""

    def __init__(self, sequences: Rows[Sequence], size: int, device: torch.device) -> None:
        self._sequences = list(sequences)
        self._device = device
        self._masked = [row for row, sequence in enumerate(self._sequences) if sequence.constraint is not None]
        self._is_plain = not self._masked and all(sequence.sampling.is_plain for sequence in self._sequences)
        if self._is_plain:
            return
        self._edits = [
            (row, _Edit(sequence, size, device))
            for row, sequence in enumerate(self._sequences)
            if sequence.sampling.edits_logits
        ]
        self._scored = [row for row, sequence in enumerate(self._sequences) if sequence.sampling.logprobs is not None]
        self._random = [row for row, sequence in enumerate(self._sequences) if not sequence.sampling.is_greedy]
        chosen = [self._sequences[row].sampling for row in self._random]
        if chosen:
            self._draw = _Draw(chosen, size, device)

    def sample(self, logits: torch.Tensor) -> tuple[list[int], list[Candidates | None] | None]:
        """The next token of every row, and the candidates of the rows that want them.

        Args:
            logits: [rows, vocabulary]; may be changed.
        """
        if self._is_plain:
            tokens: list[int] = logits.argmax(-1).tolist()
            return tokens, None
        logits = logits.float()
        scores = logits[self._scored].log_softmax(-1) if self._scored else None
        for row, edit in self._edits:
            edit.apply(logits[row])
        if self._masked:
            self._mask(logits)
        tokens = logits.argmax(-1).tolist()
        if self._random:
            uniform = [self._sequences[row].random.random() for row in self._random]
            drawn = self._draw.draw(logits[self._random], uniform).tolist()
            for row, token in zip(self._random, drawn, strict=True):
                tokens[row] = token
        if scores is None:
            return tokens, None
        candidates: list[Candidates | None] = [None] * len(tokens)
        for index, row in enumerate(self._scored):
            wanted = self._sequences[row].sampling.logprobs or 0
            candidates[row] = candidates_at(scores[index], tokens[row], wanted)
        return tokens, candidates

    def _mask(self, logits: torch.Tensor) -> None:
        """Leave to the rows that have a constraint what that allows. The others are not touched."""
        size = logits.shape[1]
        for row in self._masked:
            constraint = self._sequences[row].constraint
            mask = None if constraint is None else constraint.mask()
            if mask is not None:
                allowed = np.unpackbits(np.frombuffer(mask, np.uint8), count=size, bitorder="little")
                hidden = torch.from_numpy(allowed).to(self._device) == 0
                logits[row].masked_fill_(hidden, float("-inf"))


class _Edit:
    """Penalties, bias, and no end before ``min_tokens``, on one row of logits."""

    def __init__(self, sequence: Sequence, size: int, device: torch.device) -> None:
        self._sequence = sequence
        sampling = sequence.sampling
        if sampling.has_penalties and sequence.state is None:
            sequence.state = Seen(sequence, size, device)
        self._biased = torch.tensor(list(sampling.logit_bias), dtype=torch.long, device=device)
        self._bias = torch.tensor(list(sampling.logit_bias.values()), device=device)
        self._ends = torch.tensor(list(sampling.stop_ids), dtype=torch.long, device=device)

    def apply(self, logits: torch.Tensor) -> None:
        """Change the row in place."""
        sequence = self._sequence
        if sequence.state is not None:
            sequence.state.apply(logits)
        if len(self._biased):
            logits.index_add_(0, self._biased, self._bias)
        if len(sequence.generated) < sequence.sampling.min_tokens:
            logits.index_fill_(0, self._ends, float("-inf"))


class _Draw:
    """Random choice by temperature, top_k, top_p and min_p, for rows that each have their own."""

    def __init__(self, rows: Rows[Sampling], size: int, device: torch.device) -> None:
        def column(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        self._temperature = column([row.temperature for row in rows])
        self._is_truncated = any(row.top_p < 1 or row.top_k or row.min_p for row in rows)
        self._top_p = column([row.top_p for row in rows])
        self._min_p = column([row.min_p for row in rows])
        self._top_k = column([float(row.top_k or size) for row in rows])
        self._widest_k = max(row.top_k or size for row in rows)
        self._device = device

    def draw(self, logits: torch.Tensor, uniform: list[float]) -> torch.Tensor:
        """One token per row: the one in whose share of the cumulative probability the row's random number falls."""
        probabilities = (logits / self._temperature).softmax(-1)
        point = torch.tensor(uniform, dtype=torch.float32, device=self._device)[:, None]
        if self._is_truncated:
            ranked, order = self._ranked(probabilities)
            before = ranked.cumsum(-1) - ranked
            rank = torch.arange(ranked.shape[1], device=self._device)
            keep = (before < self._top_p) & (rank < self._top_k) & (ranked >= self._min_p * ranked[:, :1])
            keep[:, 0] = True
            # Back in the order of the vocabulary, so that a row without limits draws the same token in any company.
            probabilities = torch.zeros_like(probabilities).scatter_(1, order, ranked * keep)
        return self._pick(probabilities, point).flatten()

    def _ranked(self, probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest tokens in order: as many as can matter."""
        size = probabilities.shape[1]
        few = min(size, self._widest_k, CANDIDATES)
        values, order = probabilities.topk(few)
        enough = (
            (self._top_k <= few)
            | ((self._top_p < 1) & (values.sum(-1, keepdim=True) >= self._top_p))
            | (values[:, -1:] < self._min_p * values[:, :1])
        )
        return (values, order) if bool(enough.all()) else probabilities.sort(-1, descending=True)

    @staticmethod
    def _pick(weights: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        """Index of the entry that holds the point, which is a share of the total weight."""
        total = weights.cumsum(-1)
        index = torch.searchsorted(total, point * total[:, -1:], right=True)
        # Rounding may put the point on the very end, behind the last token that has any weight.
        last = weights.shape[1] - 1 - (weights.flip(-1) > 0).int().argmax(-1, keepdim=True)
        return torch.minimum(index, last)


def candidates_at(scores: torch.Tensor, token: int, wanted: int) -> Candidates:
    """The candidates at one position.

    Args:
        scores: log probabilities of the vocabulary.
        token: the one that was chosen.
        wanted: how many others to list, the likeliest first.
    """
    chosen = float(scores[token])
    if not wanted:
        return Candidates(chosen, [])
    values, tokens = scores.topk(min(wanted, scores.shape[0]))
    return Candidates(chosen, list(zip(tokens.tolist(), values.tolist(), strict=True)))
