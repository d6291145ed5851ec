"""LoRA adapters of the transformers engine: each answers as the model would with its weights merged in."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fakes.lora import write_lora  # noqa: E402
from fakes.tiny_qwen import write_tiny_qwen  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from xinfer.devices import Grant, Lease  # noqa: E402
from xinfer.engines.base import Call  # noqa: E402
from xinfer.engines.transformers import ENGINE  # noqa: E402
from xinfer.errors import EngineFailed, LoadFailed  # noqa: E402
from xinfer.ops import Kind, Op  # noqa: E402
from xinfer.spec import Adapter, Format, ModelSpec  # noqa: E402

pytestmark = pytest.mark.engine("transformers")

GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
MODULES = {
    "self_attn.q_proj": (64, 64),
    "self_attn.v_proj": (64, 32),
    "self_attn.o_proj": (64, 64),
    "mlp.up_proj": (64, 128),
    "mlp.down_proj": (128, 64),
}
PROMPTS = ["def ask(site", "import json", "the adapters of a model answer", "one two three four five six seven"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    text = Path(__file__).read_text(encoding="utf-8")
    return write_tiny_qwen(tmp_path_factory.mktemp("tiny"), text, "{{ messages[0].content }}")


@pytest.fixture(scope="module")
def loras(tmp_path_factory) -> dict[str, Adapter]:
    """Of several ranks, modules and scales."""
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder / "all", seed=1, layers=(0, 1), modules=MODULES)
    write_lora(folder / "some", seed=2, layers=(1,), modules={"mlp.gate_proj": (64, 128)}, rank=8, strength=2.0)
    config = json.loads((folder / "some" / "adapter_config.json").read_text())
    config |= {"use_rslora": True, "alpha_pattern": {"gate_proj": 4}}
    (folder / "some" / "adapter_config.json").write_text(json.dumps(config))
    return {name: Adapter(name=name, path=str(folder / name)) for name in ("all", "some")}


SCALES = {"all": 1.0, "some": 4 / 8**0.5}


def merged(model: Path, adapter: Adapter, target: Path) -> Path:
    """A copy of the model with the adapter in its weights."""
    shutil.copytree(model, target)
    weights = load_file(target / "model.safetensors")
    tensors = load_file(Path(adapter.path) / "adapter_model.safetensors")
    for name, down in tensors.items():
        if ".lora_A." in name:
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            up = tensors[name.replace("lora_A", "lora_B")]
            weights[f"{module}.weight"] += SCALES[adapter.name] * (up @ down)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


async def loaded(folder: Path, **options):
    engine = ENGINE()
    spec = ModelSpec(name="tiny", kind=Kind.LLM, source=str(folder), format=Format.SAFETENSORS)
    await engine.load(spec, options, GRANT, lambda *_: None)
    return engine


async def complete(engine, prompt: str, model: str = "m") -> str:
    body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 16, "ignore_eos": True}
    frames = [frame async for frame in engine.serve(Call("id", Op.COMPLETION, json.dumps(body).encode(), model))]
    answer = json.loads(frames[1])
    assert answer["model"] == model
    return answer["choices"][0]["text"]


async def all_answers(folder: Path) -> list[str]:
    engine = await loaded(folder)
    try:
        return [await complete(engine, prompt) for prompt in PROMPTS]
    finally:
        await engine.close()


def test_rows_of_one_batch_have_adapters_of_their_own(tiny, loras, tmp_path):
    async def main():
        expected = {"m": await all_answers(tiny)}
        for name, adapter in loras.items():
            expected[name] = await all_answers(merged(tiny, adapter, tmp_path / name))
        assert len({tuple(answers) for answers in expected.values()}) == 3, "the adapters change nothing"
        engine = await loaded(tiny)
        try:
            for adapter in loras.values():
                await engine.load_adapter(adapter)
            asked = [(name, index) for index in range(len(PROMPTS)) for name in expected]
            found = await asyncio.gather(*(complete(engine, PROMPTS[index], name) for name, index in asked))
            assert found == [expected[name][index] for name, index in asked]
            assert [await complete(engine, prompt, "all") for prompt in PROMPTS] == expected["all"]
        finally:
            await engine.close()

    asyncio.run(main())


@pytest.mark.parametrize("options", [{}, {"prefill_chunk": 16}])
def test_numbers_that_overflow_end_their_own_request_and_nobody_elses(tiny, tmp_path, options):
    huge = write_lora(tmp_path / "huge", seed=1, layers=(0,), modules={"mlp.down_proj": (128, 64)}, strength=5e37)

    async def main():
        expected = await all_answers(tiny)
        engine = await loaded(tiny, max_num_seqs=8, **options)
        try:
            await engine.load_adapter(Adapter(name="huge", path=str(huge)))
            for _ in range(2):  # the second time in rows that the others had
                asked = [complete(engine, prompt, name) for name in ("huge", "m", "huge") for prompt in PROMPTS]
                found = await asyncio.gather(*asked, return_exceptions=True)
                broken = found[: len(PROMPTS)] + found[-len(PROMPTS) :]
                assert all(isinstance(error, EngineFailed) and "no numbers" in error.message for error in broken)
                assert found[len(PROMPTS) : -len(PROMPTS)] == expected
            assert await asyncio.gather(*[complete(engine, prompt) for prompt in PROMPTS]) == expected
            assert engine.failure() == ""
        finally:
            await engine.close()

    asyncio.run(main())


def test_layers_that_are_not_those_of_the_text_are_refused(tiny, tmp_path):
    folder = write_lora(tmp_path / "sees", seed=1, layers=(0,), modules=MODULES)
    file = folder / "adapter_model.safetensors"
    names = {name: name.replace("model.layers", "vision_tower.encoder.layers") for name in load_file(file)}
    save_file({names[name]: tensor for name, tensor in load_file(file).items()}, file)

    async def main():
        engine = await loaded(tiny)
        try:
            with pytest.raises(LoadFailed, match=r"has the tensor .*vision_tower"):
                await engine.load_adapter(Adapter(name="sees", path=str(folder)))
        finally:
            await engine.close()

    asyncio.run(main())


def test_a_sequence_keeps_an_adapter_that_is_unloaded_meanwhile(tiny, loras):
    async def main():
        engine = await loaded(tiny)
        try:
            await engine.load_adapter(loras["all"])
            expected = await complete(engine, PROMPTS[0], "all")
            asking = asyncio.ensure_future(complete(engine, PROMPTS[0], "all"))
            await asyncio.sleep(0)
            await engine.unload_adapter(loras["all"])
            assert await asking == expected
            assert await complete(engine, PROMPTS[0], "all") != expected
        finally:
            await engine.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": {"use_dora": True}}, "use_dora"),
        ({"config": {"init_lora_weights": "pissa_niter_16"}}, "pissa"),
        ({"modules": {"mlp.up_proj": (32, 128)}}, "not for this model"),
        ({"layers": (7,)}, "layers.7"),
        ({"strength": float("nan")}, "no numbers"),
        ({"config": {"lora_alpha": None}}, "adapter_config.json that is wrong"),
        ({"config": {"alpha_pattern": {"(": 4}}}, "adapter_config.json that is wrong"),
        ({"modules": {"self_attn.rotary": (64, 64)}}, "self_attn.rotary"),
    ],
)
def test_what_the_model_cannot_have_is_refused(tiny, tmp_path, change, reason):
    config = change.get("config", {})
    weights = {name: value for name, value in change.items() if name != "config"}
    folder = write_lora(tmp_path / "bad", **{"seed": 1, "layers": (0,), "modules": MODULES, **weights})
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))

    async def main():
        engine = await loaded(tiny)
        try:
            with pytest.raises(LoadFailed, match=reason):
                await engine.load_adapter(Adapter(name="bad", path=str(folder)))
        finally:
            await engine.close()

    asyncio.run(main())


def test_a_model_that_runs_with_the_library_takes_none(tiny, loras):
    async def main():
        engine = await loaded(tiny, implementation="library")
        try:
            with pytest.raises(LoadFailed, match="take no adapters"):
                await engine.load_adapter(loras["all"])
        finally:
            await engine.close()

    asyncio.run(main())
    refused = ENGINE.accepts_adapter({"implementation": "library"}, loras["all"])
    assert not refused.ok
    assert "native" in refused.reason
