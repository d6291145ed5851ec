"""From a LaunchRequest, in a user's words, to a Deployment: which model, which engine, which resources."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from xinfer.catalog import Catalog, introspect, located, shape_of
from xinfer.catalog.selection import described, kinds_of, select
from xinfer.catalog.sources import hub_source, is_symbolic, missing_weights
from xinfer.engines.base import Engine, parse_options
from xinfer.errors import InvalidRequest
from xinfer.ops import OPS_OF_KIND, Kind
from xinfer.protocol import LaunchRequest, WorkerHello
from xinfer.spec import Deployment, EnvironmentRequest, Estimate, ModelSpec
from xinfer.supervisor.admission import check_replicas
from xinfer.supervisor.capacity import uses_cpu
from xinfer.supervisor.environments import environment_request
from xinfer.supervisor.fileless import fileless_spec, placed_on_cpu
from xinfer.supervisor.resources import resources, wanted_workers
from xinfer.supervisor.standing import adapter_obstacle, read_adapters

MODEL_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
MOST_NAMES = 20
"""Of models that an error lists."""

Engines = Mapping[str, type[Engine]]
Sizing = Callable[[Deployment], tuple[Estimate, ...]]


class Registry:
    """Resolves launches against a catalog and the engines that are known here."""

    def __init__(self, catalog: Catalog, engines: Engines, estimates: Sizing = lambda _: ()) -> None:
        """``estimates``: what a replica will need."""
        self._catalog = catalog
        self._engines = engines
        self._estimates = estimates

    def resolve(self, request: LaunchRequest, workers: Sequence[WorkerHello], now: float) -> Deployment:
        """The Deployment that a launch asks for, on these living workers. Reads local files where a path is given.

        Raises:
            InvalidRequest: something in it is wrong or cannot be had; names the field and what would be right.
        """
        deployment = self.meant(request, workers, now)
        if hub_source(deployment.spec.source):
            raise missing_weights(described(deployment.spec), deployment.spec.source, *deployment.spec.mirrors)
        return deployment

    def meant(self, request: LaunchRequest, workers: Sequence[WorkerHello], now: float) -> Deployment:
        """As ``resolve``, also for a model whose weights are on hubs only: what it would be, and what it would need.

        Raises:
            InvalidRequest: as ``resolve``.
        """
        check_replicas(request.replica)
        workers = wanted_workers(request, workers)
        specs = _selected(request, self._specs(request))
        model_uid = check_model_uid(request.model_uid or specs[0].name)
        environment = environment_request(request)
        spec, engine = self._choose_engine(request, specs, workers, environment)
        if spec.shape is None:
            spec = msgspec.structs.replace(spec, shape=shape_of(spec))
        for adapter in request.adapters:
            check_model_uid(adapter.name, "adapters")
        adapters, options = read_adapters(request.adapters, spec, engine, request.options)
        parse_options(engine.Options, options, engine.name)
        if getattr(engine, "fileless", False):
            request = placed_on_cpu(request)
        deployment = Deployment(
            model_uid=model_uid,
            spec=spec,
            engine=engine.name,
            replicas=request.replica,
            request=resources(request, workers),
            options=options,
            adapters=adapters,
            envs=_checked_envs(request.envs),
            fallback=_checked_fallback(request.fallback or "", model_uid),
            environment=environment,
            created_at=now,
        )
        return msgspec.structs.replace(deployment, estimates=self._estimates(deployment))

    def _specs(self, request: LaunchRequest) -> tuple[ModelSpec, ...]:
        """What the name or path can mean, the preferred spec first."""
        name = request.model_name.strip()
        if request.model_path:
            return (introspect(_absolute(request.model_path), name),)
        if name and request.model_engine and getattr(self._named(request.model_engine), "fileless", False):
            kind = kinds_of(request.model_type or Kind.LLM)[0]
            _check_served(name, kind)
            return (fileless_spec(name, kind),)
        specs = self._catalog.find(name)
        if specs:
            return specs
        if name and Path(name).expanduser().exists():
            return (introspect(_absolute(name)),)
        remote = hub_source(name)
        specs = self._catalog.in_repository(remote.repository if remote else name)
        if specs:
            return specs
        if remote:
            raise missing_weights(remote.repository, name)
        raise InvalidRequest(
            f"no model {name!r} in the catalog ({self._hint(name)}); a model of your own is launched with the path of "
            "its folder",
            param="model_name",
        )

    def _hint(self, name: str) -> str:
        names = self._catalog.names()
        meant = self._catalog.similar(name) or difflib.get_close_matches(name.lower(), names, n=3)
        if meant:
            return f"did you mean {' or '.join(meant[:MOST_NAMES])}?"
        if len(names) <= MOST_NAMES:
            return f"there are: {', '.join(names)}"
        return f"it has {len(names)} models: xinfer models catalog, GET /v1/catalog"

    def _choose_engine(
        self,
        request: LaunchRequest,
        specs: Sequence[ModelSpec],
        workers: Sequence[WorkerHello],
        environment: EnvironmentRequest,
    ) -> tuple[ModelSpec, type[Engine]]:
        engines = [self._named(request.model_engine)] if request.model_engine else list(self._engines.values())
        on_cpu = uses_cpu(workers, resources(request, workers)) if len(engines) > 1 else True
        trials = [
            _Trial(
                engine,
                spec,
                _obstacle(engine, spec, workers, environment) or adapter_obstacle(engine, request.adapters),
            )
            for engine in sorted(engines, key=lambda engine: -_preference(engine, on_cpu=on_cpu))
            for spec in specs
        ]
        for trial in trials:
            if not trial.obstacle:
                return trial.spec, trial.engine
        reasons = "; ".join(dict.fromkeys(f"{trial.engine.name}: {trial.obstacle}" for trial in trials))
        raise InvalidRequest(f"no engine can serve {specs[0].name!r} here: {reasons}", param="model_engine")

    def _named(self, name: str) -> type[Engine]:
        for engine in self._engines.values():
            if _plain(engine.name) == _plain(name):
                return engine
        known = ", ".join(sorted(self._engines))
        raise InvalidRequest(f"there is no engine {name!r}; the known ones are: {known}", param="model_engine")


def _preference(engine: type[Engine], *, on_cpu: bool) -> int:
    special: int | None = getattr(engine, "accelerator_preference", None)
    return engine.preference if on_cpu or special is None else special


class _Trial(NamedTuple):
    """An engine, a set of weights, and why they do not go together here (empty: they do)."""

    engine: type[Engine]
    spec: ModelSpec
    obstacle: str


def _absolute(source: str) -> str:
    """A path that means the same in the directory of a replica; symbolic sources stay as they are."""
    return source if is_symbolic(source) else str(Path(source).expanduser().absolute())


def _obstacle(
    engine: type[Engine], spec: ModelSpec, workers: Sequence[WorkerHello], environment: EnvironmentRequest
) -> str:
    try:
        match = engine.accepts(spec if hub_source(spec.source) else located(spec))
    except InvalidRequest as error:
        return error.message
    if not match.ok:
        return match.reason
    offers = [hello.engines.get(engine.name) for hello in workers]
    if any(offer and offer.serves(environment) for offer in offers):
        return ""
    if any(offer and offer.ok for offer in offers):  # then it is the environment that cannot be had
        return f"no worker has it in {'an environment of its own' if environment.is_own else 'its own Python'}"
    reasons = dict.fromkeys(offer.reason for offer in offers if offer and offer.reason)
    hint = "; ".join(reasons) or (f"install it there with: {engine.install}" if engine.install else "")
    return f"not installed on any worker: {hint}" if hint else "not known to any worker"


def _plain(name: str) -> str:
    """Engine names as people write them: "Sentence-Transformers", "llama.cpp"."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _selected(request: LaunchRequest, specs: Sequence[ModelSpec]) -> list[ModelSpec]:
    """The specs that the request's words leave; those that are on hubs only where there are no others.

    Raises:
        InvalidRequest: there is no such combination, or nothing serves models of its kind.
    """
    left = select(
        specs,
        kind=request.model_type,
        size=request.model_size_in_billions,
        weights_format=request.model_format,
        quantization=request.quantization,
    )
    _check_served(left[0].name, left[0].kind)
    return [spec for spec in left if hub_source(spec.source) is None] or left


