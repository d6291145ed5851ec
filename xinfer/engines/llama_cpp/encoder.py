"""Texts to vectors or scores with a GGUF model: many sequences in one batch, each with a result of its own."""

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as c
import numpy as np

from xinfer.devices import Grant
from xinfer.engines.base import Progress
from xinfer.engines.llama_cpp.library import Batch, Context, Model
from xinfer.engines.llama_cpp.loading import offload_of, open_model, shared_settings
from xinfer.engines.llama_cpp.options import FOR_EMBEDDINGS, FOR_TEXT, LlamaCppOptions
from xinfer.engines.llama_cpp.tensors import has_tensor
from xinfer.engines.llama_cpp.tokenizer import LlamaTokenizer, tokenize
from xinfer.engines.token_engine import Shield
from xinfer.errors import LoadFailed
from xinfer.ops import Kind
from xinfer.spec import ModelSpec

logger = logging.getLogger(__name__)

LONGEST = 8192
"""The longest input where nobody says: some models were made for more, and the memory for it is taken at once."""

HEADS = ("cls.weight", "cls.output.weight")
"""The tensors that make scores. Without one the library gives numbers all the same, of which none is a score."""

_POOLING = {
    "mean": c.LLAMA_POOLING_TYPE_MEAN,
    "cls": c.LLAMA_POOLING_TYPE_CLS,
    "last": c.LLAMA_POOLING_TYPE_LAST,
}


