"""What people ask of a model that runs: other adapters, to sleep, to wake up."""

import asyncio

from xinfer.catalog import read_adapter
from xinfer.catalog.roots import Roots
from xinfer.protocol import ModelInstance
from xinfer.spec import Adapter, Deployment
from xinfer.supervisor import admission, standing, views
from xinfer.supervisor.registry import check_model_uid
from xinfer.supervisor.shell import Shell


class ForRunningModels:
    """The part of the supervisor's actor that changes models without new processes. What is said here is durable."""

    _shell: Shell
    _roots: Roots

    async def add_adapter(self, model_uid: str, adapter: Adapter) -> ModelInstance:
        """Serve one more adapter on every replica of a model, those that come later included.

        Raises:
            UnknownModel: there is no such model.
            Conflict: the name is in use.
            InvalidRequest: it is no adapter of this model, or nothing for its engine.
            PathNotAllowed: its folder is not under one that models may be read from.
        """
        shell = self._shell
        check_model_uid(adapter.name, "name")
        self._roots.require(adapter.path, "path")
        await shell.settled()
        spec = admission.find(shell.cluster, model_uid).deployment.spec
        standing.with_adapter(shell.cluster, model_uid, adapter)  # before anything is read
        read = await asyncio.to_thread(read_adapter, adapter, spec)
        return self._now(await shell.change(lambda: standing.with_adapter(shell.cluster, model_uid, read)))

    async def remove_adapter(self, model_uid: str, name: str) -> ModelInstance:
        """Serve an adapter no more.

        Raises:
            UnknownModel: there is no such model.
            NotFound: it has no such adapter.
        """
        shell = self._shell
        await shell.settled()
        return self._now(await shell.change(lambda: standing.without_adapter(shell.cluster, model_uid, name)))

    async def sleep(self, model_uid: str, level: int) -> ModelInstance:
        """Have the replicas of a model give their memory back until it is woken. They keep their slices.

        Raises:
            UnknownModel: there is no such model.
            InvalidRequest: its engine cannot sleep, or not so.
        """
        shell = self._shell
        await shell.settled()
        return self._now(await shell.change(lambda: standing.asleep(shell.cluster, model_uid, level)))

    async def wake(self, model_uid: str) -> ModelInstance:
        """Have them serve again; a model that is awake stays so.

        Raises:
            UnknownModel: there is no such model.
        """
        shell = self._shell
        await shell.settled()
        deployment = admission.find(shell.cluster, model_uid).deployment
        if deployment.sleep_level:
            deployment = await shell.change(lambda: standing.awake(shell.cluster, model_uid))
        return self._now(deployment)

    async def obeyed(self, model_uid: str, adapter: str, timeout_s: float) -> bool:
        """Whether its running replicas are as they should be, and every gateway knows; waits so many seconds for it.

        Raises:
            UnknownModel: there is no such model.
            LoadFailed: a replica cannot load that ``adapter`` (empty: none is meant), or does not fall asleep.
        """
        shell = self._shell
        await shell.settled()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            model = admission.find(shell.cluster, model_uid)
            if standing.obeyed(model.deployment, views.statuses(model, shell.cluster.workers), adapter):
                await shell.routed()
                return True
            if shell.closing or not await shell.changed.wait(deadline - loop.time()):
                return False

    def _now(self, deployment: Deployment) -> ModelInstance:
        cluster = self._shell.cluster
        return views.instance(admission.find(cluster, deployment.model_uid), cluster.workers)
