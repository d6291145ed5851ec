"""The tokenizer of demo-chat: byte-level BPE, learned from the lessons, in the pipeline of Qwen2 and Qwen3.

The pipeline is Qwen's to the letter (normalizer, split, bytes), because llama.cpp knows it by the name `qwen2` and
transformers rebuilds it from the class name alone. Only the vocabulary is our own.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from demo.chat_lessons import LessonPlan, completion_examples, golden_examples
from demo.chat_template import END_OF_TEXT, TURN_END, TURN_START

VOCABULARY = 1024
_DRAWN_LESSONS = 2000
CONTROL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
"""Tokens that structure a conversation and never show in an answer."""

VISIBLE_TOKENS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
"""Tokens that do show in an answer, since parsers of reasoning and tool calls look for them."""

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer_of_lessons() -> Tokenizer:
    """Return the tokenizer of demo-chat, its merges learned from what the model will read and write."""
    plan = LessonPlan(seed=1)
    examples = golden_examples() + completion_examples() + [plan.draw() for _ in range(_DRAWN_LESSONS)]
    return train_chat_tokenizer(example.prompt() + example.completion() for example in examples)


def id_of(tokenizer: Tokenizer, token: str) -> int:
    """Return the number of a token that must be there."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise KeyError(token)
    return number


def train_chat_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Return a tokenizer whose merges come from `texts`, of exactly `VOCABULARY` tokens, the added ones last.

    Only plain ASCII is learned from: every other letter stays two to four tokens of one byte each, so that streams of
    this model do cut characters in half, as those of big models do.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    added = CONTROL_TOKENS + VISIBLE_TOKENS
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(added),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    lines = (line for text in texts for line in _without(text, added).splitlines(keepends=True) if line.isascii())
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in VISIBLE_TOKENS])
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the lessons fill only {tokenizer.get_vocab_size()} of {VOCABULARY} tokens")
    return tokenizer


def _without(text: str, tokens: Iterable[str]) -> str:
    """Return `text` with the added tokens replaced by line ends, so that no merge is learned from their letters."""
    for token in tokens:
        text = text.replace(token, "\n")
    return text
