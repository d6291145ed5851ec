"""Continuous batching: one forward pass per step for all running sequences, prompts read in chunks in between.

Rows of the cache, without gaps: first the sequences that are being continued ("decoding"), behind them those whose
prompt is still being read. A row that becomes free is filled with the last one of its part.
"""

from collections import deque
from collections.abc import Collection

import torch

from xinfer.engines.base import Load
from xinfer.engines.token_engine import Candidates, Ending, Progress, Sequence
from xinfer.engines.transformers.lora import AdapterBatch
from xinfer.engines.transformers.model import SlotModel
from xinfer.engines.transformers.pictures import Window
from xinfer.engines.transformers.rows import Row, next_window
from xinfer.engines.transformers.sampling import BatchSampler, candidates_at
from xinfer.engines.transformers.shape import CacheLimits, grown
from xinfer.errors import EngineFailed, InvalidRequest


class BatchRunner:
    """Implements ``token_engine.Runner`` for one model.

    Args:
        model: the model with its cache.
        limits: rows and tokens that the cache may hold.
        prefill_chunk: tokens of prompts that are read per step, so that running sequences never wait long.
    """

    def __init__(self, model: SlotModel, limits: CacheLimits, prefill_chunk: int) -> None:
        self._model = model
        self._limits = limits
        self._prefill_chunk = prefill_chunk
        self._waiting: deque[Sequence] = deque()
        self._rows: list[Row] = []
        self._decoding = 0
        """The first so many rows are being continued."""
        self._positions: torch.Tensor | None = None
        """Where the next token of each decoding row goes; ``None`` after the rows have changed."""
        self._shifts: torch.Tensor | None = None
        """What is added to these for the rotation; changes with them. ``None``: nothing."""
        self._adapters: AdapterBatch | None = None
        """Of the decoding rows; changes with ``_positions``."""
        self._sampler: BatchSampler | None = None
        self._load = Load()

    # --- the interface ---

    def add(self, sequence: Sequence) -> None:
        """Take a sequence; it waits until there is room."""
        self._waiting.append(sequence)

    def discard(self, sequence: Sequence) -> None:
        """Drop a sequence that waits or runs."""
        for index, row in enumerate(self._rows):
            if row.sequence is sequence:
                with torch.inference_mode():
                    self._remove(index)
                break
        else:
            if sequence in self._waiting:
                self._waiting.remove(sequence)
        self._note_load()

    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self._rows or self._waiting)

    def step(self) -> list[Progress]:
        """Let in who waits, read one chunk of prompts, and continue every sequence by one token."""
        progress: list[Progress] = []
        with torch.inference_mode():
            if self._waiting:
                self._admit()
            if len(self._rows) > self._decoding:
                self._read_prompts(progress)
            if self._decoding:
                self._decode(progress)
        self._note_load()
        return progress

    def report(self) -> Load:
        """How it was after the last step."""
        return self._load

    # --- letting in ---

    def _admit(self) -> None:
        admitted: list[Row] = []
        deferred: list[Sequence] = []
        longest = self._longest()
        while self._waiting and len(self._rows) + len(admitted) < self._limits.max_rows:
            sequence = self._waiting.popleft()
            if self._prompt_is_being_read(sequence, admitted):
                deferred.append(sequence)
                continue
            row = Row(sequence)
            longest = max(longest, len(row.tokens) + 1)
            if not self._make_room(len(self._rows) + len(admitted) + 1, longest):
                self._waiting.appendleft(sequence)
                break
            admitted.append(row)
        self._waiting.extendleft(reversed(deferred))
        # Short ones first: more of them fit into one pass, and nobody waits behind a long one that came with them.
        for row in sorted(admitted, key=lambda row: len(row.tokens)):
            self._share_prompt(row)
            self._rows.append(row)

    def _prompt_is_being_read(self, sequence: Sequence, admitted: list[Row]) -> bool:
        """Another answer to the same prompt is ahead; its work can be shared in a moment."""
        if sequence.group is None or sequence.prompt_candidates is not None:
            return False
        ahead = self._rows[self._decoding :] + admitted
        return any(row.sequence.group is sequence.group for row in ahead)

    def _share_prompt(self, row: Row) -> None:
        """Copy what the cache knows of the same prompt. Its last token is read again, for its logits."""
        if row.sequence.group is None or row.sequence.prompt_candidates is not None:
            return
        for index, other in enumerate(self._rows[: self._decoding]):
            if other.sequence.group is row.sequence.group and self._read_alike(row, other):
                known = len(row.sequence.prompt) - 1
                row.filled = row.pictures.whole_from(known) if row.pictures else known
                self._model.cache.copy_row(index, len(self._rows), row.filled)
                return

    def _read_alike(self, row: Row, other: Row) -> bool:
        """Whether what the cache holds of another row is what a row would read for the same tokens."""
        rotation = self._model.rotation
        shorter, longer = sorted((len(row.tokens), other.filled))
        return rotation is None or not rotation.changes(shorter, longer)

    def _longest(self) -> int:
        return max((len(row.tokens) + 1 for row in self._rows), default=0)

    def _make_room(self, rows: int, length: int) -> bool:
        """Let the cache grow to so many rows and positions; False: they do not fit into the memory."""
        cache = self._model.cache
        shape = grown(cache.shape, rows, length, self._limits)
        if shape is None:
            return False
        if shape != cache.shape:
            cache.resize(shape)
        return True

    # --- reading prompts ---

    def _read_prompts(self, progress: list[Progress]) -> None:
        start = self._decoding
        count, size = next_window(self._rows[start:], self._prefill_chunk)
        rows = self._rows[start : start + count]
        filled = rows[0].filled
        chunks = [row.tokens[filled : filled + size] for row in rows]
        device = self._model.device
        tokens = torch.tensor([chunk + [0] * (size - len(chunk)) for chunk in chunks], device=device)
        positions = torch.arange(filled, filled + size, device=device).expand(count, size)
        lasts = sorted({len(chunk) - 1 for chunk in chunks})
        scored, pictures = rows[0].wants_scores, rows[0].pictures
        try:
            logits = self._model.run(
                slice(start, start + count),
                tokens,
                positions,
                filled + size,
                plain=filled == 0 or size == 1,
                keep=0 if scored else torch.tensor(lasts, device=device),
                adapters=self._adapters_of(rows),
                seen=pictures.window(filled, size, device) if pictures else None,
                lengths=self._lengths_of(rows),
            )
        except ValueError as error:
            if pictures is None:
                raise
            self._refuse(start, error, progress)
            return
        if scored:
            _score_prompt(rows[0], filled, logits[0])
            lasts = list(range(size))
        for row, chunk in zip(rows, chunks, strict=True):
            row.filled += len(chunk)
        kept = [lasts.index(len(chunk) - 1) for chunk in chunks]
        own = logits[range(count), kept]
        broken = _broken(own)
        if rows[0].remaining:
            if broken:
                self._fail(start, progress)
                self._remove(start)
            return
        self._decoding += count
        self._forget_batch()
        sampler = BatchSampler([row.sequence for row in rows], self._model.vocabulary_size, device)
        self._advance(start, *sampler.sample(own), progress, broken)

    # --- continuing ---

    def _decode(self, progress: list[Progress]) -> None:
        self._suspend_outgrown()
        while self._rows and not self._make_room(len(self._rows), max(row.filled for row in self._rows) + 1):
            self._suspend_last()
        if not self._decoding:
            return
        rows = self._rows[: self._decoding]
        longest = max(row.filled for row in rows) + 1
        device = self._model.device
        if self._positions is None:
            self._positions = torch.tensor([[row.filled] for row in rows], device=device)
            shifts = [[row.shift] for row in rows]
            self._shifts = torch.tensor(shifts, device=device) if any(shift for (shift,) in shifts) else None
            self._adapters = self._adapters_of(rows)
        tokens = torch.tensor([[row.tokens[-1]] for row in rows], device=device)
        logits = self._model.run(
            slice(0, len(rows)),
            tokens,
            self._positions,
            longest,
            plain=all(row.filled + 1 == longest for row in rows),
            keep=1,
            adapters=self._adapters,
            seen=None if self._shifts is None else Window(self._positions + self._shifts, {}, None),
            lengths=self._lengths_of(rows),
        )
        for row in rows:
            row.filled += 1
        self._positions = self._positions + 1
        if self._sampler is None:
            sequences = [row.sequence for row in rows]
            self._sampler = BatchSampler(sequences, self._model.vocabulary_size, device)
        own = logits[:, -1]
        broken = _broken(own)  # before the sampler, which changes them
        self._advance(0, *self._sampler.sample(own), progress, broken)

    def _adapters_of(self, rows: list[Row]) -> AdapterBatch | None:
        return AdapterBatch.of([row.sequence.adapter for row in rows], self._model.device)

    def _lengths_of(self, rows: list[Row]) -> list[int] | None:
        return None if self._model.rotation is None else [len(row.tokens) for row in rows]

    def _suspend_outgrown(self) -> None:
        """Rows whose next token makes them so long that all of it is rotated in another way."""
        rotation = self._model.rotation
        if rotation is None:
            return
        for index in reversed(range(self._decoding)):
            length = len(self._rows[index].tokens)
            if rotation.changes(length - 1, length):
                self._suspend(index)

    def _suspend_last(self) -> None:
        """The youngest gives its row back."""
        self._suspend(len(self._rows) - 1)

    def _suspend(self, index: int) -> None:
        """A row is given back; what its sequence has so far will be read again."""
        row = self._rows[index]
        self._remove(index)
        self._waiting.appendleft(row.sequence)

    def _advance(
        self,
        first: int,
        tokens: list[int],
        candidates: list[Candidates | None] | None,
        progress: list[Progress],
        broken: Collection[int],
    ) -> None:
        """Append a token to each row from ``first`` on, and drop the rows that are complete, or ``broken``."""
        ended = []
        for index, token in enumerate(tokens):
            if index in broken:
                self._fail(first + index, progress)
                ended.append(first + index)
                continue
            row = self._rows[first + index]
            sequence = row.sequence
            sequence.generated.append(token)
            row.tokens.append(token)
            ending = sequence.ending_after(token)
            progress.append(Progress(sequence, token, candidates[index] if candidates else None, ending))
            if ending is not None:
                ended.append(first + index)
        for index in reversed(ended):
            self._remove(index)

    def _refuse(self, index: int, error: ValueError, progress: list[Progress]) -> None:
        """Drop a row whose images the model says it cannot read. Nothing but that row was touched."""
        sequence = self._rows[index].sequence
        sequence.refusal = InvalidRequest(f"the model cannot read the images: {error}", param="messages")
        progress.append(Progress(sequence, 0, None, Ending.REFUSED))
        self._remove(index)

    def _fail(self, index: int, progress: list[Progress]) -> None:
        """End the sequence of a row whose numbers are none. What it has in the cache would spread.

        To a masked position attention gives the weight zero, but zero times NaN is NaN: whoever has the row next, or
        another one to which it is copied, would write nonsense too.
        """
        self._model.cache.clear_row(index)
        sequence = self._rows[index].sequence
        sequence.refusal = EngineFailed(
            "the model computed values that are no numbers (NaN or infinite) for this request; another dtype may help"
        )
        progress.append(Progress(sequence, 0, None, Ending.REFUSED))

    def _remove(self, index: int) -> None:
        """Free a row: the last decoding one takes its place, and the last of all the place of that."""
        if index < self._decoding:
            self._forget_batch()
            self._decoding -= 1
            self._move(self._decoding, index)
            index = self._decoding
        self._move(len(self._rows) - 1, index)
        self._rows.pop()

    def _move(self, source: int, target: int) -> None:
        if source != target:
            row = self._rows[source]
            self._model.cache.copy_row(source, target, row.filled)
            self._rows[target] = row

    def _forget_batch(self) -> None:
        """What was prepared for the decoding rows no longer fits them."""
        self._positions = None
        self._sampler = None

    def _note_load(self) -> None:
        used = sum(row.filled for row in self._rows)
        unread = sum(row.remaining for row in self._rows[self._decoding :])
        self._load = Load(
            running=len(self._rows),
            queued=len(self._waiting),
            tokens_queued=unread + sum(len(sequence.prompt) for sequence in self._waiting),
            kv_usage=used / self._limits.positions,
        )


def _broken(logits: torch.Tensor) -> Collection[int]:
    """Rows of which some logit is NaN or infinitely large. One that is infinitely small is a token ruled out."""
    total = logits.sum(-1, dtype=torch.float32)
    found: list[int] = (total.isnan() | total.isposinf()).nonzero().flatten().tolist()
    return found


def _score_prompt(row: Row, filled: int, logits: torch.Tensor) -> None:
    """Note the candidates at the prompt's tokens; the logits of one token are about the next one."""
    found = row.sequence.prompt_candidates
    assert found is not None
    if not found:
        found.append(None)
    wanted = row.sequence.sampling.logprobs or 0
    following = row.sequence.prompt[filled + 1 : filled + 1 + logits.shape[0]]
    scores = logits.float().log_softmax(-1)
    found.extend(candidates_at(scores[index], token, wanted) for index, token in enumerate(following))
