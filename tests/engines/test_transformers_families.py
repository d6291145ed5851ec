"""What the transformers engine does with families of models whose classes differ from the others in one respect."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from engines.asking import complete, text_of, with_engine  # noqa: E402
from fakes.models import CONTEXT, SMALL, TEXT  # noqa: E402
from fakes.tiny_qwen import write_tokenizer  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from xinfer.devices import DeviceSlice, Grant, Lease  # noqa: E402
from xinfer.engines.transformers import ENGINE  # noqa: E402
from xinfer.errors import LoadFailed  # noqa: E402
from xinfer.ops import Kind  # noqa: E402
from xinfer.spec import Format, ModelSpec  # noqa: E402

pytestmark = pytest.mark.engine("transformers")

SHORT = 40
"""Tokens for which the models with a stretched rotation were made."""
LONGROPE = {
    "original_max_position_embeddings": SHORT,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0 + index for index in range(8)],
        "original_max_position_embeddings": SHORT,
    },
}
DYNAMIC = {
    "max_position_embeddings": SHORT,
    "rope_parameters": {"rope_type": "dynamic", "factor": CONTEXT / SHORT, "rope_theta": 10_000.0},
}
SHARED_KEYS = {
    "head_dim": 16,
    "num_hidden_layers": 3,
    "num_kv_shared_layers": 1,
    "intermediate_size": [64] * 3,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 512,
    "laurel_rank": 4,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "activation_sparsity_pattern": [0.0] * 3,
    "sliding_window": 16,
}
PROMPTS = [[(7 * size + 3 * step) % 509 for step in range(size)] for size in (1, 14, 20, 33, SHORT, 60, 90)]
TOKENS = 24


def write_model(folder: Path, family: str, fields: Mapping[str, Any], config_class: str = "") -> Path:
    """A toy model of a family by its classes in the library."""
    end = write_tokenizer(folder, TEXT)
    config = getattr(transformers, config_class or f"{family}Config")(**{**SMALL, "eos_token_id": end, **fields})
    torch.manual_seed(7)
    transformers.utils.logging.disable_progress_bar()
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder)
    return folder


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(name="tiny", kind=Kind.LLM, source=str(folder), format=Format.SAFETENSORS)


def reread(folder: Path, family: str, prompt: list[int]) -> str:
    """What the library continues with when it reads everything again for every token."""
    model = getattr(transformers, f"{family}ForCausalLM").from_pretrained(folder, dtype="float32").eval()
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(TOKENS):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    text: str = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(ids[len(prompt) :])
    return text


def generated(folder: Path, family: str, prompt: list[int]) -> str:
    """What the library's own way to generate continues with."""
    model = getattr(transformers, f"{family}ForCausalLM").from_pretrained(folder, dtype="float32").eval()
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    found = model.generate(
        ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    text: str = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(found[0, len(prompt) :].tolist())
    return text


@pytest.mark.parametrize(
    ("family", "fields", "alone"),
    [
        pytest.param("Phi3", LONGROPE, reread, id="longrope"),
        pytest.param("Llama", DYNAMIC, generated, id="dynamic"),
    ],
)
def test_a_long_neighbour_does_not_change_how_a_short_text_is_rotated(tmp_path, family, fields, alone):
    folder = write_model(tmp_path, family, fields)

    async def use(engine):
        asked = [complete(engine, prompt, max_tokens=TOKENS, stream=len(prompt) % 2 == 0) for prompt in PROMPTS]
        several = complete(engine, PROMPTS[3], max_tokens=TOKENS, n=3)
        return await asyncio.gather(*asked, several)

    *answers, several = with_engine(ENGINE, spec_of(folder), use, options={"prefill_chunk": 32})
    expected = [alone(folder, family, prompt) for prompt in PROMPTS]
    assert [text_of(answer) for answer in answers] == expected
    assert [text_of(several, choice) for choice in range(3)] == [expected[3]] * 3


def test_layers_that_read_what_another_one_wrote_have_nothing_to_copy(tmp_path):
    folder = write_model(tmp_path, "Gemma3n", SHARED_KEYS, "Gemma3nTextConfig")
    granted = Grant(lease=Lease(replica_id="r", generation=1, slices=(DeviceSlice(device_id="cpu-0", memory_mib=900),)))

    async def use(engine):
        return await asyncio.gather(
            *[complete(engine, prompt, max_tokens=index + 2) for index, prompt in enumerate(PROMPTS)]
        )

    together = with_engine(ENGINE, spec_of(folder), use, granted)
    expected = [generated(folder, "Gemma3n", prompt) for prompt in PROMPTS]
    for answer, text in zip(together, expected, strict=True):
        assert text.startswith(text_of(answer).rstrip("\ufffd"))


def test_attention_that_cannot_be_replaced_is_refused_with_the_reason(tmp_path):
    folder = write_model(tmp_path, "Falcon", {})

    async def use(_engine):
        pytest.fail("it was loaded")

    with pytest.raises(LoadFailed, match="FalconForCausalLM computes its attention in classes of its own"):
        with_engine(ENGINE, spec_of(folder), use)
