"""What demo-embed and demo-rerank share: a small BERT, and a WordPiece tokenizer learned from the corpus."""

from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BatchEncoding, BertConfig, BertTokenizer

VOCABULARY = 768
LONGEST_TEXT = 256
_UNKNOWN = "[UNK]"
_SPECIAL_TOKENS = ["[PAD]", _UNKNOWN, "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_MARKS = ".,:;!?'\"()-+*/=%&#@"


def train_retrieval_tokenizer(texts: Iterable[str]) -> BertTokenizer:
    """Return a BERT tokenizer with a vocabulary learned from `texts`; any other word falls apart into letters."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY,
        special_tokens=_SPECIAL_TOKENS + [f"##{letter}" for letter in _LETTERS],
        initial_alphabet=list(_LETTERS + _MARKS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return BertTokenizer(vocab=tokenizer.get_vocab(), model_max_length=LONGEST_TEXT)


def small_bert(tokenizer: BertTokenizer) -> BertConfig:
    """Return the shape of both models: two layers of two heads over 64 numbers a token."""
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=LONGEST_TEXT,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )


def encode_texts(tokenizer: BertTokenizer, *texts: Sequence[str]) -> BatchEncoding:
    """Return texts, or pairs of texts, as one padded batch of tensors."""
    return tokenizer(*(list(side) for side in texts), padding=True, truncation=True, return_tensors="pt")


def without_some_words(text: str, chance: float, seed: torch.Generator) -> str:
    """Return `text` with each word left out by `chance`, but never all of them: what makes a model read every word."""
    words = text.split(" ")
    draws = torch.rand(len(words), generator=seed).tolist()
    kept = [word for word, draw in zip(words, draws, strict=True) if draw >= chance]
    return " ".join(kept) or text
