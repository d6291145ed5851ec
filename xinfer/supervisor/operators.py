"""What operators may do to workers and devices: keep new replicas off them, and empty them.

A target is named as people know it: a worker by its name, id, address or host, a device by its id, number or UUID.
"""

from collections.abc import Iterable

from xinfer.devices import Device
from xinfer.errors import Conflict, NotFound
from xinfer.protocol import Cordon
from xinfer.supervisor.capacity import answers_to, worker_names
from xinfer.supervisor.cluster import Cluster
from xinfer.supervisor.events import Target
from xinfer.supervisor.shell import Shell


class ForOperators:
    """The operators' verbs. What they say is durable, and holds for a worker that comes back too."""

    _shell: Shell

    async def cordon(self, worker: str, device: str, drain: bool) -> Cordon:
        """Let a worker, or one of its devices, take nothing new; with ``drain`` what runs there is moved away as well.

        Without ``drain``, a drain that is under way ends: what still runs there stays.

        Raises:
            NotFound: there is no such worker or device.
            Conflict: several workers are called so.
        """
        shell = self._shell
        await shell.settled()

        def wanted() -> Cordon:
            worker_id, device_id = target(shell.cluster, worker, device)
            return Cordon(worker_id=worker_id, device_id=device_id, drain=drain, since=shell.clock())

        return await shell.cordon(wanted)

    async def uncordon(self, worker: str, device: str) -> Target:
        """Let it take replicas again. A device of a worker that is cordoned as a whole waits for that one too.

        Raises:
            NotFound: there is no such worker or device.
            Conflict: several workers are called so.
        """
        shell = self._shell
        await shell.settled()
        return await shell.uncordon(lambda: target(shell.cluster, worker, device))


def target(cluster: Cluster, worker: str, device: str = "") -> Target:
    """What an operator means. What is cordoned is found by its id even when it is not there.

    Raises:
        NotFound: there is no such worker or device.
        Conflict: several workers are called so.
    """
    worker_id = _worker_id(cluster, worker)
    if not device:
        return worker_id, ""
    record = cluster.workers.get(worker_id)
    devices = record.hello.devices if record else ()
    for one in devices:
        if device in (one.device_id, one.uuid):
            return worker_id, one.device_id
    numbered = [one.device_id for one in devices if device == str(one.index) and one.kind != "cpu"]
    if len(numbered) == 1:
        return worker_id, numbered[0]
    if (worker_id, device) in cluster.cordons:
        return worker_id, device
    raise NotFound(f"worker {worker!r} has no device {device!r}; it has: {_names(devices)}", param="device")


def _worker_id(cluster: Cluster, worker: str) -> str:
    hellos = [record.hello for record in cluster.workers.values()]
    found = [hello for hello in hellos if answers_to(hello, worker)]
    if len(found) > 1:
        raise Conflict(
            f"several workers are called {worker!r}; say which by its address: {worker_names(found)}", param="worker"
        )
    if found:
        return found[0].worker_id
    if any(worker_id == worker for worker_id, _ in cluster.cordons):
        return worker
    raise NotFound(f"no worker is called {worker!r}; there are: {worker_names(hellos)}", param="worker")


def _names(devices: Iterable[Device]) -> str:
    return ", ".join(device.device_id for device in devices) or "none"
