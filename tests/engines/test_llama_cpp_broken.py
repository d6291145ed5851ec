"""What the llama.cpp engine does with a model whose numbers are none."""

import asyncio

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed here: xinfer engine install llama.cpp")

from engines.asking import complete, with_engine
from fakes.gguf_windowed import write_gemma3

from xinfer.engines.llama_cpp import ENGINE
from xinfer.errors import EngineFailed
from xinfer.ops import Kind
from xinfer.spec import Format, ModelSpec

pytestmark = pytest.mark.engine("llama_cpp")

BROKEN_TOKEN = 70
PROMPT = [40 + place % 150 for place in range(60) if 40 + place % 150 != BROKEN_TOKEN]


@pytest.mark.parametrize("flash_attn", [True, False])
def test_a_request_whose_numbers_are_none_fails_and_no_other_does(tmp_path, flash_attn):
    file = write_gemma3(tmp_path / "broken.gguf", broken_token=BROKEN_TOKEN)
    spec = ModelSpec(name="broken", kind=Kind.LLM, source=str(file), format=Format.GGUF)

    async def use(engine):
        alone = await complete(engine, PROMPT, max_tokens=4)
        broken = [*PROMPT, BROKEN_TOKEN]
        kinds = [{}, {"temperature": 1.0}, {"logprobs": 1}, {"temperature": 1.0, "top_k": 5, "min_p": 0.1}]
        failing = [complete(engine, broken, **kind) for kind in kinds]
        sound = [complete(engine, PROMPT, max_tokens=4) for _ in range(4)]
        together = await asyncio.gather(*failing, *sound, return_exceptions=True)
        # Those that come later have places in the cache where the others have been.
        return alone, [*together, *[await complete(engine, PROMPT, max_tokens=4) for _ in range(4)]]

    alone, found = with_engine(ENGINE, spec, use, options={"n_parallel": 4, "flash_attn": flash_attn})
    failed, answers = found[:4], found[4:]
    assert all(isinstance(error, EngineFailed) and "no numbers" in str(error) for error in failed)
    assert [answer["choices"] for answer in answers] == [alone["choices"]] * 8
