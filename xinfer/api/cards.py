"""The management API's JSON: control-plane structs in the shapes that Xinference's users know."""

from typing import Any

import msgspec

from xinfer import plugins
from xinfer.catalog.description import described
from xinfer.engines.base import shown_options
from xinfer.protocol import ModelInstance, ModelProgress, ReplicaStatus, WorkerInfo
from xinfer.routes import ModelRoute
from xinfer.slices.tally import DeviceTally, SliceTally, tallies
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
    """One replica. Of one that runs on several workers, ``members`` has every one of its processes."""
    members = [replica_info(member, member.worker) for member in replica.members]
    return {
        **({"members": members} if members else {}),
        **({"rank": replica.seat.rank} if replica.seat else {}),
        "replica_id": replica.replica_id,
        "state": replica.state.value,
        "stage": replica.stage,
        "progress": replica.progress,
        "reason": replica.reason,
        "warning": replica.warning,
        "restarts": replica.restarts,
        "worker": worker,
        "address": replica.endpoint.address if replica.endpoint else "",
        "pid": replica.pid,
        "since": replica.since,
        "adapters": [adapter.name for adapter in replica.standing.adapters],
        "sleep_level": replica.standing.sleep_level,
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
        "download_files": [
            {"replica_id": replica.replica_id, "name": file.name, "downloaded": file.done, "total": file.total}
            for replica in progress.replicas
            for file in replica.files
        ],
        "replicas": [replica_info(replica, "") for replica in progress.replicas],
        "done": progress.done,
        "reason": progress.reason,
    }


def deployment_info(deployment: Deployment) -> dict[str, Any]:
    """What was asked for."""
    spec = deployment.spec
    return {
        "model_uid": deployment.model_uid,
        **described(spec),
        "model_engine": deployment.engine,
        "model_source": spec.source,
        "weights_mib": spec.weights_mib,
        "replica": deployment.replicas,
        "revision": deployment.revision,
        "fallback": deployment.fallback,
        "adapters": [adapter.name for adapter in deployment.adapters],
        "sleep_level": deployment.sleep_level,
        "paused": deployment.paused,
        "options": _shown_options(deployment),
    }


def launched_info(instance: ModelInstance) -> dict[str, Any]:
    """The answer to a launch: Xinference's clients read the model_uid; ``picked`` is what it left open, and why."""
    deployment = instance.deployment
    return {
        "model_uid": deployment.model_uid,
        "model_engine": deployment.engine,
        "model_format": deployment.spec.format.value,
        "quantization": deployment.spec.quantization,
        "model_size_in_billions": deployment.spec.size_in_billions,
        "picked": instance.picked,
        "warnings": list(instance.warnings),
    }


def _shown_options(deployment: Deployment) -> dict[str, Any]:
    engine = plugins.engines().get(deployment.engine)
    return shown_options(engine.Options, deployment.options) if engine is not None else {}


def adapter_infos(instance: ModelInstance) -> list[dict[str, Any]]:
    """The adapters of a deployment: where each is loaded, and why elsewhere it is not."""
    replicas = instance.replicas
    return [
        {
            "name": adapter.name,
            "path": adapter.path,
            "rank": adapter.rank,
            "base_model": adapter.base,
            "replicas": [one.replica_id for one in replicas if adapter in one.standing.adapters],
            "failures": {
                one.replica_id: failure.reason
                for one in replicas
                for failure in one.standing.failures
                if failure.adapter == adapter
            },
        }
        for adapter in instance.deployment.adapters
    ]


def instance_info(instance: ModelInstance) -> dict[str, Any]:
    """A deployment with its replicas: Xinference's InstanceInfo, and more."""
    deployment = instance.deployment
    return {
        **deployment_info(deployment),
        "model_version": None,
        "status": _status(instance),
        "instance_created_ts": int(deployment.created_at),
        "n_worker": deployment.request.workers,
        "replica_statuses": [
            replica_info(replica, instance.workers.get(replica.replica_id, "")) for replica in instance.replicas
        ],
    }


def device_cards(worker: WorkerInfo) -> list[dict[str, Any]]:
    """Each device of a worker as its slices; memory in MiB."""
    return [
        {
            "worker_id": worker.hello.worker_id,
            "worker": worker.hello.name,
            "alive": worker.alive,
            **_device_card(tally),
        }
        for tally in tallies(worker)
    ]


def _device_card(tally: DeviceTally) -> dict[str, Any]:
    """A device that reports nothing (it is lost, or its worker is new) uses and holds ``None``: nobody knows."""
    device, use = tally.device, tally.use
    return {
        **{key: getattr(device, key) for key in _DEVICE_FACTS},
        "capacity_mib": tally.capacity_mib,
        "reserved_mib": tally.reserved_mib,
        "free_mib": tally.free_mib,
        "used_mib": use.used_mib if use else None,
        "others_mib": tally.others_mib,
        "device_free_mib": use.free_mib if use else None,
        "reserved_cores_percent": tally.reserved_cores,
        "free_cores_percent": device.cap_cores - tally.reserved_cores,
        "enforced": msgspec.to_builtins(use.hold) if use else None,
        "cordoned": tally.cordoned,
        "draining": tally.drained,
        "slices": [_slice_card(one) for one in tally.slices],
    }


_DEVICE_FACTS = (
    "device_id",
    "kind",
    "index",
    "name",
    "uuid",
    "parent_uuid",
    "source",
    "healthy",
    "health_reason",
    "memory_mib",
    "view_mib",
    "reserve_mib",
    "cores",
    "cap_cores",
    "enforced_by",
)


def _slice_card(one: SliceTally) -> dict[str, Any]:
    return {
        "model_uid": one.replica.model_uid,
        "replica_id": one.replica.replica_id,
        "state": one.replica.state.value,
        "memory_mib": one.piece.memory_mib,
        "cores_percent": one.piece.cores_percent,
        "exclusive": one.piece.exclusive,
        "used_mib": one.used_mib,
        "over_limit_mib": one.over_limit_mib,
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
