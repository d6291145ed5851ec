"""Does a model work with our cache? Shown by running it, since its configuration does not tell."""

import torch

from xinfer.engines.transformers.model import SlotModel
from xinfer.engines.transformers.shape import CacheShape
from xinfer.errors import LoadFailed

_LEAST_SIMILARITY = 0.99
_ROUNDING = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far logits may be apart that were computed in another order, relative to the largest of them."""


def check_cache(slots: SlotModel) -> None:
    """Read some tokens in one pass without a cache, and again in parts beside another row; the logits must agree.

    This also warms the model up, and shows how large keys and values are.

    Raises:
        LoadFailed: they do not agree, or the model does not run at all: it keeps a state that is not in our cache, or
            its attention has features that ours lacks.
    """
    name = type(slots.model).__name__
    try:
        with torch.inference_mode():
            at_once, in_parts = _both_ways(slots)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise LoadFailed(f"{name} does not run with the cache of this engine: {error}") from error
    if not torch.isfinite(at_once).all():
        raise LoadFailed(f"{name} computes numbers that are not finite; try another dtype")
    if not torch.nn.functional.cosine_similarity(at_once, in_parts, dim=0) > _LEAST_SIMILARITY:
        raise LoadFailed(
            f"{name} answers differently when it continues than when it reads all at once: it keeps more than keys and "
            "values, which this engine does not support"
        )


def native_fault(slots: SlotModel) -> str:
    """What is wrong with ``slots.native``: its logits, in parts and beside another row, must be the library's.

    Empty when nothing is.
    """
    try:
        with torch.inference_mode():
            library, native = _both_ways(slots)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        return f"it does not run natively: {error}"
    apart = float((library - native).abs().max() / library.abs().max())
    bound = rounding(slots)
    return "" if apart <= bound else f"its logits are {apart:.1e} from the library's, which is more than {bound:.0e}"


def rounding(slots: SlotModel) -> float:
    """How far logits may be apart, relative to the largest of them."""
    return _ROUNDING.get(slots.model.dtype, 0.0)


def _both_ways(slots: SlotModel) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits after the same tokens, read at once and in parts."""
    size, part = 8, 5
    slots.cache.resize(CacheShape(2, size + 1))
    tokens = (torch.arange(2 * (size + 1), device=slots.device) % slots.vocabulary_size).view(2, size + 1)
    one, other = tokens[:1, :size], tokens[1:]
    place = torch.arange(size + 1, device=slots.device)[None]
    at_once = slots.run_without_cache(one)[0, -1]
    slots.run(slice(1, 2), other[:, :size], place[:, :size], size, plain=True, keep=1)
    slots.run(slice(0, 1), one[:, :part], place[:, :part], part, plain=True, keep=1)
    slots.run(slice(0, 1), one[:, part:-1], place[:, part : size - 1], size - 1, plain=False, keep=1)
    last = torch.cat([one[:, -1:], other[:, -1:]])
    positions = torch.tensor([[size - 1], [size]], device=slots.device)
    in_parts = slots.run(slice(0, 2), last, positions, size + 1, plain=False, keep=1)[0, -1]
    return at_once.float(), in_parts.float()
