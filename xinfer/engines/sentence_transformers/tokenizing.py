"""Text to token ids with the ``tokenizers`` library, in batches. Used from the worker's thread only."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence

from xinfer.engines.sentence_transformers.folder import TokenizerPlan


class TextTokenizer:
    """Encodes texts and pairs of texts, with special tokens and without padding."""

    def __init__(self, tokenizer: Tokenizer, truncation_side: str = "right") -> None:
        self._tokenizer = tokenizer
        self._truncation_side = truncation_side
        self._limit: int | None = None
        tokenizer.no_truncation()
        tokenizer.no_padding()

    @classmethod
    def from_plan(cls, plan: TokenizerPlan) -> "TextTokenizer":
        """Read tokenizer.json."""
        tokenizer = Tokenizer.from_file(str(plan.path))
        if plan.lower_case:
            present = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
            tokenizer.normalizer = NormalizerSequence([Lowercase(), *present])
        return cls(tokenizer, plan.truncation_side)

    def own_tokens(self, *, pair: bool) -> int:
        """How many tokens it puts around a text, or around and between two of them."""
        return self._tokenizer.num_special_tokens_to_add(pair)

    def texts(self, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
        """The ids of each text, cut to ``limit`` tokens when it is given."""
        self._truncate_to(limit)
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]

    def pairs(self, pairs: Sequence[tuple[str, str]], limit: int) -> list[tuple[list[int], list[int] | None]]:
        """The ids and type ids of each pair, the longer side cut until both are ``limit`` tokens at most."""
        self._truncate_to(limit)
        return [(encoding.ids, encoding.type_ids) for encoding in self._tokenizer.encode_batch_fast(pairs)]

    def _truncate_to(self, limit: int | None) -> None:
        if limit == self._limit:
            return
        if limit is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(limit, strategy="longest_first", direction=self._truncation_side)
        self._limit = limit
