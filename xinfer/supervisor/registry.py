"""From a LaunchRequest, in a user's words, to a Deployment: which model, which engine, which resources."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from xinfer.catalog.overrides import overridden, with_context
from xinfer.catalog.remote_code import require_allowed, require_asked_for
from xinfer.catalog.roots import Roots
from xinfer.catalog.selection import kinds_of, size_of
from xinfer.catalog.sources import hub_source
from xinfer.catalog.weight_sets import WeightSet
from xinfer.engines.base import Engine, RunsRemoteCode, parse_options
from xinfer.errors import InvalidRequest
from xinfer.ops import OPS_OF_KIND, Kind
from xinfer.protocol import LaunchRequest, WorkerHello
from xinfer.spec import Deployment, Estimate, ModelSpec
from xinfer.supervisor.admission import check_replicas
from xinfer.supervisor.environments import environment_request
from xinfer.supervisor.fileless import fileless_spec, placed_on_cpu
from xinfer.supervisor.matching import Combination, Fit, Room, Terms, combinations, idle_warning, in_words, refusal
from xinfer.supervisor.meaning import Elsewhere, KnownModels, Meanings, Meant, Nowhere, selected
from xinfer.supervisor.resources import resources, wanted_workers
from xinfer.supervisor.spanning import require_gang
from xinfer.supervisor.standing import read_adapters

MODEL_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")

Engines = Mapping[str, type[Engine]]
Sizing = Callable[[Deployment], tuple[Estimate, ...]]


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
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Make one.

        Args:
            models: by name.
            engines: by name.
            estimates: what a replica will need.
            roots: where paths may lead; None: anywhere.
            remote_code: whether launches may have Python code from models' folders run.
            elsewhere: asks hubs and workers what is not here; None: nobody is asked.
        """
        self._remote_code = remote_code
        self._engines = engines
        self._estimates = estimates
        self._roots = roots or Roots([Path("/")])
        self._meanings = Meanings(models, self._roots, elsewhere or Nowhere())

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
        check_replicas(request.replica)
        workers = wanted_workers(request, workers)
        known, found = self._meant(request)
        specs = _selected(request, known)
        model_uid = check_model_uid(request.model_uid or specs[0].name)
        terms = _terms(request, workers)
        tried = combinations(self._engines_of(request), specs, terms)
        chosen, passed_over = self._best(request, tried, terms, room)
        engine, spec = chosen.engine, self._meanings.read(chosen.spec)
        for adapter in request.adapters:
            check_model_uid(adapter.name, "adapters")
            self._roots.require(adapter.path, "adapters")
        adapters, options = read_adapters(request.adapters, spec, engine, request.options)
        options = with_context(options, request.overrides, engine.memory.context_options if request.overrides else ())
        parse_options(engine.Options, options, engine.name)
        require_gang(engine, options, terms.wanted.workers)
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
            environment=chosen.environment(terms),
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
            "; ".join(filter(None, (picked, found))),
            (warning,) if warning else (),
        )

    def weights(self, request: LaunchRequest) -> tuple[WeightSet, ...]:
        """The weights on hubs that a launch would have downloaded: where they are, the preferred place first.

        Raises:
            InvalidRequest: there are none; says why.
            DownloadFailed: the hubs do not say.
        """
        return self._meanings.weights(request)

    def matches(
        self, request: LaunchRequest, workers: Sequence[WorkerHello], room: Room
    ) -> list[tuple[Combination, Fit | None]]:
        """Everything that could be picked for a launch, the best first, and whether it fits now.

        Sizes that the launch does not name are all there. There is no Fit where something else stands against it.

        Raises:
            InvalidRequest: there is no such model, or nothing of it is as the launch says.
        """
        workers = wanted_workers(request, workers)
        specs = _selected(request, self._meant(request).specs, every_size=True)
        terms = _terms(request, workers)
        # Engines that could be installed are worth a look, too.
        terms = terms._replace(environment=msgspec.structs.replace(terms.environment, build=True))
        return [
            (one, None if one.obstacle else room(self._draft(request, one, terms)))
            for one in combinations(self._engines_of(request), specs, terms)
        ]

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
            environment=combination.environment(terms),
        )
        return msgspec.structs.replace(draft, estimates=self._estimates(draft))

    def _check_remote_code(self, engine: type[Engine], spec: ModelSpec, options: Mapping[str, Any]) -> None:
        require_allowed(options, allowed=self._remote_code)
        if spec.remote_code and issubclass(engine, RunsRemoteCode) and engine.needs_remote_code(spec):
            require_asked_for(spec, options, engine.name)

    def _meant(self, request: LaunchRequest) -> Meant:
        """What the name or path can mean, with what the launch says about it, the preferred spec first."""
        name, engine = request.model_name.strip(), request.model_engine
        if name and engine and not request.model_path and getattr(self._named(engine), "fileless", False):
            kind = kinds_of(request.model_type or Kind.LLM)[0]
            _check_served(name, kind)
            return Meant(overridden((fileless_spec(name, kind),), request.overrides))
        return self._meanings.of(request)

    def _named(self, name: str) -> type[Engine]:
        for engine in self._engines.values():
            if _plain(engine.name) == _plain(name):
                return engine
        known = ", ".join(sorted(self._engines))
        raise InvalidRequest(f"there is no engine {name!r}; the known ones are: {known}", param="model_engine")


def _terms(request: LaunchRequest, workers: Sequence[WorkerHello]) -> Terms:
    return Terms(workers, environment_request(request), resources(request, workers), request.adapters, request.options)


def _plain(name: str) -> str:
    """Engine names as people write them: "Sentence-Transformers", "llama.cpp"."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _selected(request: LaunchRequest, specs: Sequence[ModelSpec], *, every_size: bool = False) -> list[ModelSpec]:
    """The specs that the request's words leave; those that are on hubs only where there are no others.

    They are of one size: where the request names none, of the default one; or with ``every_size`` of all.

    Raises:
        InvalidRequest: there is no such combination, or nothing serves models of its kind.
    """
    left = selected(request, specs, every_size=every_size)
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
