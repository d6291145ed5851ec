"""What may be refused, before anything is changed or stored: pure questions to the cluster core.

Each answers with the Deployment that is to be stored and then set, or raises.
"""

from typing import Any

import msgspec

from xinfer.errors import Conflict, InvalidRequest, NotFound, NotReady, UnknownModel
from xinfer.spec import Deployment, ReplicaState
from xinfer.supervisor import sizing
from xinfer.supervisor.capacity import Ledger, Plan
from xinfer.supervisor.cluster import Cluster
from xinfer.supervisor.records import ModelRecord

MAX_REPLICAS = 1024
RETRY_AFTER_S = 2


def check_replicas(replicas: int) -> None:
    """Whether a number of replicas makes sense.

    Raises:
        InvalidRequest: it does not.
    """
    if not 1 <= replicas <= MAX_REPLICAS:
        raise InvalidRequest(f"replica must be between 1 and {MAX_REPLICAS}, not {replicas}", param="replica")


def require_workers(cluster: Cluster) -> None:
    """Whether there is anything to launch on.

    Raises:
        NotReady: no worker is there.
    """
    if not any(worker.alive for worker in cluster.workers.values()):
        raise NotReady(
            "no worker has joined; start one with: xinfer-worker -e http://SUPERVISOR:9997", retry_after=RETRY_AFTER_S
        )


def find(cluster: Cluster, model_uid: str) -> ModelRecord:
    """The record of a model.

    Raises:
        UnknownModel: there is none.
    """
    model = cluster.models.get(model_uid)
    if model is None:
        base = next((uid for uid, one in cluster.models.items() if one.has_adapter(model_uid)), "")
        hint = f"; it is an adapter of {base!r} (xinfer adapter remove {base} {model_uid})" if base else ""
        raise UnknownModel(f"no model {model_uid!r} is launched{hint}", param="model_uid")
    return model


def launched(cluster: Cluster, wanted: Deployment) -> Deployment:
    """A new Deployment, or one in place of a model whose replicas have all failed.

    Raises:
        NotReady: no worker is there.
        Conflict: the model_uid is in use.
        InvalidSliceRequest: its resources cannot be meant.
        NoCapacity: not every replica fits now; by how many MiB each device falls short.
    """
    _require_free_uid(cluster, wanted.model_uid)
    _plan(cluster, wanted, wanted.replicas, without=(wanted.model_uid,)).require_all()
    return wanted


def explained(cluster: Cluster, wanted: Deployment) -> dict[str, Any]:
    """What ``launched`` would say and where the replicas would go, with every device; nothing is changed. JSON values.

    The explanation is about the first replica that does not fit; if all fit, about the first one.

    Raises:
        NotReady: no worker is there.
        Conflict: the model_uid is in use.
        InvalidSliceRequest: its resources cannot be meant.
    """
    _require_free_uid(cluster, wanted.model_uid)
    without = (wanted.model_uid,)
    ledger = _ledger(cluster, without)
    before = ledger.explain(wanted)
    plan = _plan(cluster, wanted, wanted.replicas, without)
    explanation = plan.explanation or msgspec.structs.replace(before, placement=next(iter(plan.places), None))
    answer: dict[str, Any] = msgspec.to_builtins(
        {
            "model_uid": wanted.model_uid,
            "engine": wanted.engine,
            "replicas": wanted.replicas,
            "request": ledger.request(wanted),
            "memory": sizing.origin(wanted, ledger.device_kind(wanted)),
            "fits": not plan.reason,
            "message": plan.reason or f"{len(plan.places)} of {wanted.replicas} replicas fit",
            "placements": plan.places,
            "explanation": explanation,
        }
    )
    return answer


def rescaled(cluster: Cluster, model_uid: str, replicas: int) -> Deployment:
    """The same Deployment with another number of replicas; those that run are not touched by growing.

    Raises:
        UnknownModel: there is no such model.
        InvalidRequest: the number makes no sense.
        NoCapacity: the additional replicas do not fit now.
    """
    check_replicas(replicas)
    deployment = find(cluster, model_uid).deployment
    added = replicas - deployment.replicas
    if added > 0:
        require_workers(cluster)
        _plan(cluster, deployment, added).require_all()
    return msgspec.structs.replace(deployment, replicas=replicas)


def without_replica(cluster: Cluster, model_uid: str, replica_id: str) -> Deployment:
    """The Deployment with one replica less.

    Raises:
        UnknownModel: there is no such model.
        NotFound: it has no such replica.
        Conflict: it is the last one.
    """
    model = find(cluster, model_uid)
    if replica_id not in model.replicas and replica_id not in model.free_ids(model.missing):
        raise NotFound(f"model {model_uid!r} has no replica {replica_id!r}", param="replica_id")
    if model.deployment.replicas == 1:
        raise Conflict(
            f"{replica_id!r} is the last replica of {model_uid!r}; terminate the model instead", param="replica_id"
        )
    return msgspec.structs.replace(model.deployment, replicas=model.deployment.replicas - 1)


def require_cancellable(cluster: Cluster, model_uid: str) -> None:
    """Whether a launch can still be cancelled.

    Raises:
        UnknownModel: there is no such model.
        Conflict: it serves already.
    """
    model = find(cluster, model_uid)
    if any(replica.state is ReplicaState.READY for replica in model.replicas.values()):
        raise Conflict(f"model {model_uid!r} is ready, there is no launch to cancel; terminate it instead")


def _require_free_uid(cluster: Cluster, model_uid: str) -> None:
    require_workers(cluster)
    model = cluster.models.get(model_uid)
    if model is not None and not model.failed:
        raise Conflict(
            f"the model_uid {model_uid!r} is in use; terminate that model first or launch under another uid",
            param="model_uid",
        )


def _plan(cluster: Cluster, deployment: Deployment, count: int, without: tuple[str, ...] = ()) -> Plan:
    return _ledger(cluster, without).plan(deployment, count, cluster.policy, advise=True)


def _ledger(cluster: Cluster, without: tuple[str, ...]) -> Ledger:
    return Ledger(cluster.models, cluster.workers, count_leaving=False, without=without, cordons=cluster.cordons)
