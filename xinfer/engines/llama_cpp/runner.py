"""Continuous batching: a step decodes one token of each running sequence, and a chunk of prompts.

That is one batch, or one for each LoRA adapter that sequences have: the library computes a batch with one adapter.
"""

import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from xinfer.engines.base import Load
from xinfer.engines.llama_cpp.library import Batch, Context, LoraAdapter
from xinfer.engines.llama_cpp.pace import Pace
from xinfer.engines.llama_cpp.sampling import greedy_tokens, sampler_of, score_prompt
from xinfer.engines.llama_cpp.slots import Coming, Found, Slot, SlotTable, shares_of
from xinfer.engines.token_engine import BROKEN, Candidates, Progress, Sequence
from xinfer.errors import EngineFailed

if TYPE_CHECKING:
    from xinfer.engines.llama_cpp.vision import ImageEncoder

SCORED_CHUNK = 64
"""So many tokens of prompts are read at once where the logits of all of them are wanted: those take memory."""


class Waiting(NamedTuple):
    """A sequence without a slot. It may wait for a prompt that begins alike and is being read."""

    sequence: Sequence
    coming: Coming | None = None

    @property
    def is_due(self) -> bool:
        """What it waits for is there, or will never be."""
        if self.coming is None:
            return True
        leader, sequence, until = self.coming
        return leader.filled >= until or leader.sequence is not sequence


class Part(NamedTuple):
    """What a slot has in a batch: ``tokens``, of which the last ``size`` ask for logits.

    The first of those has the number ``first`` in the batch, and ``row`` in the logits.
    """

    slot: Slot
    tokens: int
    first: int
    row: int
    size: int


