"""From the ``source`` of a ModelSpec to a path on this machine.

The symbolic form ``builtin:NAME`` travels between machines, because every worker has the package in a place of its own.
"""

from pathlib import Path

import msgspec

from xinfer.errors import InvalidRequest
from xinfer.spec import Format, ModelSpec

BUILTIN = "builtin:"
DEMO_FOLDER = Path(__file__).parent / "demo"


def resolve_source(source: str) -> Path:
    """Where the weights are, on the machine that asks.

    Raises:
        InvalidRequest: there is nothing.
    """
    if source.startswith(BUILTIN):
        path = DEMO_FOLDER / source.removeprefix(BUILTIN)
        if not path.resolve().is_relative_to(DEMO_FOLDER.resolve()):
            raise InvalidRequest(f"{source!r} is no built-in model", param="model_path")
        missing = f"the built-in model {source!r} is not in this installation ({path}); reinstall xinfer"
    else:
        path = Path(source).expanduser()
        missing = f"there is nothing at {path} on this machine; the path must exist on every worker"
    if not source or not path.exists():
        raise InvalidRequest(missing, param="model_path")
    return path.absolute()


def located(spec: ModelSpec) -> ModelSpec:
    """The spec as engines take it: with a ``source`` that is a path on this machine.

    Raises:
        InvalidRequest: there is nothing.
    """
    if spec.format is Format.NONE:
        return spec
    return msgspec.structs.replace(spec, source=str(resolve_source(spec.source)))
