"""What batches a model of mlx-lm can be given, found out by trying: some give in company what they do not give alone.

Models that keep a running state may take padding for text, and a few cannot compute several sequences at once at all.
"""

import logging
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from xinfer.engines.mlx.batch import read_together
from xinfer.errors import describe

logger = logging.getLogger(__name__)

SHORT, LONG = [1, 0, 0, 1, 1, 1, 0, 1], [1, 0] * 24
"""Prompts, in tokens that every model has."""
SEVERAL = (2, 3)
"""Sequences at once: a mask that is meant for heads fits where there happen to be as many of these."""
ROUNDING = 0.02
"""Logits that differ by no more than this share of what they are may do so because of the order of sums."""


def batches(model: Any) -> bool:
    """Whether it can continue several sequences at once."""
    return _works(model, lambda: all(len(_continued(model, [LONG] * count)) == count for count in SEVERAL))


def pads(model: Any) -> bool:
    """Whether it reads prompts of different lengths together, and what fills up the shorter ones changes nothing."""
    return _works(model, lambda: _ignores_padding(model))


def _ignores_padding(model: Any) -> bool:
    alone = _continued(model, [SHORT])
    one, other = (_continued(model, [SHORT, LONG], padding)[:1] for padding in (0, 1))
    return _differ(one, other) == 0 and _differ(one, alone) <= ROUNDING


def _continued(model: Any, prompts: list[list[int]], padding: int = 0) -> mx.array:
    """The logits behind one more token of each prompt."""
    states = read_together(model, prompts, padding)
    logits = model(mx.array([[1]] * len(prompts)), cache=states)[:, -1].astype(mx.float32)
    mx.eval(logits)
    return logits


def _differ(one: mx.array, other: mx.array) -> float:
    """By how much, as a share of the spread of the one."""
    return float(mx.linalg.norm(one - other) / mx.linalg.norm(one - one.mean()))


def _works(model: Any, attempt: Callable[[], bool]) -> bool:
    try:
        return attempt()
    except (ValueError, RuntimeError) as error:  # what mlx raises where shapes do not fit
        logger.info("%s: %s", type(model).__module__, describe(error))
        return False
