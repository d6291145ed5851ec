"""What vLLM is told to do as it sleeps and wakes, without a card: there is no sleep on a CPU."""

import asyncio
import importlib.util

import pytest

pytestmark = [
    pytest.mark.engine("vllm"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # vLLM's own, and torch's, as they are imported
]


class Recorder:
    """Notes the calls of vLLM's engine."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        async def call(*args, **kwargs):
            self.calls.append((name, *args, *kwargs.values()))

        return call


@pytest.mark.parametrize(
    ("level", "waking"),
    [
        (1, [("wake_up",)]),
        (2, [("wake_up", ["weights"]), ("collective_rpc", "reload_weights"), ("wake_up", ["kv_cache"])]),
    ],
)
def test_the_weights_are_back_before_anything_is_served(level, waking):
    from xinfer.engines.vllm.serving import Serving  # noqa: PLC0415  imports vLLM

    llm = Recorder()
    serving = Serving(llm, None, None, None)

    async def main():
        await serving.sleep(level)
        await serving.wake()

    asyncio.run(main())
    assert llm.calls == [("sleep", level, "abort"), *waking]
