"""Models whose layers have a sliding window: what is known of a prompt is used again only where all of it was kept."""

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed here: xinfer engine install llama.cpp")

from engines.asking import complete, with_engine
from fakes.gguf_windowed import write_gemma3

from xinfer.engines.llama_cpp import ENGINE
from xinfer.ops import Kind
from xinfer.spec import Format, ModelSpec

pytestmark = pytest.mark.engine("llama_cpp")

LONG = [40 + (11 * place + place * place % 37) % 200 for place in range(900)]
PROMPTS = [LONG, [*LONG[:250], 99, 99], [*LONG[:400], 97]]
SMALL_STEPS = {"n_parallel": 3, "n_ubatch": 16, "n_batch": 64}
"""With large ones, even a small cache has room for the whole prompt."""


@pytest.mark.parametrize(("swa_full", "reused"), [(True, [0, 250, 400]), (False, [0, 0, 0])])
def test_answers_are_those_of_prompts_that_were_read_as_a_whole(tmp_path, swa_full, reused):
    file = write_gemma3(tmp_path / "gemma3.gguf")
    spec = ModelSpec(name="windowed", kind=Kind.LLM, source=str(file), format=Format.GGUF)

    async def use(engine):
        return [await complete(engine, prompt, logprobs=1, max_tokens=6) for prompt in PROMPTS]

    anew = with_engine(ENGINE, spec, use, options={**SMALL_STEPS, "prefix_caching": False})
    found = with_engine(ENGINE, spec, use, options={**SMALL_STEPS, "swa_full": swa_full})
    for answer, expected in zip(found, anew, strict=True):
        scores, right = (one["choices"][0]["logprobs"]["token_logprobs"] for one in (answer, expected))
        assert scores == pytest.approx(right, abs=0.02)
    cached = [answer["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0) for answer in found]
    assert cached == reused


def test_in_a_shared_cache_what_lost_its_beginning_is_read_again(tmp_path):
    """There, tokens behind the window of their sequence give their places to others, even while there are free ones."""
    file = write_gemma3(tmp_path / "gemma3.gguf")
    spec = ModelSpec(name="windowed", kind=Kind.LLM, source=str(file), format=Format.GGUF)
    one, other, third = ([40 + (step * place) % 199 for place in range(300)] for step in (7, 11, 13))
    longer = [40 + (17 * place) % 199 for place in range(400)]
    asked = [[*other, 99], [*other[:110], 99]]

    async def use(engine):
        for prompt in (one, other, third, longer):  # the last one takes the places of the first, and more
            await complete(engine, prompt, max_tokens=1)
        return [await complete(engine, prompt, logprobs=1, max_tokens=6) for prompt in asked]

    anew = with_engine(ENGINE, spec, use, options={"n_parallel": 3, "prefix_caching": False})
    found = with_engine(ENGINE, spec, use, options={"n_parallel": 3, "kv_unified": True})
    for answer, expected in zip(found, anew, strict=True):
        scores, right = (one["choices"][0]["logprobs"]["token_logprobs"] for one in (answer, expected))
        assert scores == pytest.approx(right, abs=0.02)
    assert [answer["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0) for answer in found] == [300, 0]
