"""The answer to "how much memory would this need, and where would it fit?". Pure."""

from typing import Any

import msgspec

from xinfer.devices import Placement
from xinfer.spec import Deployment, Estimate
from xinfer.supervisor import sizing
from xinfer.supervisor.admission import require_workers
from xinfer.supervisor.capacity import Ledger
from xinfer.supervisor.cluster import Cluster


def estimated(cluster: Cluster, wanted: Deployment) -> dict[str, Any]:
    """What one replica would need by parts, and every device with whether it fits there now. JSON values.

    Nothing is changed, and it does not matter whether the model is launched already.

    Raises:
        NotReady: no worker is there.
        InvalidSliceRequest: its resources cannot be meant.
    """
    require_workers(cluster)
    ledger = Ledger(cluster.models, cluster.workers, count_leaving=False, cordons=cluster.cordons)
    request, explanation = ledger.request(wanted), ledger.explain(wanted)
    plan = ledger.plan(wanted, 1, cluster.policy, advise=True)
    spec = wanted.spec
    answer: dict[str, Any] = msgspec.to_builtins(
        {
            "model_name": spec.name,
            "model_type": spec.kind,
            "model_engine": wanted.engine,
            "model_format": spec.format,
            "quantization": spec.quantization,
            "size_in_billions": spec.size_in_billions,
            "device_kind": ledger.device_kind(wanted),
            "estimates": {found.device_kind: _parts(found) for found in wanted.estimates},
            "request": request,
            "fits": not plan.reason,
            "message": plan.reason or f"it fits on {_devices(plan.places[0])}",
            "placements": plan.places,
            "explanation": plan.explanation or explanation,
        }
    )
    return answer


def _devices(place: Placement) -> str:
    """Of a replica on several workers, all of them."""
    if not place.followers:
        return ", ".join(piece.device_id for piece in place.slices)
    members = (place, *place.followers)
    return ", ".join(f"{one.worker_id}/{piece.device_id}" for one in members for piece in one.slices)


def _parts(found: Estimate) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(found),
        "error_percent": found.error_percent,
        "message": sizing.in_words(found),
    }
