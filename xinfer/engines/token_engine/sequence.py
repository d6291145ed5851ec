"""One answer on its way: what the engine's thread continues, and what it reports."""

import random
import secrets
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from xinfer.engines.token_engine.constraint import Constraint
from xinfer.errors import EngineFailed, InvalidRequest, XinferError
from xinfer.generation.sampling import Sampling

BROKEN = -1
"""In place of a token: the model computed values that are no numbers."""


class Ending(StrEnum):
    """Why a sequence is complete, seen from the engine."""

    STOP = "stop"
    """Its last token is one that ends answers, and is not shown."""
    LENGTH = "length"
    """``max_tokens``, or the end of the context."""
    COMPLETE = "complete"
    """Its grammar lets nothing follow its last token, which is shown."""
    REFUSED = "refused"
    """It cannot go on; see ``Sequence.refusal``. Its last token means nothing."""

    @property
    def finish_reason(self) -> str:
        """The word on the wire."""
        return "length" if self is Ending.LENGTH else "stop"


class Candidates(NamedTuple):
    """Log probabilities at one position, before temperature and penalties: what the model itself thought."""

    chosen: float
    top: list[tuple[int, float]]
    """The likeliest tokens, best first."""


class Progress(NamedTuple):
    """One new token of one sequence."""

    sequence: "Sequence"
    token: int
    candidates: Candidates | None
    ending: Ending | None


class Receiver(Protocol):
    """Who waits for tokens. Its methods are called on the event loop only."""

    is_eager: bool
    """Tokens are wanted as they come; else it is enough to have them when their sequence ends. Does not change."""

    def receive(self, progress: Progress) -> None:
        """A new token."""

    def fail(self, error: BaseException) -> None:
        """There will be no more tokens."""


class Sequence:
    """One prompt and its continuation. The engine's thread owns ``generated`` until the sequence ends.

    Args:
        prompt: token ids; at least one.
        sampling: how to continue.
        receiver: who waits for the tokens.
        choice: the index of the answer in its request.
        group: sequences with the same group have the same prompt, and may share the work on it.
        adapter: weights that the runner knows and that change the model for this sequence; ``None``: nothing does.
        images: what the runner has to know about the images in the prompt; ``None``: there are none.
        constraint: what it may write, where that is not left to the model. A runner masks by it before it chooses.
        prompt_candidates: where to put the candidates at each prompt token, before the first new token is reported;
            ``None``: nobody asked for them.
    """

    __slots__ = (
        "adapter",
        "cached",
        "choice",
        "constraint",
        "generated",
        "group",
        "images",
        "prompt",
        "prompt_candidates",
        "random",
        "receiver",
        "refusal",
        "sampling",
        "state",
    )

    def __init__(
        self,
        prompt: list[int],
        sampling: Sampling,
        receiver: Receiver,
        *,
        choice: int = 0,
        group: object = None,
        adapter: Any = None,
        images: Any = None,
        constraint: Constraint | None = None,
        prompt_candidates: list[Candidates | None] | None = None,
    ) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.receiver = receiver
        self.choice = choice
        self.group = group
        self.adapter = adapter
        self.images = images
        self.constraint = constraint
        self.refusal: XinferError | None = None
        """Why it cannot go on."""
        self.generated: list[int] = []
        self.prompt_candidates = prompt_candidates
        # A generator of its own: what others sample at the same time changes nothing. Choices of one request with a
        # seed differ from each other, and come out the same every time.
        seed = secrets.randbits(64) if sampling.seed is None else (sampling.seed << 8) + choice
        self.random = random.Random(seed)  # noqa: S311 - sampling is no secret
        self.cached = 0
        """Tokens of the prompt that the runner did not have to read, because it knew them from another sequence."""
        self.state: Any = None
        """For the runner: what it keeps about this sequence."""

    def followed_by(self, token: int, candidates: Candidates | None) -> Progress:
        """Take over what was chosen; ``BROKEN`` refuses the sequence."""
        if token == BROKEN:
            self.refusal = EngineFailed("the model computed values that are no numbers (NaN or infinite)")
            return Progress(self, 0, None, Ending.REFUSED)
        self.generated.append(token)
        return Progress(self, token, candidates, self.ending_after(token))

    def ending_after(self, token: int) -> Ending | None:
        """Whether the answer is complete with this token, which is already in ``generated``.

        Runners ask once for every new token, in order: the constraint takes note of it here.
        """
        sampling = self.sampling
        if token in sampling.stop_ids and len(self.generated) > sampling.min_tokens:
            return Ending.STOP
        if self.constraint is not None:
            try:
                if self.constraint.accept(token):
                    return Ending.COMPLETE
            except InvalidRequest as error:
                self.refusal = error
                return Ending.REFUSED
        return Ending.LENGTH if len(self.generated) >= sampling.max_tokens else None
