"""What an environment for llama.cpp holds. Its library comes as source, and is compiled where it is to run."""

from xinfer.engines.base import Requirements
from xinfer.engines.token_engine import GRAMMAR_PACKAGES

LIBRARY = "llama-cpp-python"

PREFETCHING = (
    "-fprefetch-loop-arrays",
    "--param=prefetch-min-insn-to-mem-ratio=1",
    "--param=min-insn-to-prefetch-ratio=1",
    "--param=prefetch-latency=600",
)
"""Flags with which GCC has the kernels for several rows ask for weights before they need them.

They read four rows of weights in turns, which the prefetchers of processors do not see through: outside of the second
level of caches they wait for memory most of the time, and with 2 to 8 rows, as many sequences as run at once, take as
long as one row after another or longer. With these flags a step of 8 rows of q8_0 takes 0.6 times as long, and nothing
takes longer (the table is in docs/benchmarks.md). Other compilers warn of them, and go on.
"""

REQUIREMENTS = (
    Requirements(
        packages=(f"{LIBRARY}>=0.3.36", *GRAMMAR_PACKAGES),
        # The initial flags, so that CXXFLAGS and CMAKE_ARGS of the user count as well.
        build_settings=(f"{LIBRARY}:cmake.define.CMAKE_CXX_FLAGS_INIT={' '.join(PREFETCHING)}",),
        imports=("llama_cpp",),
        disk_mib=512,
    ),
)
