"""Replicas that wait for their Python: it is found at once, or its environment is built first."""

import asyncio
import logging
from collections.abc import Callable

from xinfer.errors import XinferError, describe
from xinfer.protocol import ReplicaView
from xinfer.spec import Deployment, ReplicaState
from xinfer.worker.environments.pythons import HeldPython, ReplicaPythons
from xinfer.worker.events import Ended, Event, Prepared, Seen

log = logging.getLogger(__name__)


class Preparations:
    """Each that is begun ends with a call of its ``start``, or with an event: ``Prepared`` or ``Ended``."""

    def __init__(self, pythons: ReplicaPythons, post: Callable[[Event], None]) -> None:
        self._pythons = pythons
        self._post = post
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """By the instance that waits."""

    def begin(self, instance: str, deployment: Deployment, start: Callable[[HeldPython], None]) -> None:
        """Start an instance with its Python, right now if that is there."""
        try:
            python = self._pythons.ready(deployment)
        except (XinferError, OSError) as error:
            self._post(Ended(instance, describe(error), load_error=True))
            return
        if python is not None:
            start(python)
        else:
            self._tasks[instance] = asyncio.create_task(self._wait(instance, deployment))

    def cancel(self, instance: str) -> bool:
        """Give one up; False: it does not wait. A build that nobody else waits for is ended."""
        task = self._tasks.pop(instance, None)
        if task is None:
            return False
        task.cancel()
        self._post(Ended(instance, "it was not wanted any more before its environment was built"))
        return True

    async def close(self) -> None:
        """Give all of them up, without a word."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(self, instance: str, deployment: Deployment) -> None:
        def show(stage: str, fraction: float) -> None:
            view = ReplicaView(
                instance=instance,
                version=0,
                state=ReplicaState.DOWNLOADING,
                stage=f"building the environment of {deployment.engine}: {stage}",
                progress=round(fraction, 3),
            )
            self._post(Seen("", view))

        try:
            (await self._pythons.built(deployment, show)).release()
        except (XinferError, OSError) as error:
            log.warning("no Python for %s: %s", deployment.model_uid, describe(error))
            del self._tasks[instance]
            self._post(Ended(instance, describe(error), load_error=True))
            return
        # Building took its time: others may be starting on its devices by now, so it takes its turn.
        del self._tasks[instance]
        self._post(Prepared(instance))
