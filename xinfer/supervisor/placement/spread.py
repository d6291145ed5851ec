"""The emptiest worker, and its emptiest devices: replicas disturb each other least, and one lost worker takes few."""

from xinfer.spec import Policy
from xinfer.supervisor.placement.base import ByScore

POLICY = ByScore("spread", Policy.SPREAD, Policy.SPREAD)
