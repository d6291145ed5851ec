"""Our forward pass of plain decoders against the library's own, on tiny random models."""

import logging
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, models  # noqa: E402

from xinfer.devices import Grant, Lease  # noqa: E402
from xinfer.engines.token_engine import Sequence  # noqa: E402
from xinfer.engines.transformers import attention  # noqa: E402
from xinfer.engines.transformers.checks import check_cache, native_fault  # noqa: E402
from xinfer.engines.transformers.loading import load_model, run_natively  # noqa: E402
from xinfer.engines.transformers.model import SlotModel  # noqa: E402
from xinfer.engines.transformers.native import NativeDecoder, unsuited  # noqa: E402
from xinfer.engines.transformers.options import TransformersOptions  # noqa: E402
from xinfer.engines.transformers.runner import BatchRunner  # noqa: E402
from xinfer.engines.transformers.shape import CacheLimits, CacheShape  # noqa: E402
from xinfer.errors import LoadFailed  # noqa: E402
from xinfer.generation.sampling import Sampling  # noqa: E402
from xinfer.ops import Kind  # noqa: E402
from xinfer.spec import Format, ModelSpec  # noqa: E402

pytestmark = pytest.mark.engine("transformers")

CONTEXT = 640
"""More positions than the table of rotations starts with."""

SUITED: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3-tied": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3-bias": ("Qwen3", {"head_dim": 8, "attention_bias": True}),
    "qwen2": ("Qwen2", {}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}),
    "llama": ("Llama", {}),
    "llama-bias": ("Llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    "mistral": ("Mistral", {"sliding_window": None, "num_key_value_heads": 1}),
}

UNSUITED: dict[str, tuple[str, dict[str, Any], str]] = {
    "window": ("Mistral", {"sliding_window": 8}, "sliding window"),
    "some-windows": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        "sliding window",
    ),
    "scaled": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        r"scaled \(linear\)",
    ),
    "activation": ("Llama", {"hidden_act": "gelu"}, "activation is gelu"),
    "gemma": ("Gemma", {"head_dim": 8}, "none of the architectures"),
}


def random_slots(architecture: str, options: dict[str, Any], dtype: Any = torch.float32) -> SlotModel:
    """A model with weights large enough that every one matters, biases and norms too."""
    asked = {
        "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, **options,
    }  # fmt: skip
    torch.manual_seed(5)
    model = getattr(transformers, f"{architecture}ForCausalLM")(getattr(transformers, f"{architecture}Config")(**asked))
    with torch.no_grad():
        for name, part in model.named_parameters():
            part.normal_(1.0 if "norm" in name else 0.0, 0.2)
    attention.register()
    model.set_attn_implementation(attention.IMPLEMENTATION)
    return SlotModel(model.to(dtype).eval(), CONTEXT)


@pytest.fixture(params=SUITED)
def slots(request) -> SlotModel:
    return random_slots(*SUITED[request.param])


def answers(slots: SlotModel) -> list[Any]:
    """Logits of everything a runner does: prompts whole and in chunks, and rows at different positions."""
    slots.cache.resize(CacheShape(3, CONTEXT))
    torch.manual_seed(1)
    tokens = torch.randint(0, 100, (3, 400))
    place = torch.arange(400).expand(3, -1)
    lengths = [7, 30, 330]
    with torch.inference_mode():
        found = [
            slots.run(slice(0, 3), tokens[:, :7], place[:, :7], 7, plain=True, keep=0),
            slots.run(slice(1, 3), tokens[1:, 7:30], place[1:, 7:30], 30, plain=False, keep=torch.tensor([3, 22])),
            slots.run(slice(2, 3), tokens[2:, 30:330], place[2:, 30:330], 330, plain=False, keep=2),
        ]
        for step in range(3):
            positions = torch.tensor([[length + step] for length in lengths])
            new = tokens.gather(1, positions)
            found.append(slots.run(slice(0, 3), new, positions, 331 + step, plain=False, keep=1))
        found.append(slots.run(slice(2, 3), tokens[2:, 333:334], place[2:, 333:334], 334, plain=True, keep=1))
    return found