class LlamaRunner:
    """Implements ``token_engine.Runner``.

    Args:
        context: with one sequence for each slot.
        slots: the table of them.
        capacity: tokens of the cache, for the load report.
        pace: how many tokens of prompts are read per step.
        encoder: of images; ``None``: the model sees none.
    """

    def __init__(
        self, context: Context, slots: SlotTable, *, capacity: int, pace: Pace, encoder: "ImageEncoder | None" = None
    ) -> None:
        self._context = context
        self._batch = Batch(context.batch_size)
        self._slots = slots
        self._capacity = capacity
        self._pace = pace
        self._encoder = encoder
        self._waiting: deque[Waiting] = deque()
        self._reading: list[Slot] = []
        """Slots whose prompt is being read, in the order in which they came."""
        self._running: list[Slot] = []
        """Slots that are being continued."""
        self._gaps: list[Slot] = []
        """Slots in the batch whose tokens mean nothing."""
        self._is_full = False
        """A sequence had to give its slot back; until another one ends, nobody else gets in."""
        self._load = Load()
        self.tokens_decoded = 0
        """All that was ever computed: what sharing prefixes saves is missing here."""

    # --- the interface ---

    def add(self, sequence: Sequence) -> None:
        """Take a sequence; it waits until there is room."""
        self._waiting.append(Waiting(sequence))

    def discard(self, sequence: Sequence) -> None:
        """Drop a sequence that waits or runs; what was computed for it stays known."""
        for group in (self._running, self._reading):
            for slot in group:
                if slot.sequence is sequence:
                    group.remove(slot)
                    self._free(slot)
        self._waiting = deque(waiting for waiting in self._waiting if waiting.sequence is not sequence)
        self._note_load()

    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self._running or self._reading or self._waiting)

    def step(self) -> list[Progress]:
        """Let in who waits, read a chunk of prompts, and continue every running sequence by one token."""
        if self._waiting:
            self._admit()
        shares = self._shares() if self._reading else {}
        progress: list[Progress] = []
        for adapter in dict.fromkeys(_adapter(slot) for slot in self._slots.busy):
            self._context.use(adapter)
            progress += self._advance(self._decode(adapter, shares))
        if any(isinstance(item.sequence.refusal, EngineFailed) for item in progress):
            self._start_over()
        if self._encoder is not None:
            self._look(self._encoder)
        self._note_load()
        return progress

    def report(self) -> Load:
        """How it was after the last step."""
        return self._load

    # --- letting in ---

    def _admit(self) -> None:
        still: list[Waiting] = []
        while self._waiting and self._slots.has_room and not self._is_full:
            waiting = self._waiting.popleft()
            if not waiting.is_due:
                still.append(waiting)
                continue
            sequence = waiting.sequence
            # What was generated before the sequence lost its slot is read again like a prompt.
            tokens = sequence.prompt + sequence.generated
            for slot in self._slots.fading:
                slot.begins = self._context.first_position(slot.number)
            place = self._slots.place(
                tokens, anew=wants_scores(sequence), weights=_mark(sequence), images=sequence.images or ()
            )
            if isinstance(place, Coming):
                still.append(Waiting(sequence, place))
                continue
            self._occupy(place, sequence, tokens)
        self._waiting.extendleft(reversed(still))

    def _occupy(self, found: Found, sequence: Sequence, tokens: list[int]) -> None:
        if found.source is not found.slot:
            self._context.keep(found.slot.number, 0)  # in a cache that all share, a copy adds to what is there
            self._context.copy(found.source.number, found.slot.number)
        if sequence.prompt_candidates and wants_scores(sequence):
            sequence.prompt_candidates.clear()  # it had lost its slot while they were collected
        sequence.cached = max(sequence.cached, min(found.shared, len(sequence.prompt)))
        slot = self._slots.take(found, sequence, tokens, _mark(sequence))
        self._context.keep(slot.number, slot.position)
        self._reading.append(slot)

    def _free(self, slot: Slot) -> None:
        self._slots.free(slot)
        self._is_full = False

    def _make_room(self) -> None:
        """Forget what nobody uses; if there is nothing left of that, the youngest gives its slot back, and waits."""
        unused = self._slots.oldest_memory()
        if unused is not None:
            self._slots.forget(unused)
            self._context.keep(unused.number, 0)
            return
        if len(self._slots.busy) < 2:  # one alone has room for a whole context
            raise EngineFailed("llama.cpp has no room for a sequence that is alone in its cache")
        slot = max(self._slots.busy, key=_since)
        assert slot.sequence is not None
        self._waiting.appendleft(Waiting(slot.sequence))
        self._running = [other for other in self._running if other is not slot]
        self._reading = [other for other in self._reading if other is not slot]
        self._slots.free(slot)
        self._is_full = True

    def _start_over(self) -> None:
        """Some numbers in the cache are none: wipe it, and read again whatever is under way.

        They would spread to whoever has their places next: attention weighs what it must not see with zero, and zero
        times NaN is NaN.
        """
        for slot in sorted(self._slots.busy, key=_since, reverse=True):
            assert slot.sequence is not None
            self._waiting.appendleft(Waiting(slot.sequence))
            self._slots.free(slot)
        self._running, self._reading, self._is_full = [], [], False
        self._slots.forget_all()
        self._context.clear(wipe=True)

    # --- one batch ---

    def _decode(self, adapter: LoraAdapter | None, shares: Mapping[Slot, int]) -> list[Part]:
        """Compute what comes next of everybody with an adapter; says who had which part in it.

        Args:
            adapter: that the context uses.
            shares: how many tokens are read of each prompt in this step.
        """
        started = time.monotonic()
        parts = self._fill_batch(adapter, shares)
        while parts and not self._context.decode(self._batch):
            self._make_room()
            parts = self._fill_batch(adapter, shares)
        for slot in self._gaps:
            self._context.keep(slot.number, slot.position)
        self.tokens_decoded += sum(part.tokens for part in parts)
        self._pace.note(sum(shares.get(part.slot, 0) for part in parts), time.monotonic() - started)
        return parts

    def _fill_batch(self, adapter: LoraAdapter | None, shares: Mapping[Slot, int]) -> list[Part]:
        """Put the tokens into the batch, by the numbers of their slots; says whose they are."""
        slots = [slot for slot in self._slots.busy if shares.get(slot, 1) and _adapter(slot) is adapter]
        gaps = self._gaps = self._slots.gaps(slots)
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        outputs: list[int] = []
        parts: list[Part] = []
        row = 0
        for slot in sorted((*slots, *gaps), key=_number) if gaps else slots:
            share = shares.get(slot, 1)
            start, end = slot.filled, slot.filled + share
            wanted = 0 if slot in gaps else share if _is_scored(slot) else int(end == len(slot.tokens))
            tokens += slot.tokens[start:end] or [0]
            positions += range(slot.position, slot.position + share)
            sequences += [slot.number] * share
            outputs += [0] * (share - wanted) + [1] * wanted
            if slot not in gaps:
                parts.append(Part(slot, share, len(tokens) - wanted, row, wanted))
                row += wanted
        self._batch.fill(tokens, positions, sequences, outputs)
        return parts

    def _shares(self) -> dict[Slot, int]:
        """How many tokens of each prompt are read in this step."""
        # Every slot may have a token in the batch besides.
        budget = max(1, min(self._pace.tokens(alone=not self._running), self._batch.capacity - len(self._slots)))
        scored = SCORED_CHUNK
        wanted = []
        for slot in self._reading:
            if not _is_scored(slot):
                wanted.append(slot.readable)
                continue
            wanted.append(min(slot.readable, scored))
            scored -= wanted[-1]
        return dict(zip(self._reading, shares_of(wanted, budget), strict=True))

    def _look(self, encoder: "ImageEncoder") -> None:
        """Read one image at most, so that nobody waits for several."""
        slot = next((slot for slot in self._reading if slot.image is not None), None)
        if slot is None or slot.image is None:
            return
        span = slot.image
        self._context.use(_adapter(slot))
        while not encoder.read(self._context, span.picture, slot.position, slot.number):
            self._context.keep(slot.number, slot.position)
            self._make_room()
            if slot.sequence is None:
                return
        slot.filled = span.end
        self.tokens_decoded += span.tokens

    # --- what came out ---

    def _advance(self, parts: list[Part]) -> list[Progress]:
        for part in parts:
            part.slot.filled += part.tokens
        outputs = parts[-1].row + parts[-1].size if parts else 0
        if not outputs:
            return []
        logits = self._context.logits(outputs)
        for part in parts:
            sequence = part.slot.sequence
            if sequence is not None and wants_scores(sequence):
                score_prompt(sequence, part.slot.filled - part.size, logits[part.row : part.row + part.size])
        ready = [part for part in parts if not part.slot.remaining]
        chosen = self._choose(logits, ready)
        progress = [self._append(part.slot, *choice) for part, choice in zip(ready, chosen, strict=True)]
        self._sort(ready, progress)
        return progress

    def _choose(self, logits: Any, parts: list[Part]) -> list[tuple[int, Candidates | None]]:
        samplers = [sampler_of(part.slot.sequence) for part in parts if part.slot.sequence is not None]
        if all(sampler.is_plain for sampler in samplers) and len(parts) == len(logits):
            return [(token, None) for token in greedy_tokens(logits)]
        chosen: list[tuple[int, Candidates | None]] = []
        for part, sampler in zip(parts, samplers, strict=True):
            row = logits[part.row + part.size - 1]
            if sampler.is_plain:
                chosen.append((greedy_tokens(row[None])[0], None))
            else:
                chosen.append(sampler.choose(self._context, part.first + part.size - 1, row))
        return chosen

    @staticmethod
    def _append(slot: Slot, token: int, candidates: Candidates | None) -> Progress:
        sequence = slot.sequence
        assert sequence is not None
        progress = sequence.followed_by(token, candidates)
        if token != BROKEN:
            slot.tokens.append(token)
        return progress

    def _sort(self, ready: list[Part], progress: list[Progress]) -> None:
        """Free the slots of complete sequences; those whose prompt has been read run from now on."""
        for part, item in zip(ready, progress, strict=True):
            if item.ending is not None:
                self._free(part.slot)
        answered = {part.slot for part in ready}
        running = [slot for slot in self._running if slot not in answered]
        self._running = running + [part.slot for part in ready if part.slot.sequence is not None]
        if self._reading:
            self._reading = [slot for slot in self._reading if slot not in answered]

    def _note_load(self) -> None:
        slots = (*self._running, *self._reading)
        unread = sum(slot.remaining for slot in self._reading)
        self._load = Load(
            running=len(slots),
            queued=len(self._waiting),
            tokens_queued=unread + sum(len(waiting.sequence.prompt) for waiting in self._waiting),
            kv_usage=sum(slot.filled for slot in slots) / self._capacity,
        )


def _adapter(slot: Slot) -> LoraAdapter | None:
    """What changes the model for the sequence of a busy slot."""
    adapter: LoraAdapter | None = slot.sequence.adapter if slot.sequence is not None else None
    return adapter


def _mark(sequence: Sequence) -> object:
    """Stands for the adapter of a sequence."""
    return None if sequence.adapter is None else sequence.adapter.mark


def _number(slot: Slot) -> int:
    return slot.number


def _since(slot: Slot) -> int:
    return slot.since


def _is_scored(slot: Slot) -> bool:
    return slot.sequence is not None and wants_scores(slot.sequence)


def wants_scores(sequence: Sequence) -> bool:
    """The log probabilities of its prompt are asked for, and not known yet."""
    wanted = sequence.prompt_candidates
    return wanted is not None and len(wanted) < len(sequence.prompt)
