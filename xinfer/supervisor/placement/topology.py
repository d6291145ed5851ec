"""The emptiest worker, and there the devices with the fastest links: for replicas that run on several devices."""

from xinfer.spec import Policy
from xinfer.supervisor.placement.base import ByScore

POLICY = ByScore("topology", Policy.SPREAD, Policy.TOPOLOGY)
