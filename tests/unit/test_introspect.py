"""What is recognised in folders and files of many kinds, and what is said of those that are no model."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="the engines' libraries make the toy models")

from fakes.models import (
    BROKEN,
    DECODERS,
    ENCODERS,
    GGUF_TYPES,
    LOOKALIKES,
    QWEN,
    YARN,
    write_decoder,
    write_described,
    write_gguf,
)

from xinfer.catalog import introspect, shape_of
from xinfer.catalog.folder import Folder
from xinfer.catalog.kinds import kind_of
from xinfer.catalog.quantized import stored
from xinfer.errors import InvalidRequest
from xinfer.generation.context import context_length
from xinfer.ops import Kind
from xinfer.spec import Format

EXPECTED = {
    "bert-embedding": {
        "kind": Kind.EMBEDDING,
        "family": "bert",
        "context_length": 32,
        "dimensions": 32,
        "pooling": "cls",
        "normalized": True,
    },
    "xlmr-embedding": {
        "kind": Kind.EMBEDDING,
        "family": "xlm-roberta",
        "context_length": 64,
        "matryoshka_dims": (8, 16),
        "pooling": "",
        "normalized": None,
    },
    "bert-reranker": {"kind": Kind.RERANK, "abilities": ("rerank",), "context_length": 64},
    "xlmr-reranker": {"kind": Kind.RERANK, "family": "xlm-roberta"},
    "pickled-embedding": {"kind": Kind.EMBEDDING, "format": Format.PICKLE, "pooling": "cls", "weights_mib": 1},
    "llm-embedding": {"kind": Kind.EMBEDDING, "family": "qwen3", "pooling": "lasttoken", "normalized": True},
    "llm-reranker": {"kind": Kind.RERANK, "family": "qwen3", "tool_parser": ""},
    "bare-llm-reranker": {"kind": Kind.RERANK, "abilities": ("rerank",), "context_length": 1024},
    "question-reranker": {"kind": Kind.RERANK, "family": "qwen2"},
    "vision-language": {
        "kind": Kind.VISION_LANGUAGE,
        "abilities": ("generate", "chat", "vision"),
        "context_length": 128000,
    },
    "whisper": {"kind": Kind.SPEECH_RECOGNITION, "abilities": ("transcribe",)},
    "voice": {"kind": Kind.SPEECH_SYNTHESIS, "abilities": ("speak",)},
    "pipeline": {
        "kind": Kind.IMAGE,
        "family": "StableDiffusionXLPipeline",
        "abilities": ("text2image",),
        "size_in_billions": 2e-05,
    },
    "gptq": {"quantization": "gptq-int4", "format": Format.SAFETENSORS, "size_in_billions": 4.1e-06},
    "awq": {"quantization": "awq-int4", "size_in_billions": 4.1e-06},
    "fp8": {"quantization": "fp8"},
    "nf4": {"quantization": "bitsandbytes-nf4"},
    "compressed": {"quantization": "compressed-tensors-fp8"},
    "mlx": {"quantization": "4bit", "format": Format.MLX, "size_in_billions": 4.1e-06},
    "code": {"kind": Kind.LLM, "family": "invented", "remote_code": True},
}
KEYS = (
    *("architectures", "auto_map", "quantization_config", "quantization", "text_config", "config_groups", "weights"),
    *("rope_scaling", "rope_parameters", "factor", "rope_type", "max_position_embeddings", "hidden_size", "num_labels"),
    *("id2label", "matryoshka_dimensions", "layer_types", "sliding_window", "vision_config", "pooling_mode"),
    *("quant_method", "bits", "num_bits", "original_max_position_embeddings", "num_hidden_layers", "dtype"),
)
HEADS = ("Qwen2ForCausalLM", "BertModel", "BertForSequenceClassification", "WhisperForConditionalGeneration")
REASONS = {
    "adapter": "LoRA adapter for Qwen/Qwen3-0.6B.*xinfer launch Qwen/Qwen3-0.6B --lora-modules adapter=",
    "empty": "no config.json and no GGUF file: it is empty",
    "tokenizer-only": "it is a tokenizer without a model; download the whole model",
    "cut-off": "is cut off: .* bytes; download it again",
    "cut-off-gguf": "is cut off: .* bytes; download it again",
    "pointer": "run 'git lfs pull' in its folder",
    "pickled": "only pickled weights, and none of those that are read.*convert them to safetensors",
    "cut-off-pickle": "is cut off or no file of PyTorch's .*download it again",
    "malicious": r"is not loaded: the pickle in it calls (posix|nt)\.system",
    "onnx": "only weights for ONNX, which no engine here loads; fetch",
    "no-weights": r"no \*.safetensors files; download it again, with its weights",
    "cache-entry": "launch that one: snapshots/0123abc",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("name", DECODERS)
def test_a_language_model_of_every_architecture(root, name):
    folder = write_decoder(root / name, name)
    spec = introspect(str(folder))
    config = json.loads((folder / "config.json").read_text())
    assert (spec.kind, spec.format, spec.quantization) == (Kind.LLM, Format.SAFETENSORS, "none")
    assert (spec.family, spec.context_length) == (config["model_type"], 256)
    assert ("chat" in spec.abilities) == spec.has_chat_template == bool(DECODERS[name].template)
    assert not spec.remote_code
    assert spec.shape
    assert spec.shape.layers == spec.shape.attention_layers + spec.shape.sliding_layers == 2
    assert bool(spec.shape.kv_lora_rank) == (name == "deepseek")
    assert bool(spec.shape.sliding_layers) == (name in {"mistral", "gemma2", "gemma3", "gpt-oss"})
    assert shape_of(spec) == spec.shape


def test_a_template_tells_what_a_chat_model_can_do(root):
    spec = introspect(str(write_decoder(root / "abilities", "qwen3")))
    assert spec.abilities == ("generate", "chat", "tools", "reasoning")
    assert (spec.tool_parser, spec.reasoning_parser) == ("hermes", "think-tags")


@pytest.mark.parametrize("name", [*ENCODERS, *LOOKALIKES])
def test_a_model_of_every_other_kind(root, name):
    spec = introspect(str({**ENCODERS, **LOOKALIKES}[name](root / name)))
    assert {field: getattr(spec, field) for field in EXPECTED[name]} == EXPECTED[name]


@pytest.mark.parametrize("name", GGUF_TYPES)
def test_a_gguf_file_of_every_quantization(root, name):
    spec = introspect(str(write_gguf(root / f"{name}.gguf", name)))
    assert (spec.kind, spec.format, spec.quantization) == (Kind.LLM, Format.GGUF, name)
    assert (spec.family, spec.context_length, spec.abilities) == ("llama", 256, ("generate", "chat"))


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_model_is_refused_with_what_would_help(root, name):
    with pytest.raises(InvalidRequest, match=REASONS[name]) as refused:
        introspect(str(BROKEN[name](root / name)))
    assert refused.value.param == "model_path"


# Single rules.


def test_what_a_launch_says_a_model_is_for_counts_more_than_its_files(root):
    folder = write_described(root / "masked", {**QWEN, "architectures": ["BertForMaskedLM"]})
    with pytest.raises(InvalidRequest, match="--model-type embedding"):
        introspect(str(folder))
    assert introspect(str(folder), kinds=(Kind.EMBEDDING,)).kind is Kind.EMBEDDING
    seeing = LOOKALIKES["vision-language"](root / "seeing")
    assert introspect(str(seeing), kinds=(Kind.LLM, Kind.VISION_LANGUAGE)).kind is Kind.VISION_LANGUAGE


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["Wav2Vec2ForCTC"]}, Kind.SPEECH_RECOGNITION),
        ({"architectures": ["ParlerTTSForConditionalGeneration"]}, Kind.SPEECH_SYNTHESIS),
        ({"architectures": ["VitsModel"], "upsample_rates": [8, 8]}, Kind.SPEECH_SYNTHESIS),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, Kind.LLM),
        ({"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["no", "yes"]}, Kind.RERANK),
        ({"architectures": ["MistralModel"]}, Kind.EMBEDDING),
        (
            {"architectures": ["HearingForConditionalGeneration"], "audio_config": {"num_mel_bins": 80}},
            Kind.LLM,
        ),
    ],
)
def test_the_kind_by_what_the_configuration_says(tmp_path, config, kind):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert kind_of(Folder(tmp_path)) is kind


def test_a_model_that_hears_says_so(tmp_path):
    config = {**QWEN, "architectures": ["HearingForConditionalGeneration"], "audio_config": {}}
    assert introspect(str(write_described(tmp_path / "hears", config))).abilities == ("generate", "chat", "audio")


@pytest.mark.parametrize(
    ("scaling", "length"),
    [
        ({}, 1000),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 4000),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}, "sliding_window": 64}, 1000),
        ({"rope_parameters": {**YARN, "original_max_position_embeddings": 500}}, 4000),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 500}}, 1000),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}}, 1000),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}, 1000),
    ],
)
def test_the_context_length_with_scaled_positions(scaling, length):
    assert context_length({"max_position_embeddings": 1000, **scaling}) == length


@pytest.mark.parametrize(
    ("config", "modelopt", "written_for", "found"),
    [
        ({}, {}, "pt", (Format.SAFETENSORS, "none", 0)),
        ({}, {}, "mlx", (Format.MLX, "none", 0)),
        ({"quantization": {"bits": 8, "mode": "mxfp8"}}, {}, "mlx", (Format.MLX, "mxfp8", 8)),
        ({"quantization_config": {"quant_method": "mxfp4"}}, {}, "", (Format.SAFETENSORS, "mxfp4", 4)),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, {}, "", None),
        ({"text_config": {"quantization_config": {"quant_method": "gptq", "bits": 8}}}, {}, "", None),
        ({}, {"quantization": {"quant_algo": "NVFP4"}}, "", (Format.SAFETENSORS, "modelopt-nvfp4", 4)),
        ({"quantization": {"group_size": 64}}, {}, "", (Format.SAFETENSORS, "quantized", 0)),
    ],
)
def test_the_quantization_by_what_the_configuration_says(config, modelopt, written_for, found):
    named = {"bitsandbytes": "bitsandbytes-int8", "gptq": "gptq-int8"}
    method = next((word for word in named if word in str(config)), "")
    assert stored(config, modelopt, written_for) == (found or (Format.SAFETENSORS, named[method], 8))


def test_a_folder_with_a_gguf_file_beside_its_config_is_that_file(tmp_path):
    file = write_gguf(tmp_path / "model.Q8_0.gguf", "Q8_0")
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    assert introspect(str(tmp_path)).source == str(file)
    write_gguf(tmp_path / "model.Q4_0.gguf", "Q4_0")
    with pytest.raises(InvalidRequest, match=r"name one of them \(model.Q4_0.gguf, model.Q8_0.gguf\)"):
        introspect(str(tmp_path))


@pytest.mark.parametrize("path", ["../elsewhere", "/elsewhere"])
def test_a_folder_that_names_files_outside_of_itself_is_refused(tmp_path, path):
    folder = ENCODERS["bert-embedding"](tmp_path / "curious")
    modules = [{"type": "sentence_transformers.models.Pooling", "path": path}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InvalidRequest, match=r"elsewhere/config\.json, which is not in it"):
        introspect(str(folder))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["", "yarn", "gptq"]),
    lambda part: st.lists(part, max_size=2) | st.dictionaries(st.sampled_from(KEYS), part, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=6), pooling=JUNK, head=st.sampled_from(HEADS))
def test_files_of_any_content_are_read_or_refused(tmp_path, config, pooling, head):
    folder = tmp_path / "junk"
    if not folder.exists():
        write_described(folder, QWEN, modules=[])
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "."}] if config else []
    contents = {"config": {**QWEN, "architectures": [head], **config}, "modules": modules}
    contents |= {"hf_quant_config": {"quantization": pooling}, "tokenizer_config": {"model_max_length": pooling}}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    with contextlib.suppress(InvalidRequest):
        introspect(str(folder))


def test_one_file_of_a_model_is_not_the_model(tmp_path):
    write_described(tmp_path / "model", QWEN)
    with pytest.raises(InvalidRequest, match="launch the folder that it is in"):
        introspect(str(tmp_path / "model" / "model.safetensors"))


def test_adapters_and_pipelines_that_nothing_here_takes(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(InvalidRequest, match=r"adapter of the type IA3.*merge it into its base model"):
        introspect(str(tmp_path))
    video = tmp_path / "video"
    video.mkdir()
    (video / "model_index.json").write_text('{"_class_name": "TextToVideoSDPipeline"}')
    with pytest.raises(InvalidRequest, match="TextToVideoSDPipeline; of pipelines, those for images are known"):
        introspect(str(video))
    (video / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(InvalidRequest, match="download it again, with its weights"):
        introspect(str(video))


def test_a_language_model_that_judges_documents_is_told_by_its_card_or_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"]}))
    assert kind_of(Folder(tmp_path), "hf:Qwen/Qwen3-0.6B") is Kind.LLM
    assert kind_of(Folder(tmp_path), "hf:Qwen/Qwen3-Reranker-0.6B") is Kind.RERANK
    card = "---\nlicense: mit\npipeline_tag: {}\n---\npipeline_tag: text-ranking\n"
    (tmp_path / "README.md").write_text(card.format('"text-ranking"'))
    assert kind_of(Folder(tmp_path)) is Kind.RERANK
    (tmp_path / "README.md").write_text(card.format("text-generation"))
    assert kind_of(Folder(tmp_path)) is Kind.LLM
