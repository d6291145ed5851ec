"""What operators do: look after the devices, keep replicas off them, and move replicas away."""

import time
from collections.abc import Iterator

from xinfer.client.answers import ClusterStatus, CordonStatus, DeviceStatus, ReplicaProgress
from xinfer.client.connection import Connection, read
from xinfer.errors import XinferError

LOOK_S = 0.5
"""Between two looks at what is left to move, in seconds."""
ENDED = ("FAILED", "STOPPED")


class Upkeep:
    """The part of a Client that operators use.

    ``worker`` is its name, id, address or host; ``device`` its id, number or UUID, and without one the whole worker is
    meant. What is cordoned stays so until it is uncordoned, over every restart.
    """

    http: Connection

    def devices(self) -> list[DeviceStatus]:
        """Every device of every worker as its slices."""
        return read(self.http.call("GET", "/v1/cluster/devices"), list[DeviceStatus])

    def cordon(self, worker: str, device: str | int | None = None) -> CordonStatus:
        """Let it take nothing new; what runs there stays.

        Raises:
            NotFound: there is no such worker or device.
            Conflict: several workers are called so.
        """
        return self._say("cordon", worker, device)

    def uncordon(self, worker: str, device: str | int | None = None) -> CordonStatus:
        """Let it take replicas again.

        Raises:
            NotFound: there is no such worker or device.
            Conflict: several workers are called so.
        """
        return self._say("uncordon", worker, device)

    def drain(self, worker: str, device: str | int | None = None) -> CordonStatus:
        """Cordon it and have its replicas moved away, one after the other, each once another one serves in its stead.

        Raises:
            NotFound: there is no such worker or device.
            Conflict: several workers are called so.
        """
        return self._say("drain", worker, device)

    def follow_drain(self, target: CordonStatus) -> Iterator[tuple[ReplicaProgress, ...]]:
        """The replicas that are still there, again and again until none is; each with the reason why it is."""
        while left := self._left(target):
            yield left
            time.sleep(LOOK_S)
        yield ()

    def follow_devices(self) -> Iterator[tuple[list[DeviceStatus], str]]:
        """Every device of every worker, now and whenever something about them changes; for ever.

        While the server does not answer the last ones come again, with the reason why there are no newer ones.

        Raises:
            XinferError: it has not answered even once.
        """
        found = self.devices()
        yield found, ""
        trouble = ""
        while True:
            time.sleep(LOOK_S)
            before = (found, trouble)
            try:
                found, trouble = self.devices(), ""
            except XinferError as error:
                trouble = error.message
            if (found, trouble) != before:
                yield found, trouble

    def _say(self, verb: str, worker: str, device: str | int | None) -> CordonStatus:
        body = {"worker": worker, "device": device}
        return read(self.http.call("POST", f"/v1/cluster/{verb}", body=body), CordonStatus)

    def _left(self, target: CordonStatus) -> tuple[ReplicaProgress, ...]:
        cluster = read(self.http.call("GET", "/v1/cluster/info"), ClusterStatus)
        placed = {replica.replica_id: replica for model in cluster.models for replica in model.replicas}
        left = []
        for worker in cluster.workers:
            for replica in worker.replicas if worker.worker_id == target.worker_id else ():
                there = target.device is None or any(piece.device_id == target.device for piece in replica.devices)
                stays = placed.get(replica.replica_id)
                if stays is not None and stays.worker != worker.name:
                    stays = None  # it has another place already, and only ends here
                # A lost worker does not say what has ended.
                if there and replica.state not in ENDED and (worker.alive or stays):
                    left.append(stays or replica)
        return tuple(left)
