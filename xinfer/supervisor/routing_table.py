"""What gateways are told about every model, derived from the records."""

from collections.abc import Mapping

from xinfer import plugins
from xinfer.ops import Kind, Op
from xinfer.routes import Availability, ModelRoute
from xinfer.spec import Deployment, ReplicaState
from xinfer.supervisor.records import ModelRecord, WorkerRecord
from xinfer.supervisor.views import statuses

CHATS = frozenset({Op.CHAT, Op.MESSAGES, Op.RESPONSES})
"""What needs a chat template."""


def routes(models: Mapping[str, ModelRecord], workers: Mapping[str, WorkerRecord]) -> dict[str, ModelRoute]:
    """The models of a RouteTable. Replicas of a lost worker stay until they are found dead: they may still serve."""
    return {uid: _route(model, workers) for uid, model in sorted(models.items())}


def _route(model: ModelRecord, workers: Mapping[str, WorkerRecord]) -> ModelRoute:
    replicas = statuses(model, workers)
    endpoints = tuple(
        status.endpoint for status in replicas if status.state is ReplicaState.READY and status.endpoint is not None
    )
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


def _availability(model: ModelRecord, *, ready: bool) -> Availability:
    if ready:
        return Availability.READY
    if model.failed:
        return Availability.FAILED
    return Availability.RECOVERING if model.served else Availability.LOADING


def _ops(deployment: Deployment) -> tuple[Op, ...]:
    """What can be asked of it, and is answered by its engine; without a chat template, a model only completes."""
    spec, engine = deployment.spec, plugins.engines().get(deployment.engine)
    ops = spec.ops & engine.ops if engine is not None else spec.ops
    if spec.kind is Kind.LLM and spec.abilities and "chat" not in spec.abilities:
        ops -= CHATS
    return tuple(sorted(ops))


def card(deployment: Deployment) -> dict[str, object]:
    """The description of a model, in the words that Xinference's clients know. Sizes in billions, lengths in tokens."""
    spec = deployment.spec
    return {
        "model_name": spec.name,
        "model_type": spec.kind.value,
        "model_family": spec.family or spec.name,
        "model_format": spec.format.value,
        "quantization": spec.quantization,
        "model_size_in_billions": spec.size_in_billions,
        "model_ability": list(spec.abilities),
        "model_engine": deployment.engine,
        "replica": deployment.replicas,
        "context_length": spec.context_length,
        "max_tokens": spec.context_length,
        "dimensions": spec.dimensions,
        "matryoshka_dimensions": list(spec.matryoshka_dims),
        "revision": deployment.revision,
    }
