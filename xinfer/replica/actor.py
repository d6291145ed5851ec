"""What a worker can ask of a replica. A thin shell: the answers are in ``runtime``."""

import xoscar as xo

from xinfer.protocol import ReplicaView, StandingOrder
from xinfer.replica.runtime import Replica


class ReplicaActor(xo.StatelessActor):  # type: ignore[misc]  # xoscar ships no types
    """Every method names the instance it means: after a restart another process may answer at the same address.

    Raises:
        NotFound: (all methods) this process is another instance.
    """

    def __init__(self, replica: Replica) -> None:
        super().__init__()
        self._replica = replica

    async def watch(self, instance: str, version: int, timeout_s: float) -> ReplicaView:
        """The view as soon as it is newer than ``version``, or after ``timeout_s`` seconds as it is then.

        Each call renews the lease: this is how a worker claims its replica.
        """
        return await self._replica.watch(instance, version, timeout_s)

    async def peek(self, instance: str) -> ReplicaView:
        """The view now; claims nothing."""
        return self._replica.peek(instance)

    async def follow(self, instance: str, order: StandingOrder) -> None:
        """Work by this order from now on; the view says how far it is."""
        self._replica.follow(instance, order)

    async def drain(self, instance: str, timeout_s: float) -> None:
        """Begin to end: refuse new calls, finish those in flight within ``timeout_s`` seconds, then exit."""
        self._replica.drain(instance, timeout_s)

    async def stop(self, instance: str) -> None:
        """Exit now; calls in flight are cut off."""
        self._replica.stop(instance)