def test_logits_are_those_of_the_library(slots):
    library = answers(slots)
    run_natively(slots, insist=True)
    native = answers(slots)
    for ours, theirs in zip(native, library, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_greedy_tokens_are_those_of_the_library(slots):
    def generated() -> list[list[int]]:
        runner = BatchRunner(slots, CacheLimits(max_rows=4, max_length=128, positions=512), prefill_chunk=16)
        prompts = [[(7 * step + 3) % 97 for step in range(size)] for size in (5, 14, 23, 40, 9)]
        sequences = [Sequence(prompt, Sampling(temperature=0, max_tokens=10), receiver=None) for prompt in prompts]
        for sequence in sequences:
            runner.add(sequence)
        while runner.has_work():
            runner.step()
        return [sequence.generated for sequence in sequences]

    library = generated()
    run_natively(slots, insist=True)
    assert generated() == library


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_passes_the_check(dtype):
    slots = random_slots("Qwen3", {"head_dim": 16}, dtype)
    check_cache(slots)
    run_natively(slots, insist=True)
    assert {part.dtype for part in answers(slots)} == {dtype}


def test_weights_are_shared_with_the_library_and_not_held_twice(slots):
    model = slots.model
    before = {name: part.clone() for name, part in model.named_parameters()}
    slots.native = NativeDecoder(model)
    assert all(torch.equal(part, before[name]) for name, part in model.named_parameters())
    first = model.model.layers[0]
    projections = (first.self_attn.q_proj, first.self_attn.k_proj, first.self_attn.v_proj)
    assert len({part.weight.untyped_storage().data_ptr() for part in projections}) == 1
    storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in model.parameters()}
    assert sum(storages.values()) == sum(part.numel() * part.element_size() for part in before.values())


@pytest.mark.parametrize("name", UNSUITED)
def test_other_models_stay_with_the_library(name, caplog):
    architecture, options, reason = UNSUITED[name]
    slots = random_slots(architecture, options)
    with caplog.at_level(logging.INFO, logger="xinfer"):
        run_natively(slots, insist=False)
    assert slots.native is None
    assert caplog.messages[0].startswith(f"running {architecture}ForCausalLM with the library's own classes")
    with pytest.raises(LoadFailed, match=f"cannot run natively: .*{reason}"):
        run_natively(slots, insist=True)


def test_adapted_and_mixed_weights_stay_with_the_library():
    class Adapted(torch.nn.Linear):
        """Stands for what adapters and quantizers put in the place of a layer."""

    adapted = random_slots("Llama", {}).model
    adapted.model.layers[1].mlp.down_proj = Adapted(48, 32, bias=False)
    assert "adapted" in unsuited(adapted)
    mixed = random_slots("Llama", {}).model
    mixed.lm_head.to(torch.bfloat16)
    assert "several types" in unsuited(mixed)


def test_logits_that_differ_are_found_out(caplog, monkeypatch):
    slots = random_slots("Qwen3", {"head_dim": 16})
    slots.native = NativeDecoder(slots.model)
    assert not native_fault(slots)
    monkeypatch.setattr(NativeDecoder, "_normalized", lambda _self, x, _weight: x)
    assert "from the library's" in native_fault(slots)
    with caplog.at_level(logging.INFO, logger="xinfer"):
        run_natively(slots, insist=False)
    assert slots.native is None
    assert "from the library's" in caplog.text


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model that is suited, as files."""
    transformers.utils.logging.disable_progress_bar()
    random_slots("Llama", {}).model.save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({f"w{index}": index for index in range(100)}, unk_token="w0"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize(("implementation", "native"), [("auto", True), ("native", True), ("library", False)])
def test_a_launch_chooses_the_implementation(folder, implementation, native):
    spec = ModelSpec(name="tiny", kind=Kind.LLM, source=str(folder), format=Format.SAFETENSORS)
    grant = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
    options = TransformersOptions(implementation=implementation)
    runner = load_model(spec, options, grant, lambda _stage, _fraction: None).runner
    assert isinstance(runner, BatchRunner)
    assert (runner._model.native is not None) is native