def _check_served(name: str, kind: Kind) -> None:
    if not OPS_OF_KIND[kind]:
        served = ", ".join(known.value for known, ops in OPS_OF_KIND.items() if ops)
        raise InvalidRequest(
            f"{name!r} is a model for {kind.value}, which no engine here serves; these types are served: {served}",
            param="model_type",
        )


def check_model_uid(model_uid: str, param: str = "model_uid") -> str:
    """The model_uid, if it can be part of a URL and of file names. ``param`` names the field that it stands in.

    Raises:
        InvalidRequest: it cannot.
    """
    if not MODEL_UID.fullmatch(model_uid) or ".." in model_uid or "//" in model_uid or model_uid.endswith("/"):
        raise InvalidRequest(
            f"{model_uid!r} is no model_uid: up to 128 letters, digits and . _ : / -, the first a letter or digit, "
            "no '..' and no empty part",
            param=param,
        )
    return model_uid


def _checked_fallback(fallback: str, model_uid: str) -> str:
    """It need not be there yet: it is looked for when it is needed."""
    if fallback == model_uid:
        raise InvalidRequest(f"{model_uid!r} cannot stand in for itself", param="fallback")
    return fallback and check_model_uid(fallback, "fallback")


def _checked_envs(envs: dict[str, str]) -> dict[str, str]:
    for name, value in envs.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidRequest(f"{name!r} cannot be an environment variable", param="envs")
    return envs
