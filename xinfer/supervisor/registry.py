"""From a LaunchRequest, in a user's words, to a Deployment: which model, which engine, which resources."""

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from xinfer.catalog import introspect, shape_of
from xinfer.catalog.overrides import overridden, with_context
from xinfer.catalog.registered import completed
from xinfer.catalog.remote_code import require_allowed, require_asked_for
from xinfer.catalog.roots import Roots, absolute
from xinfer.catalog.selection import kinds_of, select, size_of
from xinfer.catalog.sources import HubSource, hub_source, is_symbolic, unknown_weights
from xinfer.engines.base import Engine, RunsRemoteCode, parse_options
from xinfer.errors import InvalidRequest
from xinfer.ops import OPS_OF_KIND, Kind
from xinfer.protocol import LaunchRequest, WorkerHello
from xinfer.spec import Deployment, Estimate, Format, ModelSpec
from xinfer.supervisor.admission import check_replicas
from xinfer.supervisor.environments import environment_request
from xinfer.supervisor.fileless import fileless_spec, placed_on_cpu
from xinfer.supervisor.matching import Combination, Fit, Room, Terms, combinations, idle_warning, in_words, refusal
from xinfer.supervisor.resources import resources, wanted_workers
from xinfer.supervisor.standing import read_adapters

MODEL_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
MOST_NAMES = 20
"""Of models that an error lists."""

Engines = Mapping[str, type[Engine]]
Sizing = Callable[[Deployment], tuple[Estimate, ...]]
Look = Callable[[HubSource, Collection[Kind]], ModelSpec]


class KnownModels(Protocol):
    """Models by name: the built-in catalog, or that and what was registered."""

    def names(self) -> list[str]:
        """Every model, sorted."""

    def find(self, name: str) -> tuple[ModelSpec, ...]:
        """The specs of a model by its name or alias, the preferred one first; empty if there is none."""

    def in_repository(self, repository: str) -> tuple[ModelSpec, ...]:
        """The specs whose weights are in a repository of a hub."""

    def similar(self, name: str) -> list[str]:
        """The models that somebody may mean who writes a name that is none."""


class Choice(NamedTuple):
    """What a launch becomes: the Deployment, what was picked for it and why, and what should be known about that."""

    deployment: Deployment
    picked: str = ""
    warnings: tuple[str, ...] = ()


