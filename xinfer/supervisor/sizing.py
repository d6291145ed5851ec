"""How much memory a replica will need, where the launch does not say."""

import math

from xinfer.spec import Deployment, Format

WEIGHTS_FACTOR = 1.2
"""Weights as loaded, plus activations and caches, relative to the weights on disk."""
PROCESS_MIB = 768
"""A Python process with a deep-learning library in it, before any weights."""
BARE_PROCESS_MIB = 192
"""A Python process that loads no weights."""


def memory_mib(deployment: Deployment) -> int:
    """MiB that one replica needs on each of its devices: what was asked for, else an estimate."""
    request, spec = deployment.request, deployment.spec
    if request.memory_mib is not None:
        return request.memory_mib
    if spec.format is Format.NONE:
        return BARE_PROCESS_MIB
    return math.ceil(spec.weights_mib * WEIGHTS_FACTOR / max(1, request.devices)) + PROCESS_MIB
