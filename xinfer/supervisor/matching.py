"""Which engine runs which weights of a model on these workers, the best first, and what stands against every other.

Pure: what the workers offer, what a replica would need, and where there is room are arguments. A launch that leaves
engine and weights open takes the first combination that fits; ``xinfer engine query`` shows them all.

Best first means: what runs at once before what has to be installed first; what computes on the accelerators before
what leaves them idle; the engine that is preferred on such devices; and of its weights those that come first in the
catalog, which has the best balance of quality and size first.
"""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from xinfer.catalog import located
from xinfer.catalog.selection import described
from xinfer.catalog.sources import hub_source, is_here
from xinfer.engines.base import Engine, NeedsPackages
from xinfer.errors import InvalidRequest
from xinfer.packages import distribution
from xinfer.protocol import EngineOffer, WorkerHello
from xinfer.spec import Adapter, Deployment, EnvironmentRequest, ModelSpec, ResourceRequest
from xinfer.supervisor.capacity import CPU, Ledger, uses_cpu
from xinfer.supervisor.spanning import gang_obstacle
from xinfer.supervisor.standing import adapter_obstacle

ANY = "any"
"""The ``device_kind`` of a launch that leaves the devices open."""
MOST_REASONS = 4
"""Of a refusal; the query has them all."""


class Hindrance(IntEnum):
    """What keeps a combination from running, the easiest to mend first. The names in lower case are for programs."""

    MEMORY = 1
    """It is too large for what is free."""
    LIBRARY = 2
    """No worker has the engine."""
    DEVICE = 3
    """The engine, as it is installed, computes on other devices than were asked for."""
    ENVIRONMENT = 4
    """The engine is there, but not in the Python that was asked for."""
    WEIGHTS = 5
    """The files are not where they should be."""
    ADAPTERS = 6
    """It does not serve adapters."""
    WORKERS = 7
    """It runs on one worker only."""
    MODEL = 8
    """The engine reads such files, but not these."""
    FORMAT = 9
    """The format is for another engine."""


class Obstacle(NamedTuple):
    """Why a combination does not run, in words that can be acted on."""

    hindrance: Hindrance
    reason: str
    command: str = ""
    """What mends it."""


class Combination(NamedTuple):
    """An engine, a set of weights, and what stands against them here; None: nothing but, perhaps, room."""

    engine: type[Engine]
    spec: ModelSpec
    obstacle: Obstacle | None = None
    installs: bool = False
    """The engine is installed first; a launch that names it does so by itself."""
    idles: str = ""
    """Why the accelerators would be idle."""
    packages: tuple[str, ...] = ()
    """What its environment has to hold for these weights, which those that are ready do not."""

    def environment(self, terms: "Terms") -> EnvironmentRequest:
        """The Python that replicas of it run on: as the launch says, with what these weights need."""
        return _with_packages(terms.environment, self.packages)


class Terms(NamedTuple):
    """What a launch asks for besides a model, and who could give it."""

    workers: Sequence[WorkerHello]
    environment: EnvironmentRequest
    wanted: ResourceRequest
    adapters: Sequence[Adapter] = ()
    options: Mapping[str, Any] = {}
    """Engine keywords."""

    @property
    def on_cpu(self) -> bool:
        """Whether it would get CPUs: they were asked for, or there is nothing else."""
        return uses_cpu(self.workers, self.wanted)

    def offers(self, engine: type[Engine]) -> list[EngineOffer]:
        """What the workers say about an engine."""
        return [offer for hello in self.workers if (offer := hello.engines.get(engine.name))]


class Fit(NamedTuple):
    """Whether one more replica has room now. MiB."""

    fits: bool = True
    device_kind: str = ""
    where: str = ""
    """The worker and the devices."""
    needed_mib: int = 0
    missing_mib: int = 0
    """On the device that comes nearest."""
    reason: str = ""


Room = Callable[[Deployment], Fit]


def preference(engine: type[Engine], *, on_cpu: bool) -> int:
    """How much an engine is preferred on CPUs, or on accelerators."""
    special: int | None = getattr(engine, "accelerator_preference", None)
    return engine.preference if on_cpu or special is None else special


def combinations(engines: Iterable[type[Engine]], specs: Sequence[ModelSpec], terms: Terms) -> list[Combination]:
    """Every engine with every set of weights, the best first. ``specs``: the preferred one first."""
    ordered = sorted(engines, key=lambda engine: -preference(engine, on_cpu=terms.on_cpu))
    return sorted((_combination(engine, spec, terms) for engine in ordered for spec in specs), key=_order)


