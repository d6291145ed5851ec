"""A request under way: its sequences, the tokens that arrived, and who waits for them."""

import asyncio

from xinfer.engines.token_engine.job import Job
from xinfer.engines.token_engine.sequence import Progress, Sequence
from xinfer.engines.token_engine.text import AnswerText, Piece
from xinfer.protocols.answers import Usage


class RunningRequest:
    """Receives the tokens of all sequences of one job. Belongs to the event loop."""

    def __init__(self, job: Job) -> None:
        self.sequences: list[Sequence] = []
        self._texts: list[AnswerText] = []
        for prompt, sampling in zip(job.prompts, job.samplings, strict=True):
            group = object()
            for _ in range(job.choices):
                choice = len(self.sequences)
                scores = job.prompt_candidates[choice] if job.prompt_candidates else None
                self._texts.append(job.new_text(prompt, sampling))
                self.sequences.append(
                    Sequence(
                        prompt.ids,
                        sampling,
                        self,
                        choice=choice,
                        group=group,
                        adapter=job.adapter,
                        images=prompt.images,
                        constraint=job.constraints.start() if job.constraints else None,
                        prompt_candidates=scores,
                    )
                )
        self._choices = job.choices
        self.is_eager = job.eager
        self._prompt_tokens = sum(len(prompt.ids) for prompt in job.prompts)
        self._arrived: list[Progress] = []
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._running = set(self.sequences)
        """Sequences that the engine's thread works on."""
        self._incomplete = len(self.sequences)
        """Choices whose text is not complete."""

    # --- called by the step loop ---

    def receive(self, progress: Progress) -> None:
        """A new token."""
        self._arrived.append(progress)
        if progress.ending is not None:
            self._running.discard(progress.sequence)
            self._error = self._error or progress.sequence.refusal
        if self._waiter is not None and (self.is_eager or not self._running):
            self._wake()

    def fail(self, error: BaseException) -> None:
        """There will be no more tokens."""
        self._error = error
        self._running.clear()
        self._wake()

    # --- called by the one who serves ---

    @property
    def is_open(self) -> bool:
        """Some choice is not complete."""
        return self._incomplete > 0

    async def next_pieces(self) -> list[tuple[int, Piece]]:
        """Wait for tokens (for all of them, when nobody reads along), and say what they add to which choice.

        Raises:
            EngineFailed: there will be no more.
        """
        if self._running and not (self.is_eager and self._arrived):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        arrived, self._arrived = self._arrived, []
        if len(self._texts) == 1:
            batches = {0: arrived}
        else:
            batches = {}
            for item in arrived:
                batches.setdefault(item.sequence.choice, []).append(item)
        pieces = []
        for choice, items in batches.items():
            text = self._texts[choice]
            if text.complete:
                continue
            piece = text.feed(items)
            self._incomplete -= text.complete
            if piece.finish is not None or not piece.is_empty:
                pieces.append((choice, piece))
        return pieces

    def superfluous(self) -> list[Sequence]:
        """Sequences whose text is complete while the engine's thread still continues them; each is told once."""
        if self._incomplete == len(self._texts) or not self._running:
            return []
        found = [sequence for sequence in self._running if self._texts[sequence.choice].complete]
        self._running.difference_update(found)
        return found

    def unfinished(self) -> list[Sequence]:
        """Sequences that the engine's thread still works on."""
        return list(self._running)

    def usage(self) -> Usage:
        """Tokens so far."""
        # A prompt counts once, whatever the number of choices, and so does what was known of it.
        cached = sum(sequence.cached for sequence in self.sequences[:: self._choices])
        thoughts = [text.thought_tokens for text in self._texts if text.thought_tokens is not None]
        return Usage(
            self._prompt_tokens,
            sum(text.tokens for text in self._texts),
            cached,
            reasoning_tokens=sum(thoughts) if thoughts else None,
        )

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._waiter = None
