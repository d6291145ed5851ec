"""Which device an engine built on torch runs on."""

import importlib.metadata
from typing import TYPE_CHECKING

from xinfer.devices import Grant
from xinfer.errors import LoadFailed

if TYPE_CHECKING:
    import torch


def pick_device(wanted: str, grant: Grant) -> "torch.device":
    """The device by its name; "auto" is what the lease says, which is never silently something slower.

    Raises:
        LoadFailed: CUDA is what was asked for, or what was leased, and this torch sees none.
    """
    import torch  # noqa: PLC0415 - only in the replica's process

    leased = [piece.device_id for piece in grant.lease.slices if not piece.device_id.startswith("cpu")]
    if wanted == "auto":
        on_cpu = bool(grant.lease.slices) and not leased
        wanted = "cpu" if on_cpu or not (leased or torch.cuda.is_available()) else "cuda"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        why = f"the replica was given {leased[0]}" if leased else f"device={wanted} was asked for"
        raise LoadFailed(
            f"{why}, but this torch ({torch.__version__}) sees no CUDA device; install a torch built for CUDA, "
            "or launch on the CPU (n_gpu=null, on the command line --n-gpu none)"
        )
    return torch.device(wanted)


def cpu_build() -> str:
    """Why the installed torch computes on the CPU whatever devices there are; empty: it does not. Imports nothing."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""  # built from sources: only itself could tell
    return f"its torch ({version}) is built for the CPU" if version.endswith("+cpu") else ""
