"""A follower in a gang of vLLM: only the processes that compute, led from elsewhere. Imports vLLM."""

import asyncio
from collections.abc import Mapping
from typing import Any, Self

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.executor.multiproc_executor import MultiprocExecutor

from xinfer.devices import Grant
from xinfer.engines.vllm.serving import parsed_arguments
from xinfer.spec import ModelSpec


class Following:
    """The part of a model that one follower has."""

    def __init__(self, executor: MultiprocExecutor) -> None:
        self._executor = executor

    @classmethod
    async def start(cls, spec: ModelSpec, template: str, options: Mapping[str, Any], grant: Grant) -> Self:
        """Start the processes; returns when they have joined the leader's and loaded their part.

        Raises:
            InvalidRequest: an option that vLLM does not know, or that does not fit the slice.
            LoadFailed: the slice is too small.
        """
        args = parsed_arguments(spec, template, options, grant)
        return cls(await asyncio.to_thread(_executor, args))

    def failure(self) -> str:
        """Why it can follow no more; empty while it can."""
        return "a process of vLLM ended; the log of the replica says why" if self._executor.is_failed else ""

    def close(self) -> None:
        """End the processes."""
        self._executor.shutdown()


def _executor(args: Any) -> MultiprocExecutor:
    """Blocks until the model is loaded: not for the event loop."""
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config(headless=True)
    executor = MultiprocExecutor(config, monitor_workers=False)
    executor.start_worker_monitor()
    return executor
