"""What an environment holds, and the name that follows from it. Pure."""

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from xinfer.engines.base import Requirements
from xinfer.errors import InvalidRequest
from xinfer.packages import distribution, normalized, spelled

DIGEST_LENGTH = 12


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What decides which builds of packages run here."""

    python: str
    """The implementation and version: "cpython-311"."""
    platform: str
    """The system and architecture: "linux-x86_64"."""
    accelerator: str
    """"cuda" or "cpu"."""


class EnvironmentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """An environment that may be built. Two plans with the same ``name`` hold the same."""

    engine: str
    machine: Machine
    packages: tuple[str, ...]
    """Resolved together with ``runtime``, with everything that they need."""
    without_dependencies: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    build_settings: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    """What xinfer itself needs to run a replica."""
    extra: tuple[str, ...] = ()
    """What was asked for beyond the engine's requirements; already part of ``packages``."""
    imports: tuple[str, ...] = ()
    disk_mib: int = 0

    @property
    def name(self) -> str:
        """``<engine>-<digest>``: the digest is of everything that decides what ends up in it."""
        content = msgspec.structs.asdict(self)
        for field in ("imports", "disk_mib"):
            del content[field]
        if not self.build_settings:  # environments from before there were any keep their names
            del content["build_settings"]
        digest = hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()
        return f"{self.engine}-{digest[:DIGEST_LENGTH]}"


def plan_environment(
    engine: str,
    alternatives: Sequence[Requirements],
    machine: Machine,
    *,
    runtime: Iterable[str] = (),
    extra: Iterable[str] = (),
) -> EnvironmentPlan:
    """The environment of an engine on a machine.

    Args:
        engine: its name.
        alternatives: its requirements; the first that is for this machine is taken.
        machine: where it is to run.
        runtime: what xinfer itself needs.
        extra: more packages. One that the engine requires too replaces that requirement: another version of it.

    Raises:
        InvalidRequest: the engine has no requirements for such a machine, or an extra package is not written as one.
    """
    fitting = [one for one in alternatives if one.accelerator in ("any", machine.accelerator)]
    if not fitting:
        why = "needs no environment of its own" if not alternatives else f"has none for {_in_words(machine)}"
        raise InvalidRequest(f"the engine {engine!r} {why}", param="model_engine")
    wanted = fitting[0]
    extra = tuple(sorted({spelled(package) for package in extra}))
    asked = {distribution(package) for package in extra}
    return EnvironmentPlan(
        engine=engine,
        machine=machine,
        packages=(*_without(wanted.packages, asked), *extra),
        without_dependencies=_without(wanted.without_dependencies, asked),
        exclude=tuple(name for name in wanted.exclude if normalized(name) not in asked),
        build_settings=wanted.build_settings,
        runtime=tuple(runtime),
        extra=extra,
        imports=wanted.imports,
        disk_mib=wanted.disk_mib,
    )


def merged(resolved: Iterable[str], without_dependencies: Sequence[str]) -> list[str]:
    """What is installed in the end: the resolved packages, except where one is given as it is."""
    given = {distribution(package) for package in without_dependencies}
    return [*_without(resolved, given), *without_dependencies]


def _without(packages: Iterable[str], names: set[str]) -> tuple[str, ...]:
    return tuple(package for package in packages if distribution(package) not in names)


def _in_words(machine: Machine) -> str:
    card = "an NVIDIA card" if machine.accelerator == "cuda" else "no NVIDIA card"
    return f"a machine ({machine.platform}) with {card}"
