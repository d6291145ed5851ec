"""Models without files here: what a launch says of them is all that is known. Pure."""

import msgspec

from xinfer.ops import Kind
from xinfer.protocol import LaunchRequest
from xinfer.spec import Format, ModelSpec

ABILITIES = {Kind.LLM: ("generate", "chat"), Kind.EMBEDDING: ("embed",), Kind.RERANK: ("rerank",)}


def fileless_spec(name: str, kind: Kind) -> ModelSpec:
    """The model of a launch that names an engine which needs no files."""
    return ModelSpec(name=name, kind=kind, source="", format=Format.NONE, abilities=ABILITIES.get(kind, ()))


def placed_on_cpu(request: LaunchRequest) -> LaunchRequest:
    """The same launch; where it leaves the device open, on a CPU, since an accelerator would lie idle."""
    leaves_it_open = request.n_gpu == "auto" and request.gpu is None and not request.gpu_idx
    return msgspec.structs.replace(request, n_gpu=None) if leaves_it_open else request