def _order(found: Combination) -> tuple[int, bool, bool]:
    """Of equals, the order of engines and weights stays."""
    return found.obstacle.hindrance if found.obstacle else 0, found.installs, bool(found.idles)


def _combination(engine: type[Engine], spec: ModelSpec, terms: Terms) -> Combination:
    obstacle = _unsuited(engine, spec)
    if obstacle is None and (reason := adapter_obstacle(engine, terms.adapters)):
        obstacle = Obstacle(Hindrance.ADAPTERS, reason)
    if obstacle is None and (reason := gang_obstacle(engine, terms.wanted.workers)):
        obstacle = Obstacle(Hindrance.WORKERS, reason)
    if obstacle is not None:
        return Combination(engine, spec, obstacle)
    offers = terms.offers(engine)
    if not any(offer.serves(terms.environment) for offer in offers):
        return Combination(engine, spec, _not_offered(engine, offers, terms.environment))
    try:
        packages = _missing_packages(engine, spec, offers, terms)
    except InvalidRequest as error:
        return Combination(engine, spec, Obstacle(Hindrance.MODEL, error.message))
    if packages and not (terms.environment.build and any(offer.installable for offer in offers)):
        return Combination(engine, spec, _packages_not_offered(engine, packages))
    terms = terms._replace(environment=_with_packages(terms.environment, packages))
    has = bool(terms.environment.python) or (not packages and any(offer.ok for offer in offers))
    idles = "" if terms.on_cpu else _idle_reason(engine, terms)
    if idles and terms.wanted.device_kind != ANY:
        obstacle = Obstacle(Hindrance.DEVICE, f"it cannot compute on the accelerators here ({idles})")
    return Combination(engine, spec, obstacle, not has, idles, packages)


def _unsuited(engine: type[Engine], spec: ModelSpec) -> Obstacle | None:
    """Why an engine is nothing for these weights, wherever it runs."""
    reads = spec.format in engine.formats
    try:
        # The files are looked for only if it could read them: else there is something better to say.
        match = engine.accepts(located(spec) if reads and not _was_seen_elsewhere(spec) else spec)
    except InvalidRequest as error:
        return Obstacle(Hindrance.WEIGHTS, error.message)
    if match.ok:
        return None
    return Obstacle(Hindrance.MODEL if reads else Hindrance.FORMAT, match.reason)


def _was_seen_elsewhere(spec: ModelSpec) -> bool:
    """Whether its files are known, and are not on this machine: on a hub, or on the workers only."""
    return hub_source(spec.source) is not None or (spec.shape is not None and not is_here(spec.source))


def _not_offered(engine: type[Engine], offers: Sequence[EngineOffer], environment: EnvironmentRequest) -> Obstacle:
    if any(offer.ok for offer in offers):  # then it is the environment that cannot be had
        where = "an environment of its own" if environment.is_own else "its own Python"
        return Obstacle(Hindrance.ENVIRONMENT, f"no worker has it in {where}")
    installable = any(offer.installable for offer in offers) and environment.mode != "none"
    command = install_command(engine) if installable else engine.install
    reasons = dict.fromkeys(offer.reason for offer in offers if offer.reason)
    hint = "; ".join(reasons) or (f"install it there with: {command}" if command else "")
    reason = f"no worker has it: {hint}" if hint else "no worker knows it"
    return Obstacle(Hindrance.LIBRARY, reason, command)


def _missing_packages(
    engine: type[Engine], spec: ModelSpec, offers: Sequence[EngineOffer], terms: Terms
) -> tuple[str, ...]:
    """Everything that a model needs beside the engine, if some of it is in no Python that it would run in.

    Raises:
        InvalidRequest: the options make no sense for this model.
    """
    if not issubclass(engine, NeedsPackages):
        return ()
    needed = engine.packages_for(spec, terms.options)
    environment = terms.environment
    if environment.python:  # what that has, only the worker can see
        return ()
    if environment.is_own:
        return needed if _names(needed) - _names(environment.packages) else ()
    return () if any(offer.ok and _names(needed) <= set(offer.packages) for offer in offers) else needed


def _with_packages(environment: EnvironmentRequest, packages: Sequence[str]) -> EnvironmentRequest:
    named = _names(environment.packages)
    added = (package for package in packages if distribution(package) not in named)
    return msgspec.structs.replace(environment, packages=tuple(sorted((*environment.packages, *added))))


def _names(packages: Iterable[str]) -> set[str]:
    return {distribution(package) for package in packages}


def _packages_not_offered(engine: type[Engine], packages: Sequence[str]) -> Obstacle:
    reason = (
        f"it needs {' and '.join(packages)} for these weights, which no worker has; a launch that names the engine "
        f"installs them: --model-engine {engine.name}"
    )
    return Obstacle(Hindrance.LIBRARY, reason, install_command(engine, packages))