class Encoder:
    """An embedding or rerank model.

    Args:
        spec: what to load.
        options: of the launch.
        grant: what may be used.
        progress: told about loading.

    Raises:
        LoadFailed: the model cannot be served, or it is not of the kind that it is said to be.
    """

    def __init__(self, spec: ModelSpec, options: LlamaCppOptions, grant: Grant, progress: Progress) -> None:
        path = Path(spec.source)
        unused = (*FOR_TEXT, *FOR_EMBEDDINGS) if spec.kind is Kind.RERANK else FOR_TEXT
        options.refuse(unused, f"{spec.name!r} is a model of type {spec.kind}")
        self._model = open_model(path, options, offload_of(path, options, grant), progress)
        self._scores = spec.kind is Kind.RERANK
        self._normalizes = options.normalize
        self.max_length = _longest(options, self._model.trained_context)
        self.batch_items = options.max_batch_items
        # The library prepares for a batch of equally long texts, and aborts where it cannot be divided so.
        self.batch_tokens = -(-max(options.n_ubatch, self.max_length) // self.batch_items) * self.batch_items
        self._context = Context(self._model, self._settings(options, grant))
        if self._context.pooling == c.LLAMA_POOLING_TYPE_NONE:
            raise LoadFailed(
                f"{spec.name!r} does not say how the vectors of tokens become one: give pooling_type=mean, cls or last"
            )
        if self._scores and not has_tensor(path, HEADS):
            raise LoadFailed(f"{path.name} has no head that scores, so it is no rerank model: launch it as what it is")
        if not self._scores and self._context.pooling == c.LLAMA_POOLING_TYPE_RANK:
            raise LoadFailed(
                f"{path.name} is a rerank model: launch it with model_type=rerank, or give pooling_type=mean, cls or "
                "last to have the vectors behind its scores"
            )
        if self._scores and int(self._model.metadata("tokenizer.ggml.token_type_count") or 1) > 1:
            logger.warning(
                "%s was trained with segment ids, which llama.cpp does not have: its scores may be off", spec.name
            )
        self._batch = Batch(self.batch_tokens)
        self._text_end = _end_of_texts(self._model)
        self._classes = int(c.llama_model_n_cls_out(self._model.pointer))
        self._pair_template = self._model.template("rerank") if self._scores else None
        self._shield = Shield(LlamaTokenizer(self._model).control_tokens())
        self.dimensions = int(c.llama_model_n_embd_out(self._model.pointer))

    @property
    def tokenizer(self) -> LlamaTokenizer:
        """The model's."""
        return LlamaTokenizer(self._model)

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below this."""
        return self._model.vocabulary_size

    @property
    def normalizes(self) -> bool:
        """Vectors have unit length."""
        return self._normalizes

    def text_ids(self, text: str, limit: int | None = None) -> list[int]:
        """The tokens of a text, with those that the model wants around it. What is written in it steers nothing.

        Args:
            text: any.
            limit: cut the text so that there are at most so many.
        """
        ids = tokenize(self._model, text, add_special=True, parse_special=False)
        if limit is None or len(ids) <= limit:
            return ids
        ends = self._text_end[-limit:] if limit else []
        return ids[: limit - len(ends)] + ends

    def query_tokens(self, query: str) -> int:
        """How many tokens a query takes, with all that is put around it and a document."""
        return len(self.pair_ids(query, "", sys.maxsize))

    def pair_ids(self, query: str, document: str, limit: int) -> list[int]:
        """The tokens of a query and a document, which is cut so that there are at most ``limit``."""
        if self._pair_template is not None:
            return self._templated(self._pair_template, query, document, limit)
        vocabulary = self._model.vocabulary
        begin, end = int(c.llama_vocab_bos(vocabulary)), int(c.llama_vocab_eos(vocabulary))
        separator = int(c.llama_vocab_sep(vocabulary))
        ends = [end if end >= 0 else separator] if c.llama_vocab_get_add_eos(vocabulary) else []
        ids = [begin] if c.llama_vocab_get_add_bos(vocabulary) else []
        ids += tokenize(self._model, query, add_special=False, parse_special=False) + ends
        if c.llama_vocab_get_add_sep(vocabulary):
            ids.append(separator)
        text = tokenize(self._model, document, add_special=False, parse_special=False)
        return ids + text[: max(0, limit - len(ids) - len(ends))] + ends

    def run(self, rows: Sequence[Sequence[int]]) -> list[Any]:
        """A vector for each row of tokens, or, of a rerank model, a score from 0 to 1."""
        self._context.clear()
        tokens = [token for row in rows for token in row]
        places = [place for row in rows for place in range(len(row))]
        owners = [number for number, row in enumerate(rows) for _ in row]
        self._batch.fill(tokens, places, owners, [1] * len(tokens))
        if not self._context.decode(self._batch):
            raise AssertionError("the context has room for a whole batch")
        if self._scores:
            return [self._score(self._context.pooled(number, self._classes)) for number in range(len(rows))]
        vectors = np.stack([self._context.pooled(number) for number in range(len(rows))])
        return list(unit(vectors) if self._normalizes else vectors)

    def _settings(self, options: LlamaCppOptions, grant: Grant) -> dict[str, Any]:
        pooling = _POOLING.get(options.pooling_type or "", c.LLAMA_POOLING_TYPE_UNSPECIFIED)
        return {
            **shared_settings(options, grant),
            "n_ctx": self.batch_tokens,
            "n_seq_max": self.batch_items,
            "n_batch": self.batch_tokens,
            "n_ubatch": self.batch_tokens,  # an encoder sees all of a text at once
            "embeddings": True,
            "pooling_type": c.LLAMA_POOLING_TYPE_RANK if self._scores else pooling,
            "kv_unified": True,
        }

    def _templated(self, template: str, query: str, document: str, limit: int) -> list[int]:
        (query, document), cut = self._shield.cut((query, document))
        head, _, tail = template.partition("{document}")
        head, tail = head.replace("{query}", query), tail.replace("{query}", query)
        ends = self._marked_ids(tail, cut)
        ids = self._marked_ids(head + document, cut)
        return ids[: limit - len(ends)] + ends

    def _marked_ids(self, text: str, cut: str) -> list[int]:
        parts = text.split(cut) if cut else [text]
        return [token for part in parts for token in tokenize(self._model, part, add_special=False, parse_special=True)]

    def _score(self, outputs: Any) -> float:
        """One output is a logit, as in every cross-encoder; several are probabilities, of relevance first."""
        value = float(outputs[0])
        return value if self._classes > 1 else 1 / (1 + math.exp(-max(value, -700.0)))


def unit(vectors: Any) -> Any:
    """Vectors in rows, of length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _end_of_texts(model: Model) -> list[int]:
    """What the model wants behind every text."""
    bare = tokenize(model, "a", add_special=False, parse_special=False)
    dressed = tokenize(model, "a", add_special=True, parse_special=False)
    for start in range(len(dressed) - len(bare), -1, -1):
        if dressed[start : start + len(bare)] == bare:
            return dressed[start + len(bare) :]
    return []


def _longest(options: LlamaCppOptions, trained: int) -> int:
    asked = options.sequence_tokens
    if asked is not None and asked > trained:
        raise LoadFailed(f"inputs of {asked} tokens were asked for, and the model was made for {trained}")
    return asked or min(trained, LONGEST)
