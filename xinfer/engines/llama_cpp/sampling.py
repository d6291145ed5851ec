"""Logits to tokens. Each sequence has a sampler of its own, so that nobody's company changes what it gets."""

from collections.abc import Sequence as Rows
from typing import Any

import numpy as np

from xinfer.engines.llama_cpp.library import Context, SamplerChain
from xinfer.engines.token_engine import BROKEN, Candidates, Sequence
from xinfer.generation.sampling import Sampling


class Seen:
    """What a sequence has seen, for penalties: every token id once, with how often the answer has it."""

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        ids = np.unique(np.array(sequence.prompt, np.int64))
        self._ids: Any = ids[ids >= 0]  # those below stand for images
        self._counts: Any = np.zeros(len(self._ids), np.float32)
        self._places = {int(token): place for place, token in enumerate(self._ids)}
        self._read = 0

    def apply(self, row: Any) -> None:
        """Change one row of logits in place."""
        self._read_on()
        sampling = self._sequence.sampling
        scores = row[self._ids]
        factor = sampling.repetition_penalty
        if factor != 1.0:
            scores = np.where(scores > 0, scores / factor, scores * factor)
        scores -= sampling.frequency_penalty * self._counts + sampling.presence_penalty * (self._counts > 0)
        row[self._ids] = scores

    def _read_on(self) -> None:
        for token in self._sequence.generated[self._read :]:
            place = self._places.get(token)
            if place is None:
                self._places[token] = len(self._ids)
                self._ids = np.append(self._ids, token)
                self._counts = np.append(self._counts, np.float32(1))
            else:
                self._counts[place] += 1
        self._read = len(self._sequence.generated)


class Sampler:
    """Chooses the tokens of one sequence, also after it has lost its slot in between."""

    def __init__(self, sequence: Sequence) -> None:
        sampling = sequence.sampling
        self._sequence = sequence
        self.is_plain = sampling.is_plain and sequence.constraint is None
        """One argmax is all there is to do, which the batch does for all such rows at once."""
        self._seen = Seen(sequence) if sampling.has_penalties else None
        self._biased = np.array(list(sampling.logit_bias), np.int64)
        self._bias = np.array(list(sampling.logit_bias.values()), np.float32)
        self._ends = np.array(list(sampling.stop_ids), np.int64)
        self._chain = None if sampling.is_greedy else SamplerChain(_steps(sampling, sequence.random.getrandbits(32)))

    def choose(self, context: Context, index: int, row: Any) -> tuple[int, Candidates | None]:
        """The next token, or ``BROKEN``, with the candidates if they are asked for.

        Args:
            context: that has just decoded.
            index: the token in its batch whose logits these are.
            row: the logits, in the context's memory; changed in place.
        """
        if greedy_tokens(row[None])[0] == BROKEN:
            return BROKEN, None
        wanted = self._sequence.sampling.logprobs
        scores = None if wanted is None else log_softmax(row)
        self._edit(row)
        is_open = self._sequence.constraint is None or self._constrain(row)
        token = self._chain.sample(context, index) if self._chain is not None and is_open else int(row.argmax())
        return token, None if scores is None else candidates_at(scores, token, wanted or 0)

    def _edit(self, row: Any) -> None:
        """Penalties, bias, and no end before ``min_tokens``."""
        if self._seen is not None:
            self._seen.apply(row)
        if len(self._biased):
            row[self._biased] += self._bias
        if len(self._sequence.generated) < self._sequence.sampling.min_tokens:
            row[self._ends] = -np.inf

    def _constrain(self, row: Any) -> bool:
        """Leave only what the grammar lets follow. False: that is nothing, and whatever is chosen will be refused."""
        constraint = self._sequence.constraint
        mask = None if constraint is None else constraint.mask()
        if mask is None:
            return True
        allowed: Any = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=len(row)).view(bool)
        row[~allowed] = -np.inf
        return bool(allowed.any())


def sampler_of(sequence: Sequence) -> Sampler:
    """The sampler of a sequence, made when it is first needed."""
    if sequence.state is None:
        sequence.state = Sampler(sequence)
    sampler: Sampler = sequence.state
    return sampler


def greedy_tokens(rows: Any) -> list[int]:
    """The likeliest token of each row of logits, or ``BROKEN``: where there is a NaN, it counts as the highest."""
    best = rows.argmax(-1)
    sound = np.isfinite(rows[np.arange(len(rows)), best])
    found: list[int] = best.tolist() if sound.all() else np.where(sound, best, BROKEN).tolist()
    return found


def score_prompt(sequence: Sequence, first: int, logits: Any) -> None:
    """Note the candidates at tokens of the prompt; the logits of one token are about the next one.

    Args:
        sequence: that asked for them.
        first: the place in the prompt of the first row's token.
        logits: of consecutive tokens.
    """
    found = sequence.prompt_candidates
    assert found is not None
    if not found:
        found.append(None)
    wanted = sequence.sampling.logprobs or 0
    following = sequence.prompt[first + 1 : first + 1 + len(logits)]
    found.extend(candidates_at(log_softmax(row), token, wanted) for row, token in zip(logits, following, strict=False))


def log_softmax(row: Any) -> Any:
    """Log probabilities of one row of logits, as a new array."""
    shifted = row - row.max()
    return shifted - np.log(np.exp(shifted).sum())


def candidates_at(scores: Any, token: int, wanted: int) -> Candidates:
    """The chosen token's log probability, and those of the ``wanted`` likeliest ones."""
    chosen = float(scores[token])
    if not wanted:
        return Candidates(chosen, [])
    wanted = min(wanted, len(scores))
    likeliest = np.argpartition(scores, -wanted)[-wanted:]
    likeliest = likeliest[np.argsort(-scores[likeliest], kind="stable")]
    return Candidates(chosen, list(zip(likeliest.tolist(), scores[likeliest].tolist(), strict=True)))


def _steps(sampling: Sampling, seed: int) -> Rows[tuple[str, tuple[Any, ...]]]:
    """``top_k`` before the temperature chooses the same tokens as behind it, and leaves less to do."""
    steps: list[tuple[str, tuple[Any, ...]]] = []
    if sampling.top_k:
        steps.append(("top_k", (sampling.top_k,)))
    steps.append(("temp", (sampling.temperature,)))
    if sampling.top_p < 1:
        steps.append(("top_p", (sampling.top_p, 1)))
    if sampling.min_p > 0:
        steps.append(("min_p", (sampling.min_p, 1)))
    return [*steps, ("dist", (seed,))]
