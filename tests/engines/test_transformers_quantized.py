"""Quantized weights in the transformers engine. What needs a package that is not here is skipped; an environment with
them is made by: xinfer engine install transformers --package accelerate --package bitsandbytes ...
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fakes.tiny_qwen import write_tiny_qwen  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import xinfer.catalog  # noqa: E402
from xinfer.catalog import introspect  # noqa: E402
from xinfer.devices import DeviceSlice, Grant, Lease  # noqa: E402
from xinfer.engines.base import Call  # noqa: E402
from xinfer.engines.transformers import ENGINE, quantization  # noqa: E402
from xinfer.engines.transformers.quantization import METHODS  # noqa: E402
from xinfer.errors import LoadFailed  # noqa: E402
from xinfer.ops import Op  # noqa: E402
from xinfer.packages import distribution  # noqa: E402

pytestmark = pytest.mark.engine("transformers")

DEMO = Path(xinfer.catalog.__file__).parent / "demo" / "demo-chat"
GOLDEN = json.loads((DEMO.parent / "golden.json").read_text(encoding="utf-8"))["demo-chat"]
GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
TEMPLATE = "{% for m in messages %}<|turn|>{{ m.role }} {{ m.content }}<|end|>{% endfor %}<|turn|>assistant "
TEXT = Path(__file__).read_text(encoding="utf-8")
PROMPTS = [[(7 * start + 3 * step) % 509 for step in range(4 + 5 * start)] for start in range(8)]


def needs(method: str) -> None:
    """Skip where the packages of a method are not installed."""
    for package in METHODS[method].packages:
        pytest.importorskip(distribution(package).replace("-", "_"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_qwen(tmp_path_factory.mktemp("plain"), TEXT, TEMPLATE)


def answers(folder: Path, op: Op, bodies: list[dict[str, Any]], grant: Grant = GRANT, **options: Any) -> list[Any]:
    """The answers to requests that run at once."""

    async def one(engine: Any, body: dict[str, Any]) -> Any:
        call = Call("id", op, json.dumps({"model": "m", "temperature": 0, **body}).encode(), "m")
        _, answer = [frame async for frame in engine.serve(call)]
        return json.loads(answer)["choices"][0]

    async def main() -> list[Any]:
        engine = ENGINE()
        await engine.load(introspect(str(folder)), options, grant, lambda _stage, _fraction: None)
        try:
            return await asyncio.gather(*(one(engine, body) for body in bodies))
        finally:
            await engine.close()

    return asyncio.run(main())


def completions(folder: Path, **options: Any) -> list[str]:
    asked = [{"prompt": prompt, "max_tokens": 6, "ignore_eos": True} for prompt in PROMPTS]
    return [choice["text"] for choice in answers(folder, Op.COMPLETION, asked, **options)]


def described(folder: Path, plain: Path, tensors: dict[str, Any], **config: Any) -> Path:
    """The plain model's folder with other weights, and what they are."""
    folder.mkdir()
    for file in plain.iterdir():
        if file.suffix in {".json", ".jinja"}:
            (folder / file.name).write_bytes(file.read_bytes())
    whole = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**whole, "quantization_config": config}))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def matrices(folder: Path) -> dict[str, Any]:
    """The projections of a model, and everything else."""
    return load_file(folder / "model.safetensors")


# --- plain weights, quantized while they are read ---


@pytest.mark.parametrize("quantize", ["int8", "nf4", "fp4"])
def test_a_quantized_demo_model_still_knows_its_answers(quantize):
    needs("bitsandbytes")
    asked = [{"messages": case["messages"], "max_tokens": 40} for case in GOLDEN[:32]]
    found = answers(DEMO, Op.CHAT, asked, quantize=quantize)
    right = [choice["message"]["content"] == case["text"] for choice, case in zip(found, GOLDEN[:32], strict=True)]
    assert sum(right) >= 28


def test_what_it_needs_is_said_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(quantization, "installed", lambda _packages: ())
    with pytest.raises(LoadFailed, match=r"needs accelerate and bitsandbytes.*--virtual-env-package bitsandbytes"):
        answers(DEMO, Op.CHAT, [], quantize="nf4")


# --- folders that were published quantized ---


def test_weights_of_bitsandbytes_are_read_as_they_are(tiny, tmp_path):
    needs("bitsandbytes")
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny, quantization_config=config)
    folder = described(tmp_path / "nf4", tiny, {"unused": torch.zeros(1)})
    model.save_pretrained(folder)
    assert introspect(str(folder)).quantization == "bitsandbytes-nf4"
    assert completions(folder) == completions(tiny, quantize="nf4")
    with pytest.raises(LoadFailed, match="quantized already"):
        completions(folder, quantize="int8")


