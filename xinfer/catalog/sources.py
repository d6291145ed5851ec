"""From the ``source`` of a ModelSpec to a path on this machine.

A source is a path, or symbolic. Symbolic forms travel between machines, because every worker has its files in places of
its own:

- ``builtin:NAME`` is in the package;
- ``hf:OWNER/NAME[@REVISION][#FILES]`` is a repository of Hugging Face, ``ms:...`` one of ModelScope. FILES is a pattern
  as in shells, for repositories that hold the same model several times: ``hf:Qwen/Qwen3-8B-GGUF#*Q4_K_M*.gguf``.
"""

import re
from enum import StrEnum
from pathlib import Path

import msgspec

from xinfer.errors import InvalidRequest
from xinfer.spec import Format, ModelSpec

BUILTIN = "builtin:"
DEMO_FOLDER = Path(__file__).parent / "demo"

REPOSITORY = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*(?<![.-])", re.ASCII)
"""An id, by the rules that both hubs share: an owner and a name."""
_REFERENCE = re.compile(r"(?P<hub>hf|ms):(?P<repository>[^@#\s]+)(@(?P<revision>[^#\s]+))?(#(?P<files>\S+))?")


class Hub(StrEnum):
    """Where weights are published. The values begin a source."""

    HUGGINGFACE = "hf"
    MODELSCOPE = "ms"


class HubSource(msgspec.Struct, frozen=True):
    """Weights on a hub. An empty ``revision`` is the newest; no ``files``: the whole repository."""

    hub: Hub
    repository: str
    revision: str = ""
    files: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.hub}:{self.repository}{revision}{f'#{self.files}' if self.files else ''}"

    @property
    def title(self) -> str:
        """What a model from there is called: the repository without its owner."""
        return self.repository.rpartition("/")[2]

    @property
    def page(self) -> str:
        """Where people find it."""
        site = "https://huggingface.co" if self.hub is Hub.HUGGINGFACE else "https://modelscope.cn/models"
        return f"{site}/{self.repository}"


def hub_source(source: str) -> HubSource | None:
    """What a symbolic source names on a hub; None: it is none of a hub.

    Raises:
        InvalidRequest: it begins like one, and no hub has such ids.
    """
    if not source.startswith(tuple(f"{hub}:" for hub in Hub)):
        return None
    found = _REFERENCE.fullmatch(source)
    if found is None or not REPOSITORY.fullmatch(found["repository"]):
        raise InvalidRequest(
            f"{source!r} names no repository of a hub; it should be like hf:OWNER/NAME or ms:OWNER/NAME#PATTERN",
            param="model_path",
        )
    return HubSource(Hub(found["hub"]), found["repository"], found["revision"] or "", found["files"] or "")


def is_symbolic(source: str) -> bool:
    """Whether it means the same on every machine, so that it is no path."""
    return source.startswith((BUILTIN, *(f"{hub}:" for hub in Hub)))


def missing_weights(source: HubSource) -> InvalidRequest:
    """The refusal of weights of which nothing is known but where they are published."""
    return InvalidRequest(
        f"{source.repository} is not in the catalog, and its weights are not on this machine: xinfer models pull "
        f"'{source}' downloads them from {source.page} and prints their path; do that on the workers, and launch the "
        "model with that path (model_path; xinfer launch NAME --model-path PATH)",
        param="model_path",
    )


def resolve_source(source: str) -> Path:
    """Where the weights are, on the machine that asks.

    Raises:
        InvalidRequest: there is nothing.
    """
    if remote := hub_source(source):
        raise missing_weights(remote)
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


def is_here(source: str) -> bool:
    """Whether ``resolve_source`` finds it."""
    try:
        resolve_source(source)
    except InvalidRequest:
        return False
    return True


def located(spec: ModelSpec) -> ModelSpec:
    """The spec as engines take it: with a ``source`` that is a path on this machine.

    Raises:
        InvalidRequest: there is nothing.
    """
    if spec.format is Format.NONE:
        return spec
    return msgspec.structs.replace(spec, source=str(resolve_source(spec.source)))
