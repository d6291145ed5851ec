"""Replicas that wait for their Python and their weights: found at once, or built and downloaded first."""

import asyncio
import logging
from collections.abc import Callable

from xinfer.errors import XinferError, describe
from xinfer.protocol import FileProgress, ReplicaView
from xinfer.spec import Deployment, ReplicaState
from xinfer.worker.environments.pythons import HeldPython, ReplicaPythons
from xinfer.worker.events import Ended, Event, Prepared, Seen
from xinfer.worker.weights.held import HeldWeights, ReplicaWeights
from xinfer.worker.weights.progress import Progress

log = logging.getLogger(__name__)


class Preparations:
    """Each that is begun ends with a call of its ``start``, or with an event: ``Prepared`` or ``Ended``."""

    def __init__(self, pythons: ReplicaPythons, weights: ReplicaWeights, post: Callable[[Event], None]) -> None:
        self._pythons = pythons
        self._weights = weights
        self._post = post
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """By the instance that waits."""

    def begin(self, instance: str, deployment: Deployment, start: Callable[[HeldPython, HeldWeights], None]) -> None:
        """Start an instance with its Python and its weights, right now if they are there."""
        python = None
        try:
            python = self._pythons.ready(deployment)
            weights = self._weights.ready(deployment)
        except (XinferError, OSError) as error:
            _release(python)
            self._post(Ended(instance, describe(error), load_error=True))
            return
        if python is not None and weights is not None:
            start(python, weights)
            return
        _release(python, weights)
        self._tasks[instance] = asyncio.create_task(self._wait(instance, deployment))

    def cancel(self, instance: str) -> bool:
        """Give one up; False: it does not wait. What nobody else waits for is not built or downloaded any further."""
        task = self._tasks.pop(instance, None)
        if task is None:
            return False
        task.cancel()
        self._post(Ended(instance, "it was not wanted any more before it could start"))
        return True

    async def close(self) -> None:
        """Give all of them up, without a word."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(self, instance: str, deployment: Deployment) -> None:
        def show_build(stage: str, fraction: float) -> None:
            self._show(instance, f"building the environment of {deployment.engine}: {stage}", fraction)

        def show_download(now: Progress) -> None:
            self._show(instance, now.stage, now.fraction, now.files)

        try:
            (await self._pythons.built(deployment, show_build)).release()
            (await self._weights.downloaded(deployment, show_download)).release()
        except (XinferError, OSError) as error:
            log.warning("%s cannot start: %s", deployment.model_uid, describe(error))
            del self._tasks[instance]
            self._post(Ended(instance, describe(error), load_error=True))
            return
        # That took its time: others may be starting on its devices by now, so it takes its turn.
        del self._tasks[instance]
        self._post(Prepared(instance))

    def _show(self, instance: str, stage: str, fraction: float, files: tuple[FileProgress, ...] = ()) -> None:
        view = ReplicaView(
            instance=instance,
            version=0,
            state=ReplicaState.DOWNLOADING,
            stage=stage,
            progress=round(fraction, 3),
            files=files,
        )
        self._post(Seen("", view))


def _release(*held: HeldPython | HeldWeights | None) -> None:
    for one in held:
        if one is not None:
            one.release()
