"""What gateways are told about every model, derived from the records."""

from collections.abc import Mapping, Sequence

import msgspec

from xinfer import plugins
from xinfer.catalog.description import described
from xinfer.ops import GENERATIVE_KINDS, Op
from xinfer.protocol import ReplicaStatus
from xinfer.routes import Availability, Endpoint, ModelRoute
from xinfer.spec import Adapter, Deployment, ReplicaState
from xinfer.supervisor.launched import as_served
from xinfer.supervisor.records import ModelRecord, WorkerRecord
from xinfer.supervisor.views import statuses

CHATS = frozenset({Op.CHAT, Op.MESSAGES, Op.COUNT_TOKENS, Op.RESPONSES})
"""What needs a chat template."""


def routes(models: Mapping[str, ModelRecord], workers: Mapping[str, WorkerRecord]) -> dict[str, ModelRoute]:
    """The models of a RouteTable. Replicas of a lost worker stay until they are found dead: they may still serve."""
    found = [route for _, model in sorted(models.items()) for route in _routes(model, statuses(model, workers))]
    return {route.model_uid: route for route in found}


def _routes(model: ModelRecord, replicas: Sequence[ReplicaStatus]) -> list[ModelRoute]:
    """A model, and each of its adapters as one of its own."""
    route = _route(model, replicas)
    return [route, *(_adapter_route(adapter, route, model, replicas) for adapter in model.deployment.adapters)]


def _route(model: ModelRecord, replicas: Sequence[ReplicaStatus]) -> ModelRoute:
    endpoints = tuple(endpoint for _, endpoint in _serving(model, replicas))
    availability = _availability(model, ready=bool(endpoints))
    reasons = [status.reason for status in replicas if status.reason]
    return ModelRoute(
        model_uid=model.deployment.model_uid,
        ops=_ops(model.deployment),
        availability=availability,
        endpoints=endpoints,
        created_at=int(model.deployment.created_at),
        message="" if availability is Availability.READY or not reasons else reasons[0].partition("\n")[0],
        fallback=model.deployment.fallback,
        card=card(model.deployment),
    )


def _serving(model: ModelRecord, replicas: Sequence[ReplicaStatus]) -> list[tuple[ReplicaStatus, Endpoint]]:
    """The replicas that are awake and are to stay so."""
    if model.deployment.sleep_level:
        return []
    return [
        (status, status.endpoint)
        for status in replicas
        if status.state is ReplicaState.READY and status.endpoint is not None and not status.standing.sleep_level
    ]


def _adapter_route(
    adapter: Adapter, base: ModelRoute, model: ModelRecord, replicas: Sequence[ReplicaStatus]
) -> ModelRoute:
    """An adapter is where it was loaded. Of a model that serves it may still be on its way, which is worth a wait."""
    endpoints = tuple(endpoint for status, endpoint in _serving(model, replicas) if adapter in status.standing.adapters)
    availability, message = base.availability, base.message
    if availability is Availability.READY and not endpoints:
        failures = [
            failure.reason for status in replicas for failure in status.standing.failures if failure.adapter == adapter
        ]
        availability = Availability.FAILED if failures else Availability.RECOVERING
        message = failures[0].partition("\n")[0] if failures else f"the adapter {adapter.name!r} is being loaded"
    card = {**base.card, "model_name": adapter.name, "parent": base.model_uid, "root": adapter.path}
    return msgspec.structs.replace(
        base,
        model_uid=adapter.name,
        availability=availability,
        endpoints=endpoints,
        message=message,
        parent=base.model_uid,
        card={**card, "lora_rank": adapter.rank, "base_model": adapter.base},
    )


def _availability(model: ModelRecord, *, ready: bool) -> Availability:
    if ready:
        return Availability.READY
    if model.failed:
        return Availability.FAILED
    if model.deployment.sleep_level:
        return Availability.ASLEEP
    return Availability.RECOVERING if model.served else Availability.LOADING


def _ops(deployment: Deployment) -> tuple[Op, ...]:
    """What can be asked of it, and is answered by its engine; without a chat template, a model only completes."""
    spec, engine = deployment.spec, plugins.engines().get(deployment.engine)
    ops = spec.ops & engine.ops if engine is not None else spec.ops
    if spec.kind in GENERATIVE_KINDS and spec.abilities and "chat" not in spec.abilities:
        ops -= CHATS
    return tuple(sorted(ops))


def card(deployment: Deployment) -> dict[str, object]:
    """The description of a model that was launched."""
    spec = as_served(deployment).spec
    return {
        **described(spec),
        "model_engine": deployment.engine,
        "replica": deployment.replicas,
        "max_tokens": spec.context_length,
        "revision": deployment.revision,
    }
