"""The management API's JSON: control-plane structs in the shapes that Xinference's users know."""

from typing import Any

from xinfer.protocol import ModelInstance, ModelProgress, ReplicaStatus
from xinfer.routes import ModelRoute
from xinfer.spec import Deployment, ReplicaState


def model_card(route: ModelRoute) -> dict[str, Any]:
    """An entry of ``GET /v1/models``."""
    return {
        "id": route.model_uid,
        "object": "model",
        "created": route.created_at,
        "owned_by": "xinfer",
        **route.card,
        "status": route.availability.value,
        "ops": list(route.ops),
        "ready_replicas": len(route.endpoints),
    }


def replica_info(replica: ReplicaStatus, worker: str) -> dict[str, Any]:
    """One replica."""
    return {
        "replica_id": replica.replica_id,
        "state": replica.state.value,
        "stage": replica.stage,
        "progress": replica.progress,
        "reason": replica.reason,
        "restarts": replica.restarts,
        "worker": worker,
        "address": replica.endpoint.address if replica.endpoint else "",
        "pid": replica.pid,
        "since": replica.since,
        "devices": [
            {"device_id": s.device_id, "memory_mib": s.memory_mib, "cores_percent": s.cores_percent}
            for s in replica.slices
        ],
    }


def progress_info(progress: ModelProgress) -> dict[str, Any]:
    """How far a launch is."""
    return {
        "model_uid": progress.model_uid,
        "progress": round(progress.progress, 4),
        "stage": progress.stage,
        "download_files": [],
        "replicas": [replica_info(replica, "") for replica in progress.replicas],
        "done": progress.done,
        "reason": progress.reason,
    }


def deployment_info(deployment: Deployment) -> dict[str, Any]:
    """What was asked for."""
    spec = deployment.spec
    return {
        "model_uid": deployment.model_uid,
        "model_name": spec.name,
        "model_type": spec.kind.value,
        "model_engine": deployment.engine,
        "model_format": spec.format.value,
        "quantization": spec.quantization,
        "model_size_in_billions": spec.size_in_billions,
        "model_ability": list(spec.abilities),
        "context_length": spec.context_length,
        "replica": deployment.replicas,
        "revision": deployment.revision,
        "options": deployment.options,
    }


def instance_info(instance: ModelInstance) -> dict[str, Any]:
    """A deployment with its replicas: Xinference's InstanceInfo, and more."""
    deployment = instance.deployment
    return {
        **deployment_info(deployment),
        "model_version": None,
        "status": _status(instance),
        "instance_created_ts": int(deployment.created_at),
        "n_worker": 1,
        "replica_statuses": [
            replica_info(replica, instance.workers.get(replica.replica_id, "")) for replica in instance.replicas
        ],
    }


def _status(instance: ModelInstance) -> str:
    """Xinference's words: CREATING, LOADING, READY, TERMINATING, ERROR."""
    states = {replica.state for replica in instance.replicas}
    if ReplicaState.READY in states:
        return "READY"
    if ReplicaState.FAILED in states:
        return "ERROR"
    if states and states <= {ReplicaState.DRAINING, ReplicaState.STOPPED}:
        return "TERMINATING"
    return "LOADING" if states & {ReplicaState.STARTING, ReplicaState.DOWNLOADING} else "CREATING"
