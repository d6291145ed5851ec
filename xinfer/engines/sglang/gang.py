"""SGLang on several workers: the arguments of each member, as SGLang's own multi-node mode wants them. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from xinfer.devices import Seat
from xinfer.engines.base import Match
from xinfer.engines.passthrough.parallel import ParallelWords

WORDS = ParallelWords(
    tensor=("tp_size", "tensor_parallel_size", "tp"),
    pipeline=("pp_size", "pipeline_parallel_size", "pp"),
    copies=("dp_size", "data_parallel_size", "dp"),
)
SHARED_COPIES = "enable_dp_attention"
"""With it, copies share the cards among which every layer is cut."""

BIND = "SGLANG_CPU_OMP_THREADS_BIND"


def split_alone(options: Mapping[str, Any], cards: int) -> dict[str, Any]:
    """How the model is split between the cards of one worker, where the launch does not say."""
    words = msgspec.structs.replace(WORDS, copies=()) if options.get(SHARED_COPIES) else WORDS
    return words.alone(options, cards)


def accepts_gang(options: Mapping[str, Any], size: int) -> Match:
    """Whether SGLang with these options can run on so many workers."""
    if options.get("use_ray"):
        return Match(False, "with use_ray SGLang would choose machines itself, past what is leased here; leave it out")
    return WORDS.fits(options, size)


def gang_suggestions(seat: Seat, cards: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """How the model is split, where the launch says nothing: every layer over all cards.

    Raises:
        InvalidRequest: what the launch says does not use all ``cards`` of every worker.
    """
    return WORDS.split(options, max(1, cards), seat.size, "tensor")


def cpu_environment(cores: Iterable[int], given: Mapping[str, str]) -> dict[str, str]:
    """What a member on a CPU needs in its environment, unless it is ``given``: the ``cores`` that it computes on.

    Else SGLang gives every rank a NUMA node of one machine, and has too few of them for ranks that are elsewhere.
    """
    return {} if BIND in given else {BIND: ",".join(map(str, sorted(cores)))}


def gang_arguments(seat: Seat) -> dict[str, Any]:
    """Which member this is, and where they meet."""
    return {"nnodes": seat.size, "node_rank": seat.rank, "dist_init_addr": seat.rendezvous}
