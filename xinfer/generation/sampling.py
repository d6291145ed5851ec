"""How one sequence is continued: the sampling parameters, with every default filled in."""

import msgspec

LEAST_TEMPERATURE = 1e-5
"""Below this sampling is greedy: the division would overflow, and the choice is the same."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Sampling parameters of one sequence. The defaults change nothing: plain sampling from the model's distribution.

    Order of application: penalties and bias on the logits, then temperature, then top_k, top_p and min_p on the
    probabilities.
    """

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    min_p: float = 0.0
    """Drop tokens with less than this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Divides the score of tokens seen in the prompt or the answer."""
    presence_penalty: float = 0.0
    """Subtracted once from tokens seen in the answer."""
    frequency_penalty: float = 0.0
    """Subtracted from tokens of the answer, for each time they were seen."""
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    max_tokens: int
    min_tokens: int = 0
    """So many tokens come before anything may end the answer."""
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end the answer and are not shown."""
    logprobs: int | None = None
    """How many candidates to report per position beside the chosen one; ``None``: no log probabilities at all."""

    @property
    def is_greedy(self) -> bool:
        """The likeliest token is always chosen."""
        return self.temperature < LEAST_TEMPERATURE

    @property
    def has_penalties(self) -> bool:
        """What was seen so far changes the scores."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def edits_logits(self) -> bool:
        """Something is done to the scores before a token is chosen."""
        return self.has_penalties or bool(self.logit_bias) or bool(self.min_tokens and self.stop_ids)

    @property
    def is_plain(self) -> bool:
        """One argmax over the raw logits is all that is needed."""
        return self.is_greedy and self.logprobs is None and not self.edits_logits
