"""Replicas that wait for their Python and their weights: found at once, or built and downloaded first."""

import asyncio
import logging
from collections.abc import Callable

from xinfer.errors import XinferError, describe
from xinfer.protocol import FileProgress, ReplicaView, StandingOrder
from xinfer.spec import Deployment, ReplicaState
from xinfer.worker.environments.pythons import HeldPython, ReplicaPythons
from xinfer.worker.events import Ended, Event, Prepared, Seen
from xinfer.worker.weights.held import HeldWeights, ReplicaWeights
from xinfer.worker.weights.progress import Progress

log = logging.getLogger(__name__)


class _Waiting:
    """A replica that waits. ``paused``: it does without its weights until it is told to go on."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.order = StandingOrder.of(deployment)
        self.turned = asyncio.Event()
        """It was paused, or told to go on."""
        self.downloaded = Progress()
        self.task: asyncio.Task[None]

    def instruct(self, order: StandingOrder) -> None:
        turned = order.paused != self.order.paused
        self.order = order
        if turned:
            self.turned.set()


class Preparations:
    """Each that is begun ends with a call of its ``start``, or with an event: ``Prepared`` or ``Ended``."""

    def __init__(self, pythons: ReplicaPythons, weights: ReplicaWeights, post: Callable[[Event], None]) -> None:
        self._pythons = pythons
        self._weights = weights
        self._post = post
        self._waiting: dict[str, _Waiting] = {}
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
        waiting = self._waiting[instance] = _Waiting(deployment)
        waiting.task = asyncio.create_task(self._wait(instance, waiting))

    def instruct(self, instance: str, order: StandingOrder) -> bool:
        """Let one rest, or go on, as its order says; False: it does not wait."""
        waiting = self._waiting.get(instance)
        if waiting is not None:
            waiting.instruct(order)
        return waiting is not None

    def cancel(self, instance: str) -> bool:
        """Give one up; False: it does not wait. What nobody else waits for is not built or downloaded any further."""
        waiting = self._waiting.pop(instance, None)
        if waiting is None:
            return False
        waiting.task.cancel()
        self._post(Ended(instance, "it was not wanted any more before it could start"))
        return True

    async def close(self) -> None:
        """Give all of them up, without a word."""
        tasks = [waiting.task for waiting in self._waiting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(self, instance: str, waiting: _Waiting) -> None:
        deployment = waiting.deployment

        def show_build(stage: str, fraction: float) -> None:
            self._show(instance, f"building the environment of {deployment.engine}: {stage}", fraction)

        try:
            (await self._pythons.built(deployment, show_build)).release()
            while not await self._downloaded(instance, waiting):
                pass
        except (XinferError, OSError) as error:
            log.warning("%s cannot start: %s", deployment.model_uid, describe(error))
            del self._waiting[instance]
            self._post(Ended(instance, describe(error), load_error=True))
            return
        # That took its time: others may be starting on its devices by now, so it takes its turn.
        del self._waiting[instance]
        self._post(Prepared(instance))

    async def _downloaded(self, instance: str, waiting: _Waiting) -> bool:
        """Wait for the weights, or rest, until that is to be turned round; whether they are here."""
        waiting.turned.clear()
        if waiting.order.paused:
            self._show_download(instance, waiting, waiting.downloaded.paused)
            await waiting.turned.wait()
            return False
        download = asyncio.create_task(self._download(instance, waiting))
        turned = asyncio.create_task(waiting.turned.wait())
        try:
            await asyncio.wait((download, turned), return_when=asyncio.FIRST_COMPLETED)
            if download.done():
                download.result()
            return download.done()
        finally:
            for task in (download, turned):
                task.cancel()
            await asyncio.gather(download, turned, return_exceptions=True)

    async def _download(self, instance: str, waiting: _Waiting) -> None:
        def show(now: Progress) -> None:
            waiting.downloaded = now
            self._show_download(instance, waiting, now.stage)

        (await self._weights.downloaded(waiting.deployment, show)).release()

    def _show_download(self, instance: str, waiting: _Waiting, stage: str) -> None:
        self._show(instance, stage, waiting.downloaded.fraction, waiting.downloaded.files)

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
