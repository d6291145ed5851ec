"""How another Python than the worker's is started so that it runs this very xinfer, with its own packages."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from xinfer.settings import child_environment
from xinfer.worker.environments.store import EnvironmentStore


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """A Python for a replica. ``environment_name``: of the environment that it is part of; empty: of none of ours."""

    python: Path
    variables: dict[str, str] = {}
    """What its process needs beside its other variables."""
    environment_name: str = ""

    def environment(self) -> dict[str, str]:
        """All variables for a process of it."""
        return child_environment(self.variables)


def interpreter_of(store: EnvironmentStore, name: str) -> Interpreter:
    """The Python of an environment of ours."""
    return foreign(store, store.python(name), {}, environment_name=name)


def foreign(
    store: EnvironmentStore, python: Path, envs: Mapping[str, str], *, environment_name: str = ""
) -> Interpreter:
    """A Python that is not the worker's.

    It finds this xinfer, and of the worker's packages nothing else. The worker's own ``PYTHONPATH`` belongs to the
    worker's packages and is left out; one in ``envs``, the variables of a deployment, is meant for it.
    """
    path = [str(store.own_code()), *filter(None, [envs.get("PYTHONPATH", "")])]
    # Programs that packages bring along, such as compilers' drivers, lie beside the interpreter.
    programs = [str(python.parent), envs.get("PATH") or child_environment().get("PATH", os.defpath)]
    return Interpreter(
        python=python,
        variables={
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONHOME": "",
            "PATH": os.pathsep.join(programs),
            "VIRTUAL_ENV": str(python.parent.parent),
        },
        environment_name=environment_name,
    )
