"""The fullest worker that fits, and its fullest devices: what is left free stays in large pieces."""

from xinfer.spec import Policy
from xinfer.supervisor.placement.base import ByScore

POLICY = ByScore("binpack", Policy.BINPACK, Policy.BINPACK)
