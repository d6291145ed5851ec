"""LoRA adapters on ``NativeDecoder``: read from peft's files, and added to the rows of a batch that have them.

A row's projection becomes W x + B (A x). Matrices that the decoder has on top of each other (queries, keys and values)
get theirs side by side, so that one pair of products adds to all of them.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from xinfer.errors import LoadFailed
from xinfer.spec import Adapter

PARTS: Mapping[str, tuple[str, ...]] = {
    "queries_keys_values": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention_out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The matrices of the decoder, and the modules of the library that are in each, from top to bottom."""
_TENSOR = re.compile(
    r"(?:(?:base_model|language_model|model)\.)*layers\.(\d+)\.(.+)\.lora_([AB])\.(?:default\.)?weight"
)
_UNSUPPORTED = ("use_dora", "lora_bias", "modules_to_save", "layer_replication", "trainable_token_indices")

_OF_OTHER_WEIGHTS = ("pissa", "olora", "corda", "loftq")
"""Ways to begin a training that change the model's own weights, which are not in the adapter."""

Place = tuple[int, str]
"""A layer, and a key of ``PARTS``."""


class Pair(NamedTuple):
    """``x @ down @ up`` is what is added to a projection of ``x``. [inputs, rank] and [rank, outputs]."""

    down: Tensor
    up: Tensor


class AdapterWeights:
    """One adapter, made ready for one model. Where it changes nothing, it has no pair."""

    def __init__(self, pairs: Mapping[Place, Pair]) -> None:
        self.pairs = pairs


def read_adapter(adapter: Adapter, model: Any) -> AdapterWeights:
    """Read an adapter for a model of the library that ``NativeDecoder`` runs.

    Raises:
        LoadFailed: it changes what this engine cannot change, or is not for this model; says what.
    """
    folder = Path(adapter.path)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    for feature in _UNSUPPORTED:
        if config.get(feature):
            raise LoadFailed(f"adapter {adapter.name!r} uses {feature}, which this engine does not support")
    begun = str(config.get("init_lora_weights", "")).lower()
    if begun.startswith(_OF_OTHER_WEIGHTS):
        raise LoadFailed(f"adapter {adapter.name!r} began as {begun}, which changed the model too; convert it to LoRA")
    found: dict[tuple[int, str], dict[str, Tensor]] = {}
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise LoadFailed(f"adapter {adapter.name!r} has the tensor {name}, which this engine does not support")
        if not tensor.isfinite().all():
            raise LoadFailed(f"adapter {adapter.name!r} has values in {name} that are no numbers (NaN or infinite)")
        found.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    try:
        scales = _Scales(config)
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise LoadFailed(f"adapter {adapter.name!r} has an adapter_config.json that is wrong: {error}") from error
    layers = model.model.layers
    pairs: dict[Place, Pair] = {}
    for place in _places(found, len(layers), adapter.name):
        pairs[place] = _pair(place, found, layers[place[0]], scales, adapter.name)
    return AdapterWeights({place: Pair(*_like(pair, layers[0].mlp.up_proj.weight)) for place, pair in pairs.items()})


def _places(found: Iterable[tuple[int, str]], layers: int, name: str) -> set[Place]:
    part_of = {module: part for part, modules in PARTS.items() for module in modules}
    places = set()
    for layer, module in found:
        if layer >= layers or module not in part_of:
            raise LoadFailed(f"adapter {name!r} changes layers.{layer}.{module}, which this model does not have")
        places.add((layer, part_of[module]))
    return places


def _pair(
    place: Place, found: Mapping[tuple[int, str], Mapping[str, Tensor]], layer: Any, scales: "_Scales", name: str
) -> Pair:
    """The modules of one matrix side by side: their A's on top of each other, their B's on a diagonal."""
    index, part = place
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    for module in PARTS[part]:
        own = layer.get_submodule(module)
        both = found.get((index, module))
        if both is None:
            ups.append(torch.zeros(own.out_features, 0))
            continue
        down, up = both.get("A"), both.get("B")
        if down is None or up is None or (down.shape[1], up.shape[0]) != (own.in_features, own.out_features):
            raise LoadFailed(
                f"adapter {name!r} is not for this model: layers.{index}.{module} is "
                f"{own.out_features} x {own.in_features} there"
            )
        downs.append(down.float())
        ups.append(up.float() * scales.of(f"layers.{index}.{module}", len(down)))
    return Pair(torch.cat(downs).t(), torch.block_diag(*ups).t())


def _like(pair: Pair, weight: Tensor) -> tuple[Tensor, Tensor]:
    return pair.down.to(weight).contiguous(), pair.up.to(weight).contiguous()


class _Scales:
    """By what B A is multiplied: alpha over the rank, and what a module has of its own."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._alpha = float(config.get("lora_alpha", 8))
        patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
        self._own = {re.compile(rf"(.*\.)?({ending})"): float(alpha) for ending, alpha in patterns.items()}
        self._by_root = bool(config.get("use_rslora"))

    def of(self, module: str, rank: int) -> float:
        """For a module; the first pattern that its name ends with counts."""
        alpha = next((alpha for pattern, alpha in self._own.items() if pattern.fullmatch(module)), self._alpha)
        return alpha / (math.sqrt(rank) if self._by_root else rank)


class _Group(NamedTuple):
    weights: AdapterWeights
    rows: Tensor | None
    """Which rows have it; None: all."""


class AdapterBatch:
    """Which rows of a batch have which adapter. ``None`` in ``of`` means that no row has one."""

    def __init__(self, groups: Sequence[_Group], rows: int) -> None:
        self._groups = groups
        self._rows = rows

    @classmethod
    def of(cls, rows: Sequence[AdapterWeights | None], device: torch.device) -> "AdapterBatch | None":
        """For rows with these adapters, in their order."""
        members: dict[AdapterWeights, list[int]] = {}
        for index, weights in enumerate(rows):
            if weights is not None:
                members.setdefault(weights, []).append(index)
        if not members:
            return None
        groups = [
            _Group(weights, None if len(own) == len(rows) else torch.tensor(own, device=device))
            for weights, own in members.items()
        ]
        return cls(groups, len(rows))

    def add(self, place: Place, x: Tensor, projected: Tensor) -> None:
        """Add to the projections of ``x`` what each row's adapter adds there. Both are [rows * tokens, values]."""
        for group in self._groups:
            pair = group.weights.pairs.get(place)
            if pair is None:
                continue
            if group.rows is None:
                projected.addmm_(x @ pair.down, pair.up)
                continue
            own = x.view(self._rows, -1, x.shape[-1])[group.rows]
            whole = projected.view(self._rows, -1, projected.shape[-1])
            whole.index_add_(0, group.rows, own @ pair.down @ pair.up)
