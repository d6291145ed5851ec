"""vLLM in the replica's process: its own application answers, called without a socket in between.

Everything that vLLM serves comes through with its fidelity (parsers of tools and reasoning, structured output,
adapters), and every argument of ``vllm serve`` can be given at launch. The engine core stays vLLM's own child process.
"""

from xinfer.engines.vllm.engine import VllmEngine

ENGINE = VllmEngine

__all__ = ["ENGINE", "VllmEngine"]