class Registry:
    """Resolves launches against the models and the engines that are known here."""

    def __init__(
        self,
        models: KnownModels,
        engines: Engines,
        estimates: Sizing = lambda _: (),
        roots: Roots | None = None,
        *,
        remote_code: bool = False,
        look: Look = unknown_weights,
    ) -> None:
        """Make one.

        Args:
            models: by name.
            engines: by name.
            estimates: what a replica will need.
            roots: where paths may lead; None: anywhere.
            remote_code: whether launches may have Python code from models' folders run.
            look: what a repository of a hub holds that is not in the catalog.
        """
        self._remote_code = remote_code
        self._look = look
        self._models = models
        self._engines = engines
        self._estimates = estimates
        self._roots = roots or Roots([Path("/")])

    def resolve(self, request: LaunchRequest, workers: Sequence[WorkerHello], now: float) -> Deployment:
        """The Deployment that a launch asks for, on these living workers. Reads local files where a path is given.

        Raises:
            InvalidRequest: something in it is wrong or cannot be had; names the field and what would be right.
            PathNotAllowed: a path in it leads out of the folders that models may be read from.
        """
        return self.choose(request, workers, now).deployment

    def choose(
        self, request: LaunchRequest, workers: Sequence[WorkerHello], now: float, room: Room | None = None
    ) -> Choice:
        """As ``resolve``, with the reasons. ``room``: what fits goes before what does not.

        Raises:
            InvalidRequest: as ``resolve``.
        """
        return self._choice(request, workers, now, room)

    def meant(self, request: LaunchRequest, workers: Sequence[WorkerHello], now: float) -> Deployment:
        """As ``resolve``, also for a model whose weights are on hubs only: what it would be, and what it would need.

        Raises:
            InvalidRequest: as ``resolve``.
        """
        return self._choice(request, workers, now, None).deployment

    def matches(
        self, request: LaunchRequest, workers: Sequence[WorkerHello], room: Room
    ) -> list[tuple[Combination, Fit | None]]:
        """Everything that could be picked for a launch, the best first, and whether it fits now.

        Sizes that the launch does not name are all there. There is no Fit where something else stands against it.

        Raises:
            InvalidRequest: there is no such model, or nothing of it is as the launch says.
        """
        workers = wanted_workers(request, workers)
        specs = _selected(request, self._told_specs(request), every_size=True)
        terms = _terms(request, workers)
        # Engines that could be installed are worth a look, too.
        terms = terms._replace(environment=msgspec.structs.replace(terms.environment, build=True))
        return [
            (one, None if one.obstacle else room(self._draft(request, one, terms)))
            for one in combinations(self._engines_of(request), specs, terms)
        ]

    def _choice(self, request: LaunchRequest, workers: Sequence[WorkerHello], now: float, room: Room | None) -> Choice:
        check_replicas(request.replica)
        workers = wanted_workers(request, workers)
        known = self._told_specs(request)
        specs = _selected(request, known)
        model_uid = check_model_uid(request.model_uid or specs[0].name)
        terms = _terms(request, workers)
        tried = combinations(self._engines_of(request), specs, terms)
        chosen, passed_over = self._best(request, tried, terms, room)
        engine, spec = chosen.engine, chosen.spec
        if spec.shape is None:
            spec = msgspec.structs.replace(spec, shape=shape_of(spec))
        for adapter in request.adapters:
            check_model_uid(adapter.name, "adapters")
            self._roots.require(adapter.path, "adapters")
        adapters, options = read_adapters(request.adapters, spec, engine, request.options)
        options = with_context(options, request.overrides, engine.memory.context_options if request.overrides else ())
        parse_options(engine.Options, options, engine.name)
        self._check_remote_code(engine, spec, options)
        placed = placed_on_cpu(request) if chosen.idles or getattr(engine, "fileless", False) else request
        deployment = Deployment(
            model_uid=model_uid,
            spec=spec,
            engine=engine.name,
            replicas=request.replica,
            request=resources(placed, workers),
            options=options,
            adapters=adapters,
            envs=_checked_envs(request.envs),
            fallback=_checked_fallback(request.fallback or "", model_uid),
            environment=terms.environment,
            created_at=now,
        )
        picked = in_words(
            chosen,
            tried,
            passed_over,
            terms=terms,
            engine_named=bool(request.model_engine),
            default_size=request.model_size_in_billions is None and len({size_of(one) for one in known}) > 1,
        )
        warning = idle_warning(chosen)
        return Choice(
            msgspec.structs.replace(deployment, estimates=self._estimates(deployment)),
            picked,
            (warning,) if warning else (),
        )

    def _best(
        self,
        request: LaunchRequest,
        tried: Sequence[Combination],
        terms: Terms,
        room: Room | None,
    ) -> tuple[Combination, list[tuple[Combination, Fit]]]:
        """The first combination that fits, or if none does the first; and those before it, which do not fit.

        Raises:
            InvalidRequest: there is none; the most useful reasons.
        """
        able = [one for one in tried if one.obstacle is None]
        if not able:
            raise refusal(tried[0].spec.name, tried)
        if room is None or len(able) == 1:
            return able[0], []
        passed_over: list[tuple[Combination, Fit]] = []
        for one in able:
            fit = room(self._draft(request, one, terms))
            if fit.fits:
                return one, passed_over
            passed_over.append((one, fit))
        return able[0], []

    def _engines_of(self, request: LaunchRequest) -> list[type[Engine]]:
        return [self._named(request.model_engine)] if request.model_engine else list(self._engines.values())

    def _draft(self, request: LaunchRequest, combination: Combination, terms: Terms) -> Deployment:
        """As far as it takes to say how much memory a replica needs, and where that is."""
        draft = Deployment(
            model_uid=request.model_uid or combination.spec.name,
            spec=combination.spec,
            engine=combination.engine.name,
            request=terms.wanted,
            options=request.options,
            environment=terms.environment,
        )
        return msgspec.structs.replace(draft, estimates=self._estimates(draft))

    def _check_remote_code(self, engine: type[Engine], spec: ModelSpec, options: Mapping[str, Any]) -> None:
        require_allowed(options, allowed=self._remote_code)
        if spec.remote_code and issubclass(engine, RunsRemoteCode) and engine.needs_remote_code(spec):
            require_asked_for(spec, options, engine.name)

    def _told_specs(self, request: LaunchRequest) -> tuple[ModelSpec, ...]:
        """What the name or path can mean, with what the launch says about it."""
        return overridden(self._specs(request), request.overrides)

    def _specs(self, request: LaunchRequest) -> tuple[ModelSpec, ...]:
        """What the name or path can mean, the preferred spec first."""
        name = request.model_name.strip()
        if request.model_path:
            return (self._at(request.model_path, name, _told_kinds(request)),)
        if name and request.model_engine and getattr(self._named(request.model_engine), "fileless", False):
            kind = kinds_of(request.model_type or Kind.LLM)[0]
            _check_served(name, kind)
            return (fileless_spec(name, kind),)
        specs = self._models.find(name)
        if specs:
            return tuple(map(self._read, specs))
        if self._is_path(name):
            return (introspect(absolute(name, "model_name"), kinds=_told_kinds(request)),)
        remote = hub_source(name)
        specs = self._models.in_repository(remote.repository if remote else name)
        if specs:
            return specs
        if remote:
            return (self._look(remote, _told_kinds(request)),)
        raise InvalidRequest(
            f"no model {name!r} in the catalog ({self._hint(name)}); a model of your own is launched with the path of "
            "its folder",
            param="model_name",
        )

    def _at(self, path: str, name: str, kinds: Sequence[Kind]) -> ModelSpec:
        """What is at a path, or in a repository of a hub."""
        if remote := hub_source(path):
            return msgspec.structs.replace(self._look(remote, kinds), name=name or remote.title)
        self._roots.require(path)
        return introspect(absolute(path), name, kinds)

    def _read(self, spec: ModelSpec) -> ModelSpec:
        """The spec of a registered folder or file with what its own files say, where its registration does not.

        Raises:
            PathNotAllowed: it leads out of the folders that models may be read from.
        """
        if spec.source and spec.format is not Format.NONE:
            self._roots.require(spec.source)
        return completed(spec)

    def _is_path(self, name: str) -> bool:
        """Whether a name that is none of the catalog is a path that there is.

        Raises:
            PathNotAllowed: it can only be a path, and leads out of the folders that models may be read from.
        """
        if not name or is_symbolic(name):
            return False
        if name.startswith(("/", "./", "../", "~")):
            self._roots.require(name, "model_name")
        return self._roots.allow(name) and Path(absolute(name, "model_name")).exists()

    def _hint(self, name: str) -> str:
        names = self._models.names()
        meant = self._models.similar(name) or difflib.get_close_matches(name.lower(), names, n=3)
        if meant:
            return f"did you mean {' or '.join(meant[:MOST_NAMES])}?"
        if len(names) <= MOST_NAMES:
            return f"there are: {', '.join(names)}"
        return f"it has {len(names)} models: xinfer models catalog, GET /v1/catalog"

    def _named(self, name: str) -> type[Engine]:
        for engine in self._engines.values():
            if _plain(engine.name) == _plain(name):
                return engine
        known = ", ".join(sorted(self._engines))
        raise InvalidRequest(f"there is no engine {name!r}; the known ones are: {known}", param="model_engine")


def _told_kinds(request: LaunchRequest) -> tuple[Kind, ...]:
    return kinds_of(request.model_type) if request.model_type else ()


def _terms(request: LaunchRequest, workers: Sequence[WorkerHello]) -> Terms:
    return Terms(workers, environment_request(request), resources(request, workers), request.adapters)


def _plain(name: str) -> str:
    """Engine names as people write them: "Sentence-Transformers", "llama.cpp"."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _selected(request: LaunchRequest, specs: Sequence[ModelSpec], *, every_size: bool = False) -> list[ModelSpec]:
    """The specs that the request's words leave; those that are on hubs only where there are no others.

    They are of one size: where the request names none, of the default one; or with ``every_size`` of all.

    Raises:
        InvalidRequest: there is no such combination, or nothing serves models of its kind.
    """
    left = select(
        specs,
        kind=request.model_type,
        size=request.model_size_in_billions,
        weights_format=request.model_format,
        quantization=request.quantization,
        every_size=every_size,
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
