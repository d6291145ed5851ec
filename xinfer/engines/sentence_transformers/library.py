"""Every other embedding and rerank model, run by the sentence-transformers library.

Only the modules' forward pass is the library's. Inputs are tokenised, batched and padded here, as for native models;
on loading, the library's own preprocessing must give the same ids, or the model is refused.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer
from transformers.utils import logging as transformers_logging

from xinfer.engines.sentence_transformers.folder import UNBOUNDED, ModelFolder
from xinfer.engines.sentence_transformers.models import TakesBareQueries, Tokens, pick_dtype
from xinfer.engines.sentence_transformers.native import as_array, normalize
from xinfer.engines.sentence_transformers.options import Options
from xinfer.engines.sentence_transformers.tokenizing import TextTokenizer
from xinfer.engines.transformers_library import rotates_by_length

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

_PROBE = "A probe of the tokenizer: does it give what the library gives?"
_SHORT_PROBE = "A probe of"
_PADDING_CHANGES = {torch.float32: 1e-3}
_PADDING_CHANGES_HALF = 5e-2
"""How far results may be apart beside a longer input and alone, relative to the largest number in them."""


class _LibraryModel(ABC):
    """What both kinds share: the tokenizer of the first module, and padded features."""

    packed = False

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model.eval()
        self._device = device
        tokenizer: Any = getattr(model, "tokenizer", None)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(f"models that start with a module {type(model[0]).__name__} are not supported")
        self._hf_tokenizer = tokenizer
        self.tokenizer = TextTokenizer(Tokenizer.from_str(backend.to_str()), tokenizer.truncation_side)
        self.max_length = int(min(model.max_seq_length or UNBOUNDED, UNBOUNDED))
        self.vocabulary = len(tokenizer)
        self._may_pad = True

    @abstractmethod
    def forward(self, inputs: Sequence[Tokens]) -> torch.Tensor:
        """Inputs x dimensions, or x 1; shorter inputs are padded."""

    def run(self, inputs: Sequence[Tokens]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """See ``Model.run``."""
        with torch.inference_mode():
            if self._may_pad:
                return as_array(self.forward(inputs))
            places: dict[int, list[int]] = {}
            for place, (ids, _) in enumerate(inputs):
                places.setdefault(len(ids), []).append(place)
            parts = [self.forward([inputs[place] for place in alike]) for alike in places.values()]
            order = torch.tensor([place for alike in places.values() for place in alike]).argsort()
            return as_array(torch.cat(parts)[order.to(self._device)])

    def try_padding(self, short: Tokens, long: Tokens) -> None:
        """Find out whether an input beside a longer one is what it is alone.

        Some architectures (ConvBERT, Nystromformer) look at padding like at text, others at how long a batch is.
        """
        with torch.inference_mode():
            alone, beside = self.forward([short])[0].float(), self.forward([short, long])[0].float()
        dtype = next(self._model.parameters()).dtype
        bound = _PADDING_CHANGES.get(dtype, _PADDING_CHANGES_HALF) * float(alone.abs().max())
        self._may_pad = float((alone - beside).abs().max()) <= bound and not any(
            map(rotates_by_length, self._model.modules())
        )
        if not self._may_pad:
            logger.warning("neighbours change what this model computes: only inputs of equal length run together")

    def check(self, probe: Any, ids: list[int]) -> None:
        """Refuse a model whose inputs the library builds in another way (a chat template, a prefix)."""
        if self._model.preprocess([probe])["input_ids"].tolist() != [ids]:
            raise ValueError("the model builds its inputs in its own way, which is not supported")

    def features(self, inputs: Sequence[Tokens]) -> dict[str, torch.Tensor]:
        """The inputs as the model's first module wants them."""
        names = self._hf_tokenizer.model_input_names
        encoded = {"input_ids": [ids for ids, _ in inputs], "attention_mask": [[1] * len(ids) for ids, _ in inputs]}
        if "token_type_ids" in names:
            encoded["token_type_ids"] = [types or [0] * len(ids) for ids, types in inputs]
        fills = {"input_ids": self._hf_tokenizer.pad_token_id or 0}
        longest = max(len(ids) for ids, _ in inputs)
        left = self._hf_tokenizer.padding_side == "left"
        return {
            name: _padded(rows, longest, fills.get(name, 0), left=left).to(self._device)
            for name, rows in encoded.items()
        }


def _padded(rows: Sequence[list[int]], length: int, fill: int, *, left: bool) -> torch.Tensor:
    gaps = [[fill] * (length - len(row)) for row in rows]
    return torch.tensor([gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)])


class LibraryEmbedder(_LibraryModel):
    """A SentenceTransformer."""

    def __init__(self, folder: ModelFolder, options: Options, device: torch.device, prompt: str) -> None:
        model = SentenceTransformer(str(folder.path), **_arguments(options, device))
        poolings = [module for module in model if isinstance(module, Pooling)]
        if prompt and not all(pooling.include_prompt for pooling in poolings):
            raise ValueError("models that leave the prompt out of the pooling are not supported with a prompt")
        if options.pooling:
            for pooling in poolings:
                pooling.pooling_mode = options.pooling
        self.normalizes = isinstance(model[-1], Normalize) if options.normalize is None else options.normalize
        if options.normalize is False and isinstance(model[-1], Normalize):
            del model[-1]
        super().__init__(model, device)
        short, probe = self.tokenizer.texts([_SHORT_PROBE, _PROBE], self.max_length)
        self.check(_PROBE, probe)
        self.try_padding((short, None), (probe, None))

    def forward(self, inputs: Sequence[Tokens]) -> torch.Tensor:
        """See ``_LibraryModel``."""
        x: torch.Tensor = self._model(self.features(inputs))["sentence_embedding"]
        return normalize(x) if self.normalizes else x


class LibraryReranker(TakesBareQueries, _LibraryModel):
    """A CrossEncoder with one label."""

    normalizes = False

    def __init__(self, folder: ModelFolder, options: Options, device: torch.device, prompt: str) -> None:
        model = CrossEncoder(str(folder.path), **_arguments(options, device))
        if model.num_labels != 1:
            raise ValueError(f"the model has {model.num_labels} labels; reranking needs one with a single score")
        if prompt:
            raise ValueError("rerank models with a prompt are not supported")
        super().__init__(model, device)
        self._activation = model.activation_fn
        short, probe = self.tokenizer.pairs([(_SHORT_PROBE, _SHORT_PROBE), (_PROBE, _PROBE)], self.max_length)
        self.check((_PROBE, _PROBE), probe[0])
        self.try_padding(short, probe)

    def forward(self, inputs: Sequence[Tokens]) -> torch.Tensor:
        """See ``_LibraryModel``."""
        scores = self._model(self.features(inputs))["scores"].float()
        scored: torch.Tensor = self._activation(scores).view(len(inputs), 1)
        return scored


def _arguments(options: Options, device: torch.device) -> dict[str, Any]:
    transformers_logging.disable_progress_bar()
    return {
        "device": str(device),
        "trust_remote_code": options.trust_remote_code,
        "local_files_only": True,
        "model_kwargs": {"dtype": pick_dtype(options.dtype, device) or "auto"},
    }
