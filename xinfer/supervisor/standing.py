"""What may change of a model while its replicas run: its adapters, and whether it sleeps. Pure, but for reading files.

As in ``admission``, each question is answered with the Deployment that is to be stored and then set, or raises.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from xinfer import plugins
from xinfer.catalog import read_adapter
from xinfer.engines.base import Engine, Sleeps, TakesAdapters
from xinfer.errors import Conflict, InvalidRequest, LoadFailed, NotFound, UnsupportedParameter
from xinfer.protocol import ReplicaStatus, Standing, StandingOrder
from xinfer.spec import Adapter, Deployment, ModelSpec, ReplicaState
from xinfer.supervisor.admission import find
from xinfer.supervisor.cluster import Cluster

NO_ADAPTERS = "it serves no adapters"
PARAM = "adapters"


def adapter_obstacle(engine: type[Engine], adapters: Sequence[Adapter]) -> str:
    """Why an engine is nothing for a launch with these adapters; empty: it is."""
    return NO_ADAPTERS if adapters and not issubclass(engine, TakesAdapters) else ""


def read_adapters(
    adapters: Sequence[Adapter], spec: ModelSpec, engine: type[Engine], options: Mapping[str, Any]
) -> tuple[tuple[Adapter, ...], dict[str, Any]]:
    """The adapters of a launch as their files describe them, and the options that the engine needs for them.

    Raises:
        InvalidRequest: one of them is none, is of another model, or nothing for this engine with these options.
    """
    if not adapters and not issubclass(engine, TakesAdapters):
        return (), dict(options)
    named: dict[str, Adapter] = {}
    for adapter in adapters:
        if adapter.name in named:
            raise InvalidRequest(f"two adapters are called {adapter.name!r}", param=PARAM)
        named[adapter.name] = read_adapter(adapter, spec)
    read = tuple(named.values())
    taker = _taker(engine)
    options = taker.options_with_adapters(options, read)
    for adapter in read:
        _require_accepted(taker, options, adapter)
    return read, options


def require_free_names(cluster: Cluster, wanted: Deployment) -> None:
    """Whether no other model or adapter has the names that a launch wants.

    Raises:
        Conflict: one is in use; says by what.
    """
    for name in (wanted.model_uid, *(adapter.name for adapter in wanted.adapters)):
        owner = _owner(cluster, name, without=wanted.model_uid)
        if owner:
            raise Conflict(f"the name {name!r} is in use by {owner}; choose another one", param="model_uid")
    if any(adapter.name == wanted.model_uid for adapter in wanted.adapters):
        raise Conflict(f"the model and its adapter cannot both be called {wanted.model_uid!r}", param=PARAM)


def missing_fallback(cluster: Cluster, wanted: Deployment) -> tuple[str, ...]:
    """A warning, where what is to stand in for a model is not launched: it may come later, or be misspelt."""
    if not wanted.fallback or _owner(cluster, wanted.fallback, without=wanted.model_uid):
        return ()
    return (f"the fallback {wanted.fallback!r} is not launched: until it is, nothing stands in for this model",)


def with_adapter(cluster: Cluster, model_uid: str, adapter: Adapter) -> Deployment:
    """The Deployment with one adapter more. The very same one again changes nothing.

    Raises:
        UnknownModel: there is no such model.
        Conflict: the name is in use.
        InvalidRequest: the engine takes no adapters, or not this one.
    """
    deployment = find(cluster, model_uid).deployment
    if adapter in deployment.adapters:
        return deployment
    owner = _owner(cluster, adapter.name)
    if owner:
        raise Conflict(f"the name {adapter.name!r} is in use by {owner}; choose another one", param="name")
    _require_accepted(_taker(_engine_of(deployment)), deployment.options, adapter)
    return msgspec.structs.replace(deployment, adapters=(*deployment.adapters, adapter))


def without_adapter(cluster: Cluster, model_uid: str, name: str) -> Deployment:
    """The Deployment without one of its adapters.

    Raises:
        UnknownModel: there is no such model.
        NotFound: it has no such adapter.
    """
    deployment = find(cluster, model_uid).deployment
    left = tuple(adapter for adapter in deployment.adapters if adapter.name != name)
    if len(left) == len(deployment.adapters):
        has = ", ".join(adapter.name for adapter in deployment.adapters) or "none"
        raise NotFound(f"model {model_uid!r} has no adapter {name!r}; it has: {has}", param="name")
    return msgspec.structs.replace(deployment, adapters=left)


def asleep(cluster: Cluster, model_uid: str, level: int) -> Deployment:
    """The Deployment of a model that is to sleep.

    Raises:
        UnknownModel: there is no such model.
        InvalidRequest: its engine cannot sleep, or not so; says what could.
    """
    deployment = find(cluster, model_uid).deployment
    engine = _engine_of(deployment)
    if not issubclass(engine, Sleeps):
        raise UnsupportedParameter(
            f"the engine {engine.name!r} of {model_uid!r} cannot sleep; these can: {_names_of(Sleeps)}", param="level"
        )
    match = engine.accepts_sleep(deployment.options, level)
    if not match.ok:
        raise InvalidRequest(f"{model_uid!r} cannot sleep: {match.reason}", param="level")
    return msgspec.structs.replace(deployment, sleep_level=level)


def awake(cluster: Cluster, model_uid: str) -> Deployment:
    """The Deployment of a model that is to serve; one that is awake stays so.

    Raises:
        UnknownModel: there is no such model.
    """
    return msgspec.structs.replace(find(cluster, model_uid).deployment, sleep_level=0)


def obeyed(deployment: Deployment, replicas: Iterable[ReplicaStatus], adapter: str = "") -> bool:
    """Whether every replica that runs has done what it was ordered, as far as it can.

    Raises:
        LoadFailed: one of them cannot load that ``adapter``, or does not fall asleep; says why.
    """
    order = StandingOrder.of(deployment)
    running = [replica for replica in replicas if replica.state is ReplicaState.READY]
    for replica in running:
        for failure in replica.standing.failures:
            if failure.adapter.name == adapter and failure.adapter in order.adapters:
                raise LoadFailed(f"adapter {adapter!r} could not be loaded: {failure.reason}")
        if order.sleep_level and replica.standing.complaint:
            raise LoadFailed(f"{replica.replica_id!r} does not fall asleep: {replica.standing.complaint}")
    return all(_has_obeyed(order, replica.standing) for replica in running)


def _has_obeyed(order: StandingOrder, standing: Standing) -> bool:
    """Whether nothing is left to do. Adapters of a model that sleeps wait until it is woken."""
    tried = {*standing.adapters, *(failure.adapter for failure in standing.failures)}
    return standing.sleep_level == order.sleep_level and (order.sleep_level > 0 or tried == set(order.adapters))


def _owner(cluster: Cluster, name: str, without: str = "") -> str:
    """What has a name that clients use; empty: nothing. The model ``without`` does not count."""
    for uid, model in cluster.models.items():
        if uid == without:
            continue
        if uid == name:
            return "a model"
        if model.has_adapter(name):
            return f"an adapter of {uid!r}"
    return ""


def _engine_of(deployment: Deployment) -> type[Engine]:
    engine: type[Engine] | None = plugins.engines().get(deployment.engine)
    if engine is None:
        raise InvalidRequest(f"the engine {deployment.engine!r} is not installed where the supervisor runs")
    return engine


def _taker(engine: type[Engine]) -> type[TakesAdapters]:
    if not issubclass(engine, TakesAdapters):
        raise UnsupportedParameter(
            f"the engine {engine.name!r} serves no adapters; these do: {_names_of(TakesAdapters)}", param=PARAM
        )
    return engine


def _names_of(ability: type) -> str:
    return ", ".join(sorted(name for name, engine in plugins.engines().items() if issubclass(engine, ability)))


def _require_accepted(engine: type[TakesAdapters], options: Mapping[str, Any], adapter: Adapter) -> None:
    match = engine.accepts_adapter(options, adapter)
    if not match.ok:
        raise InvalidRequest(f"adapter {adapter.name!r}: {match.reason}", param=PARAM)
