"""vLLM on several workers: the arguments of each member, as vLLM's own multi-node mode wants them. Pure."""

from collections.abc import Mapping
from typing import Any

from xinfer.devices import Seat
from xinfer.engines.base import Match
from xinfer.engines.passthrough.parallel import ParallelWords

WORDS = ParallelWords(
    tensor=("tensor_parallel_size",), pipeline=("pipeline_parallel_size",), copies=("data_parallel_size",)
)
OWN_PLACEMENT = ("ray", "external_launcher")
"""Executors that start processes elsewhere by themselves, past the slices that were leased."""


def accepts_gang(options: Mapping[str, Any], size: int) -> Match:
    """Whether vLLM with these options can run on so many workers."""
    backend = str(options.get("distributed_executor_backend") or "mp")
    if backend in OWN_PLACEMENT:
        return Match(
            False,
            f"with distributed_executor_backend {backend!r} vLLM would choose machines itself, past what is leased "
            "here; leave it out, and vLLM's processes find each other without it",
        )
    return WORDS.fits(options, size)


def gang_environment(host: str) -> dict[str, str]:
    """What every member's process has in its environment: where the others reach it."""
    return {"VLLM_HOST_IP": host}


def gang_suggestions(seat: Seat, cards: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """How the model is split, where the launch says nothing. Groups of layers need the least of a network.

    On CPUs every layer is cut instead: vLLM's runner for them makes the buffers that stages of a pipeline pass on only
    where it compiles the model, which takes minutes.

    Raises:
        InvalidRequest: what the launch says does not use all ``cards`` of every worker.
    """
    return WORDS.split(options, max(1, cards), seat.size, "pipeline" if cards else "tensor")


def gang_arguments(seat: Seat) -> dict[str, Any]:
    """Which member this is, and where they meet."""
    host, _, port = seat.rendezvous.rpartition(":")
    return {
        "nnodes": seat.size,
        "node_rank": seat.rank,
        "master_addr": host.strip("[]"),
        "master_port": int(port),
        "distributed_executor_backend": "mp",
        **({} if seat.leads else {"headless": True}),
    }
