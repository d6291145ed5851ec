"""What people ask about weights that come from hubs: those of a launch rest or go on, and all others come and go."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from xinfer.actors import Unanswered
from xinfer.catalog.sources import hub_source
from xinfer.catalog.weight_sets import CachedWeights, Pull, WeightSet, WeightsHere, means
from xinfer.errors import Conflict, NotFound, NotReady, XinferError, describe
from xinfer.protocol import LaunchRequest, ModelInstance, WorkerHello
from xinfer.spec import Deployment, ReplicaState
from xinfer.supervisor import admission, views
from xinfer.supervisor.cluster import Cluster
from xinfer.supervisor.registry import Registry
from xinfer.supervisor.shell import Shell
from xinfer.supervisor.workers import ask_workers, named_workers

BEFORE_READY = (ReplicaState.PENDING, ReplicaState.DOWNLOADING, ReplicaState.STARTING)
RETRY_AFTER_S = 2

ByWorker = dict[str, WeightsHere]
"""Of each worker, by its name."""


class ForWeights:
    """The part of the supervisor's actor that is about weights."""

    _shell: Shell
    _registry: Registry

    async def pause(self, model_uid: str) -> ModelInstance:
        """Let the downloads that a model waits for rest, over every restart, until ``resume``. What came is kept.

        Raises:
            UnknownModel: there is no such model.
            Conflict: it waits for none.
        """
        return await self._turn(model_uid, paused=True)

    async def resume(self, model_uid: str) -> ModelInstance:
        """Let them go on from where they were. Of a model that does not rest, nothing changes.

        Raises:
            UnknownModel: there is no such model.
        """
        return await self._turn(model_uid, paused=False)

    async def weights(self, names: tuple[str, ...] = ()) -> ByWorker:
        """What the workers (none named: all that are alive) have of hubs, and what was ordered.

        Raises:
            NotFound: there is no such worker.
        """
        return await weights_of(named_workers(self._shell.living_workers(), names))

    async def pull(self, request: LaunchRequest, verify: bool, names: tuple[str, ...]) -> dict[str, Pull]:
        """Have workers (none named: all that are alive) download weights; answers when they have begun.

        Raises:
            InvalidRequest: there are no such weights; says what would be right.
            DownloadFailed: the hubs do not say what there is.
            NotFound: there is no such worker.
            NotReady: no worker is there.
        """
        shell = self._shell
        admission.require_workers(shell.cluster)
        hellos = named_workers(shell.living_workers(), names)
        wanted = await asyncio.to_thread(self._registry.weights, request)
        begun, errors = await ask_workers(hellos, lambda worker: worker.pull_weights(wanted, verify))
        return {name: begun.get(name) or _not_begun(wanted, errors[name]) for name in sorted((*begun, *errors))}

    async def pull_progress(self, name: str) -> dict[str, Pull]:
        """How far a download that was ordered is on every worker, or how it ended there.

        Raises:
            NotFound: no worker knows of it.
        """
        found, _ = await ask_workers(self._shell.living_workers(), lambda worker: worker.pulls())
        pulls = {worker: pull for worker, of_worker in found.items() for pull in of_worker if pull.name == name}
        if not pulls:
            raise NotFound(
                f"no worker pulls {name!r}, or it was restarted since; GET /v1/weights says what each has, and the "
                "same order goes on where it was"
            )
        return pulls

    async def cancel_pull(self, name: str) -> dict[str, Pull]:
        """End a download that was ordered, on every worker. What came is kept.

        Raises:
            NotFound: no worker has it.
        """
        ended, _ = await ask_workers(self._shell.living_workers(), lambda worker: worker.cancel_pull(name))
        if not ended:
            raise NotFound(f"no worker pulls {name!r}; GET /v1/weights says what each does")
        return ended

    async def remove_weights(self, word: str, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
        """Remove weights from workers (none named: all); for each worker, how many bytes of which became free.

        Nothing is removed anywhere if replicas use it anywhere.

        Raises:
            NotFound: no worker has such weights.
            Conflict: they are used or being downloaded; says by whom.
        """
        found = await self.weights(names)
        chosen = {name: [one for one in here.cached if means(word, one)] for name, here in found.items()}
        _require_unused(word, chosen)
        # One after the other: workers of one home have the same weights, and the first one frees them.
        return {
            hello.name: {one.source: await _removed(hello, one) for one in chosen[hello.name]}
            for hello in self._shell.living_workers()
            if chosen.get(hello.name)
        }

    async def _turn(self, model_uid: str, *, paused: bool) -> ModelInstance:
        shell = self._shell
        await shell.settled()
        deployment = await shell.change(lambda: turned(shell.cluster, model_uid, paused=paused))
        return views.instance(admission.find(shell.cluster, deployment.model_uid), shell.cluster.workers)


async def weights_of(hellos: Sequence[WorkerHello]) -> ByWorker:
    """What these workers have of hubs, and what was ordered; nothing of those that do not answer."""
    found, _ = await ask_workers(hellos, lambda worker: worker.weights())
    return dict(sorted(found.items()))


def with_downloaded(comparison: Mapping[str, Any], weights: ByWorker) -> dict[str, Any]:
    """What ``compared`` says of a model; weights that some worker has downloaded are here."""
    complete = {one.source for here in weights.values() for one in here.cached if one.complete}
    rows = [
        row | {"weights_here": row["weights_here"] or not complete.isdisjoint(row["sources"])}
        for row in comparison["combinations"]
    ]
    best = comparison["best"] and rows[comparison["combinations"].index(comparison["best"])]
    return {**comparison, "best": best, "combinations": rows}


def turned(cluster: Cluster, model_uid: str, *, paused: bool) -> Deployment:
    """The Deployment whose downloads rest, or go on.

    Raises:
        UnknownModel: there is no such model.
        Conflict: there is no download to pause.
    """
    model = admission.find(cluster, model_uid)
    if paused:
        waits = any(status.state in BEFORE_READY for status in views.statuses(model, cluster.workers))
        if hub_source(model.deployment.spec.source) is None:
            raise Conflict(f"{model_uid!r} downloads nothing: its weights come from no hub", param="model_uid")
        if not waits:
            raise Conflict(f"{model_uid!r} downloads nothing: none of its replicas waits to start", param="model_uid")
    return msgspec.structs.replace(model.deployment, paused=paused)


def _not_begun(wanted: tuple[WeightSet, ...], error: XinferError | Unanswered) -> Pull:
    first = wanted[0]
    return Pull(name=first.name, source=str(first.source), state="failed", stage="failed", reason=describe(error))


def _require_unused(word: str, chosen: Mapping[str, list[CachedWeights]]) -> None:
    sets = [one for of_worker in chosen.values() for one in of_worker]
    if not sets:
        raise NotFound(f"no worker has weights of {word!r}; xinfer models cached (GET /v1/weights) shows what there is")
    used = dict.fromkeys(f"{one.source} is used by {', '.join(one.used_by)}" for one in sets if one.used_by)
    if used:
        raise Conflict(f"nothing was removed: {'; '.join(used)}. Terminate what uses it first (xinfer terminate)")


async def _removed(hello: WorkerHello, cached: CachedWeights) -> int:
    """Remove a set from a worker; how many bytes became free there. Another one may just have done so."""

    async def remove(worker: Any) -> int:
        return int(await worker.remove_weights(cached.name))

    freed, errors = await ask_workers([hello], remove)
    error = errors.get(hello.name)
    if isinstance(error, Unanswered):
        raise NotReady(f"worker {hello.name} does not answer: {describe(error)}", retry_after=RETRY_AFTER_S)
    if error is not None and not isinstance(error, NotFound):
        raise error
    return int(freed.get(hello.name, 0))
