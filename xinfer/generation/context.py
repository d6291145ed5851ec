"""How long a sequence may be, in tokens, by what a model's files say. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
STRETCHING = frozenset({"linear", "dynamic", "yarn"})
"""Ways to scale positions of which a factor says by how much. Of others the number of positions is the scaled one."""


def least(limits: Iterable[object]) -> int | None:
    """The smallest limit that is one: tokenizer files write an absurd number for "none"."""
    sane = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < 10**8]
    return min(sane, default=None)


def context_length(text: Mapping[str, Any]) -> int | None:
    """What a language model was made for, with the scaling of its positions."""
    own = least(text.get(key) for key in KEYS)
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    if not isinstance(scaling, dict) or any(isinstance(part, dict) for part in scaling.values()):
        return own  # some kinds of layers are scaled, others are not: the number says what they do together
    way, factor = str(scaling.get("rope_type") or scaling.get("type")), scaling.get("factor")
    if way not in STRETCHING or not isinstance(factor, int | float):
        return own
    before = least([scaling.get("original_max_position_embeddings") or text.get("original_max_position_embeddings")])
    if before:
        return max(own or 0, int(before * factor))
    # Where only the layers without a window are scaled, the published number is that of the whole model.
    windowed = text.get("sliding_window") and text.get("use_sliding_window") is not False
    return own if own is None or windowed else int(own * factor)
