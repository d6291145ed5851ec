"""LoRA adapters of the llama.cpp engine: each answers as it does when the library has nothing else to do."""

import asyncio
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed here")

from fakes.gguf_file import write_gguf_lora  # noqa: E402

import xinfer.catalog  # noqa: E402
from xinfer.devices import Grant, Lease  # noqa: E402
from xinfer.engines.base import Call, TakesAdapters  # noqa: E402
from xinfer.engines.llama_cpp import ENGINE  # noqa: E402
from xinfer.errors import LoadFailed  # noqa: E402
from xinfer.ops import Kind, Op  # noqa: E402
from xinfer.spec import Adapter, Format, ModelSpec  # noqa: E402

pytestmark = pytest.mark.engine("llama_cpp")

FOLDER = Path(xinfer.catalog.__file__).parent / "demo"
DEMO = FOLDER / "demo-chat" / "demo-chat.gguf"
GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
LAYERS = range(3)
SHAPES = {
    **{f"blk.{layer}.attn_q.weight": (128, 512) for layer in LAYERS},
    **{f"blk.{layer}.ffn_down.weight": (384, 128) for layer in LAYERS},
}
PREFIX = "a beginning that is long enough to be shared by all that comes behind it, " * 3
PROMPTS = ["def ask(site", "import json", "one two three four five six seven", PREFIX + "one", PREFIX + "two"]


@pytest.fixture(scope="module")
def loras(tmp_path_factory) -> dict[str, Adapter]:
    folder = tmp_path_factory.mktemp("loras")
    strong = {"shapes": SHAPES, "architecture": "qwen3", "strength": 5.0}
    files = [write_gguf_lora(folder / f"{n}.gguf", seed=n, **strong) for n in (1, 2)]
    return {file.stem: Adapter(name=file.stem, path=str(file)) for file in files}


async def loaded(**options: Any) -> Any:
    engine = ENGINE()
    spec = ModelSpec(name="demo", kind=Kind.LLM, source=str(DEMO), format=Format.GGUF)
    await engine.load(spec, options, GRANT, lambda *_: None)
    return engine


async def complete(engine: Any, prompt: str, model: str = "m", max_tokens: int = 4) -> str:
    body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": max_tokens}
    frames = [frame async for frame in engine.serve(Call("id", Op.COMPLETION, json.dumps(body).encode(), model))]
    answer = json.loads(frames[1])
    assert answer["model"] == model
    return whole_letters(answer)


def by_the_library(lora: str | None) -> list[str]:
    """What its own loop says, one prompt after another."""
    model = llama_cpp.Llama(str(DEMO), lora_path=lora, n_ctx=512, verbose=False, logits_all=False)
    answers = [model.create_completion(prompt, max_tokens=4, temperature=0) for prompt in PROMPTS]
    model.close()
    return [whole_letters(answer) for answer in answers]


def whole_letters(answer: Any) -> str:
    """The text without letters that are cut in two, which the library leaves out."""
    text: str = answer["choices"][0]["text"]
    return text.replace("\N{REPLACEMENT CHARACTER}", "")


@pytest.mark.parametrize("options", [{}, {"n_parallel": 3}, {"kv_unified": True, "n_ctx": 2048}])
def test_sequences_of_one_step_have_adapters_of_their_own(loras, options):
    expected = {"m": by_the_library(None), **{name: by_the_library(lora.path) for name, lora in loras.items()}}
    assert len({tuple(answers) for answers in expected.values()}) == 3, "the adapters change nothing"

    async def main() -> None:
        engine = await loaded(**options)
        assert isinstance(engine, TakesAdapters)
        try:
            for lora in loras.values():
                await engine.load_adapter(lora)
            asked = [(name, index) for index in range(len(PROMPTS)) for name in expected]
            found = await asyncio.gather(*(complete(engine, PROMPTS[index], name) for name, index in asked))
            assert found == [expected[name][index] for name, index in asked]
            again = await asyncio.gather(*(complete(engine, PROMPTS[index], name) for name, index in asked))
            assert again == found, "what one has left in the cache was used by another"
        finally:
            await engine.close()

    asyncio.run(main())


def test_an_adapter_that_is_unloaded_serves_whom_it_has_begun_and_is_freed_then(loras):
    async def main() -> None:
        engine = await loaded()
        try:
            await engine.load_adapter(loras["1"])
            weights = weakref.ref(engine.adapter_of("1"))
            expected = await complete(engine, PROMPTS[0], "1")
            asking = asyncio.ensure_future(complete(engine, PROMPTS[0], "1"))
            await asyncio.sleep(0)
            await engine.unload_adapter(loras["1"])
            assert await asking == expected
            del asking
            assert await complete(engine, PROMPTS[0], "1") != expected
            await engine.load_adapter(loras["1"])
            assert await complete(engine, PROMPTS[0], "1") == expected
            gc.collect()
            assert weights() is None
        finally:
            await engine.close()

    asyncio.run(main())


def test_adapters_come_and_go_while_others_are_served(loras):
    async def main() -> None:
        engine = await loaded()
        try:
            expected = await complete(engine, PROMPTS[1], max_tokens=100)
            streams = [asyncio.ensure_future(complete(engine, PROMPTS[1], max_tokens=100)) for _ in range(3)]
            for _ in range(5):
                await engine.load_adapter(loras["2"])
                await complete(engine, PROMPTS[2], "2", max_tokens=2)
                await engine.unload_adapter(loras["2"])
            assert await asyncio.gather(*streams) == [expected] * 3
        finally:
            await engine.close()

    asyncio.run(main())


def test_what_the_model_cannot_have_is_refused(tmp_path):
    other = write_gguf_lora(tmp_path / "other.gguf", seed=1, shapes={"blk.0.ffn_down.weight": (64, 32)})

    async def main() -> None:
        engine = await loaded()
        try:
            with pytest.raises(LoadFailed, match="arch mismatch"):
                await engine.load_adapter(Adapter(name="a", path=str(other)))
            assert await complete(engine, PROMPTS[0])
        finally:
            await engine.close()

    asyncio.run(main())
    assert ENGINE.accepts_adapter({}, Adapter(name="a", path=str(other))).ok
    folder = ENGINE.accepts_adapter({}, Adapter(name="a", path=str(tmp_path)))
    assert not folder.ok
    assert "convert_lora_to_gguf.py" in folder.reason