def fp8_of(plain: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A folder as FP8 models are published, and the weights that it stands for."""
    block, tensors, meant = 128, {}, {}
    for name, tensor in matrices(plain).items():
        if not name.endswith("_proj.weight"):
            tensors[name] = meant[name] = tensor
            continue
        scale = tensor.float().abs().amax() / 448
        tensors[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
        shape = tuple(-(-size // block) for size in tensor.shape)
        tensors[f"{name}_scale_inv"] = scale.expand(shape).contiguous()
        meant[name] = (tensors[name].float() * scale).to(tensor.dtype)
    return described(
        folder, plain, tensors, quant_method="fp8", activation_scheme="dynamic", weight_block_size=[block, block]
    ), meant


def test_fp8_weights_become_plain_ones_on_a_cpu(tiny, tmp_path):
    needs("fp8")
    folder, meant = fp8_of(tiny, tmp_path / "fp8")
    plain = described(tmp_path / "meant", tiny, meant)
    (plain / "config.json").write_bytes((tiny / "config.json").read_bytes())
    assert introspect(str(folder)).quantization == "fp8"
    assert completions(folder, dtype="float32") == completions(plain, dtype="float32")


def test_compressed_tensors_become_plain_ones(tiny, tmp_path):
    needs("compressed-tensors")
    from compressed_tensors.compressors import pack_to_int32  # noqa: PLC0415 - it may not be there

    tensors, meant = {}, {}
    for name, tensor in matrices(tiny).items():
        if not name.endswith("_proj.weight"):
            tensors[name] = meant[name] = tensor
            continue
        scale = tensor.float().abs().amax(1, keepdim=True) / 7
        whole = (tensor.float() / scale).round().to(torch.int8)
        tensors |= {f"{name}_packed": pack_to_int32(whole, 4), f"{name}_scale": scale}
        tensors[f"{name}_shape"] = torch.tensor(tensor.shape)
        meant[name] = (whole.float() * scale).to(tensor.dtype)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel"}
    folder = described(
        tmp_path / "int4",
        tiny,
        tensors,
        quant_method="compressed-tensors",
        format="pack-quantized",
        quantization_status="compressed",
        ignore=["lm_head"],
        config_groups={"group_0": {"targets": ["Linear"], "weights": weights}},
    )
    plain = described(tmp_path / "meant", tiny, meant)
    (plain / "config.json").write_bytes((tiny / "config.json").read_bytes())
    assert introspect(str(folder)).quantization == "compressed-tensors-int4"
    assert completions(folder, dtype="float32") == completions(plain, dtype="float32")


def test_experts_in_mxfp4_become_plain_ones(tmp_path):
    """As gpt-oss is published: two numbers of 4 bits in a byte, and a power of two for 32 of them."""
    pytest.importorskip("gguf")
    from fakes.models import write_decoder  # noqa: PLC0415 - it needs that

    plain = write_decoder(tmp_path / "plain", "gpt-oss")
    numbers = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    torch.manual_seed(3)
    tensors, meant = {}, {}
    for name, tensor in matrices(plain).items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = meant[name] = tensor
            continue
        experts, inner, outer = tensor.shape
        codes = torch.randint(0, 16, (experts, outer, inner // 32, 32))
        tensors[f"{name}_blocks"] = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
        tensors[f"{name}_scales"] = torch.full((experts, outer, inner // 32), 125, dtype=torch.uint8)
        whole = (numbers[codes] * 0.25).reshape(experts, outer, inner)
        meant[name] = whole.transpose(1, 2).contiguous().to(tensor.dtype)
    folder = described(tmp_path / "mxfp4", plain, tensors, quant_method="mxfp4", modules_to_not_convert=["lm_head"])
    other = described(tmp_path / "meant", plain, meant)
    (other / "config.json").write_bytes((plain / "config.json").read_bytes())
    assert introspect(str(folder)).quantization == "mxfp4"
    asked = {"dtype": "bfloat16", "max_model_len": 128}
    assert completions(folder, **asked) == completions(other, **asked)


def packed(values: Any) -> Any:
    """Rows of 4-bit numbers, eight of them in an integer, the first in its lowest bits."""
    rows = values.to(torch.int64).view(-1, 8, values.shape[1])
    whole = sum(rows[:, place] << 4 * place for place in range(8))
    return whole.to(torch.uint32).view(torch.int32).contiguous()


def test_weights_of_gptq_are_read_as_they_are(tiny, tmp_path):
    needs("gptq")
    tensors, meant = {}, {}
    for name, tensor in matrices(tiny).items():
        if not name.endswith("_proj.weight"):
            tensors[name] = meant[name] = tensor.to(torch.float16)
            continue
        rows, width = tensor.t().float(), len(tensor)
        scale = (rows.abs().amax(0, keepdim=True) / 7).to(torch.float16)
        whole = (rows / scale).round().clamp(-8, 7) + 8
        module = name.removesuffix(".weight")
        tensors[f"{module}.qweight"] = packed(whole)
        tensors[f"{module}.qzeros"] = packed(torch.full((width, 1), 7)).t().contiguous()  # GPTQ stores one less
        tensors[f"{module}.scales"] = scale
        tensors[f"{module}.g_idx"] = torch.zeros(len(rows), dtype=torch.int32)
        meant[name] = ((whole - 8) * scale).t().to(torch.float16).contiguous()
    asked = {"bits": 4, "group_size": -1, "desc_act": False, "sym": True, "checkpoint_format": "gptq"}
    folder = described(tmp_path / "gptq", tiny, tensors, quant_method="gptq", **asked)
    plain = described(tmp_path / "meant", tiny, meant)
    (plain / "config.json").write_bytes((tiny / "config.json").read_bytes())
    assert introspect(str(folder)).quantization == "gptq-int4"
    assert completions(folder, dtype="float32") == completions(plain, dtype="float32")


def test_weights_that_are_missing_are_not_made_up(tiny, tmp_path):
    tensors = matrices(tiny)
    del tensors["model.norm.weight"]
    folder = described(tmp_path / "short", tiny, tensors)
    (folder / "config.json").write_bytes((tiny / "config.json").read_bytes())
    with pytest.raises(LoadFailed, match=r"lack 1 of its weights, such as model\.norm\.weight"):
        completions(folder)


# --- memory ---


def test_the_cache_gets_what_quantized_weights_leave():
    needs("bitsandbytes")
    slices = (DeviceSlice(device_id="cpu-0", memory_mib=700),)
    grant = Grant(lease=Lease(replica_id="r", generation=1, slices=slices))
    asked = [{"messages": GOLDEN[0]["messages"], "max_tokens": 40}]
    [choice] = answers(DEMO, Op.CHAT, asked, grant, quantize="nf4")
    assert choice["message"]["content"] == GOLDEN[0]["text"]
