"""Finding what was added: engines, routing and placement policies, API resources. One file each, found by its name."""

import functools
import importlib
import importlib.metadata
import pkgutil
from types import ModuleType
from typing import Any

from xinfer.errors import describe

ENGINE_GROUP = "xinfer.engines"
"""Entry point group for engines of third parties."""


def modules_in(package: str) -> list[ModuleType]:
    """Import every module (or sub-package) directly inside a package, in the order of their names."""
    parent = importlib.import_module(package)
    return [
        importlib.import_module(f"{package}.{found.name}")
        for found in sorted(pkgutil.iter_modules(parent.__path__), key=lambda found: found.name)
        if not found.name.startswith("_")
    ]


def exposed(package: str, attribute: str) -> list[Any]:
    """The ``attribute`` of every module in a package that has one."""
    return [getattr(module, attribute) for module in modules_in(package) if hasattr(module, attribute)]


@functools.cache
def _find_engines() -> tuple[dict[str, Any], dict[str, str]]:
    found = {engine.name: engine for engine in exposed("xinfer.engines", "ENGINE")}
    broken: dict[str, str] = {}
    for entry in importlib.metadata.entry_points(group=ENGINE_GROUP):
        try:
            engine = entry.load()
            found[engine.name] = engine
        except Exception as error:  # noqa: BLE001  the boundary to code of third parties; reported by broken_engines
            broken[entry.name] = f"{entry.value} cannot be loaded: {describe(error)}"
    return found, broken


def engines() -> dict[str, Any]:
    """Every engine by name: our own modules, then the entry points of third parties (which may replace ours)."""
    return _find_engines()[0]


def broken_engines() -> dict[str, str]:
    """Engines of third parties that could not be loaded, with the reason."""
    return _find_engines()[1]


@functools.cache
def policies(package: str) -> dict[str, Any]:
    """The policies of a package (``xinfer.routing``, ``xinfer.supervisor.placement``) by name."""
    return {policy.name: policy for policy in exposed(package, "POLICY")}
