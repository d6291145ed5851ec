"""Embedding and rerank models on our own encoder. Results equal the library's to the rounding of float32."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from xinfer.engines.sentence_transformers.encoder import Batch, Encoder, Linear, Weights
from xinfer.engines.sentence_transformers.folder import DensePlan, EmbeddingPlan, NormalizePlan, NotNative, RerankPlan
from xinfer.engines.sentence_transformers.models import TakesBareQueries, Tokens
from xinfer.engines.sentence_transformers.tokenizing import TextTokenizer

_WORDS = "embeddings.word_embeddings.weight"

_DENSE_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": functional.relu,
    "GELU": functional.gelu,
    "Sigmoid": torch.sigmoid,
    "SiLU": functional.silu,
}


class NativeEmbedder:
    """Encoder, pooling, and what follows it."""

    packed = True

    def __init__(self, path: Path, plan: EmbeddingPlan, device: torch.device, dtype: torch.dtype | None) -> None:
        self._device = device
        weights, prefix = read_weights(path, device, dtype)
        self._encoder = Encoder(plan.encoder, weights, prefix)
        weights.finish([f"{prefix}pooler.", f"{prefix}embeddings.position_ids", "cls.", "lm_head."])
        self._poolings = [_POOLINGS[mode] for mode in plan.pooling.modes]
        self._steps = [
            normalize if isinstance(step, NormalizePlan) else _dense(path, step, device, self._encoder.dtype)
            for step in plan.steps
        ]
        self.tokenizer = TextTokenizer.from_plan(plan.tokenizer)
        self.max_length = plan.max_length
        self.vocabulary = self._encoder.vocabulary
        self.normalizes = bool(plan.steps) and isinstance(plan.steps[-1], NormalizePlan)

    def run(self, inputs: Sequence[Tokens]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """See ``Model.run``."""
        with torch.inference_mode():
            batch = Batch.of([ids for ids, _ in inputs], None, self._device)
            tokens = self._encoder(batch)
            x = torch.cat([pool(tokens, batch) for pool in self._poolings], dim=1)
            for step in self._steps:
                x = step(x)
            return as_array(x)


class NativeReranker(TakesBareQueries):
    """Encoder and classifier with one label: on the first token's vector a linear layer, tanh, a linear layer."""

    packed = True
    normalizes = False

    def __init__(self, path: Path, plan: RerankPlan, device: torch.device, dtype: torch.dtype | None) -> None:
        self._device = device
        weights, prefix = read_weights(path, device, dtype)
        self._encoder = Encoder(plan.encoder, weights, prefix)
        bert = plan.encoder.architecture == "bert"
        self._dense = weights.linear(f"{prefix}pooler.dense" if bert else "classifier.dense")
        self._score = weights.linear("classifier" if bert else "classifier.out_proj")
        weights.finish([f"{prefix}embeddings.position_ids"])
        self._sigmoid = plan.sigmoid
        self._uses_types = plan.tokenizer.types
        self.tokenizer = TextTokenizer.from_plan(plan.tokenizer)
        self.max_length = plan.max_length
        self.vocabulary = self._encoder.vocabulary

    def run(self, inputs: Sequence[Tokens]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """See ``Model.run``."""
        types = [kinds or [0] * len(ids) for ids, kinds in inputs] if self._uses_types else None
        with torch.inference_mode():
            batch = Batch.of([ids for ids, _ in inputs], types, self._device)
            first = self._encoder(batch)[batch.starts]
            score = self._score(torch.tanh(self._dense(first))).float()
            return as_array(torch.sigmoid(score) if self._sigmoid else score)


def read_weights(path: Path, device: torch.device, dtype: torch.dtype | None) -> tuple[Weights, str]:
    """The tensors of a folder, and what stands before the encoder's names in it (such as "bert.").

    Raises:
        NotNative: no weights, or no encoder in them.
    """
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(path):
        tensors |= load_file(file) if file.suffix == ".safetensors" else _unpickled(file)
    prefix = next((name.removesuffix(_WORDS) for name in tensors if name.endswith(_WORDS)), None)
    if prefix is None:
        raise NotNative("its weights have no encoder")
    return Weights(tensors, device, dtype or tensors[prefix + _WORDS].dtype), prefix


def _weight_files(path: Path) -> Iterable[Path]:
    """Those in safetensors, else those that PyTorch pickled."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index, single = path / f"{name}.index.json", path / name
        if index.is_file():
            return sorted({path / part for part in msgspec.json.decode(index.read_bytes())["weight_map"].values()})
        if single.is_file():
            return [single]
    raise NotNative("its weights are in none of the usual files")


def _unpickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickled file. ``weights_only``: whatever else it would call, it is not read."""
    tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return tensors


def as_array(x: Tensor) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """A tensor as numpy float32 on the CPU."""
    array: np.ndarray[Any, np.dtype[np.float32]] = x.float().cpu().numpy()
    return array


def normalize(x: Tensor) -> Tensor:
    """Rows of unit length."""
    return functional.normalize(x, p=2.0, dim=1)


def _dense(path: Path, plan: DensePlan, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    file = path / plan.folder / "model.safetensors"
    if not file.is_file():
        raise NotNative("the weights of a Dense module are not in safetensors")
    if plan.activation not in _DENSE_ACTIVATIONS:
        raise NotNative(f"a Dense module has the activation {plan.activation}")
    tensors = {name: tensor.to(device=device, dtype=dtype) for name, tensor in load_file(file).items()}
    linear = Linear(tensors["linear.weight"], tensors.get("linear.bias"))
    activation = _DENSE_ACTIVATIONS[plan.activation]
    return lambda x: activation(linear(x.to(dtype)))


def _sum(x: Tensor, batch: Batch) -> Tensor:
    """The sum of the tokens of each sequence, in float32."""
    rows = torch.arange(len(batch.lengths), device=x.device).repeat_interleave(batch.lengths, output_size=len(x))
    total = x.new_zeros((len(batch.lengths), x.shape[1]), dtype=torch.float32)
    return total.index_add_(0, rows, x.float())


def _max(x: Tensor, batch: Batch) -> Tensor:
    return torch.stack([part.amax(0) for part in x.split(batch.lengths.tolist())])


def _weighted_mean(x: Tensor, batch: Batch) -> Tensor:
    weights = (batch.positions + 1)[:, None].float()
    return _sum(x.float() * weights, batch) / _sum(weights, batch)


_POOLINGS: Mapping[str, Callable[[Tensor, Batch], Tensor]] = {
    "cls": lambda x, batch: x[batch.starts],
    "lasttoken": lambda x, batch: x[batch.starts + batch.lengths - 1],
    "max": _max,
    "mean": lambda x, batch: _sum(x, batch) / batch.lengths[:, None],
    "mean_sqrt_len_tokens": lambda x, batch: _sum(x, batch) / batch.lengths[:, None].sqrt(),
    "weightedmean": _weighted_mean,
}