def install_command(engine: type[Engine], packages: Sequence[str] = ()) -> str:
    """What builds an environment for an engine, with further packages."""
    return " ".join(
        ("xinfer engine install", engine.name, *(f"--package {shlex.quote(package)}" for package in packages))
    )


def _idle_reason(engine: type[Engine], terms: Terms) -> str:
    """Why replicas would leave the accelerators idle that there are; empty: they would not."""
    if getattr(engine, "fileless", False):
        return ""
    environment, reasons = terms.environment, {}
    for hello in terms.workers:
        if all(device.kind == CPU for device in hello.devices):
            continue
        offer = hello.engines.get(engine.name)
        if offer is None or not offer.serves(environment):
            reasons[hello.name] = f"{engine.name} is not installed there"
        elif offer.cpu_only and not (offer.environment or environment.python or environment.is_own):
            reasons[hello.name] = offer.cpu_only
        else:
            return ""
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def idle_warning(chosen: Combination) -> str:
    """What a launch is told that computes on the CPU although there are accelerators; empty: nothing."""
    if not chosen.idles:
        return ""
    return f"there are accelerators, but {chosen.engine.name} computes on the CPU ({chosen.idles})"


def in_words(
    chosen: Combination,
    tried: Sequence[Combination],
    passed_over: Sequence[tuple[Combination, Fit]],
    *,
    terms: Terms,
    engine_named: bool,
    default_size: bool,
) -> str:
    """What was picked of what a launch left open, and why.

    ``tried``: all that there was. ``passed_over``: what would have been better and does not fit. ``default_size``:
    there were other sizes, and the launch named none.
    """
    able = [one for one in tried if one.obstacle is None]
    reasons = []
    if passed_over:
        better, fit = passed_over[0]
        reasons.append(f"{better.engine.name} with {described(better.spec)} would come first, but {fit.reason}")
    elif not engine_named and len({one.engine.name for one in able}) == 1:
        reasons.append("no other engine can serve it here")
    elif not engine_named:
        reasons.append(f"the engine that is preferred on {'CPUs' if terms.on_cpu or chosen.idles else 'accelerators'}")
    if sum(one.engine is chosen.engine for one in able) > 1 and not passed_over:
        reasons.append("the first choice of its weights")
    if default_size:
        reasons.append("the largest size for one card of 24 GiB")
    if chosen.installs:
        reasons.append("it is installed first")
    return f"{chosen.engine.name} with {described(chosen.spec)}{': ' if reasons else ''}{'; '.join(reasons)}"


def refusal(name: str, tried: Sequence[Combination]) -> InvalidRequest:
    """The refusal of a launch that nothing can serve: the most useful reason first, one for each engine, few of them.

    ``tried``: as ``combinations`` sorts them.
    """
    by_engine: dict[str, Combination] = {}
    for one in tried:
        by_engine.setdefault(one.engine.name, one)
    by_reason: dict[str, list[str]] = {}
    for one in by_engine.values():
        by_reason.setdefault(one.obstacle.reason if one.obstacle else "", []).append(one.engine.name)
    reasons = [f"{', '.join(engines)}: {reason}" for reason, engines in by_reason.items()]
    rest = len(reasons) - MOST_REASONS
    more = f"; and {rest} more reasons: xinfer engine query {name}" if rest > 0 else ""
    return InvalidRequest(
        f"no engine can serve {name!r} here: {'; '.join(reasons[:MOST_REASONS])}{more}",
        param="model_engine",
    )


def hindrance_of(found: Combination) -> str:
    """The name of what stands against a combination; empty: nothing does."""
    return found.obstacle.hindrance.name.lower() if found.obstacle else ""


def room_in(ledger: Ledger) -> Room:
    """Whether replicas have room by the books of one moment."""

    def fit(deployment: Deployment) -> Fit:
        found = ledger.explain(deployment, advise=False)
        kind = ledger.device_kind(deployment)
        needed = ledger.request(deployment).memory_mib or max((one.needed_mib for one in found.devices), default=0)
        if found.placement is not None:
            names = {one.worker_id: one.worker for one in found.devices}
            devices = ", ".join(piece.device_id for piece in found.placement.slices)
            worker = names.get(found.placement.worker_id) or found.placement.worker_id
            return Fit(True, kind, f"{devices} of {worker}", needed)
        missing = min((one.missing_mib for one in found.devices if one.missing_mib), default=0)
        too_large = f"too large by {missing} MiB for what is free (it needs {needed} MiB)" if missing else ""
        return Fit(False, kind, "", needed, missing, too_large or found.message)

    return fit
