"""The entries of the catalog: schema, ids, names, shapes, and what a user's words choose of them. Without a network."""

import math
import re
import socket
from importlib import resources

import msgspec
import pytest

from xinfer.catalog import builtin, resolve_source
from xinfer.catalog.families import Catalog, read_family
from xinfer.catalog.selection import DEFAULT_SIZE_MIB, default_size, described, parsed_size, select, size_of
from xinfer.catalog.sources import BUILTIN, REPOSITORY, Hub, hub_source
from xinfer.engines.base import EngineMemory
from xinfer.errors import InvalidRequest
from xinfer.ops import OPS_OF_KIND, Kind
from xinfer.spec import Deployment, Format, ModelShape
from xinfer.supervisor.sizing import estimate

MODELS = builtin().names()
FILES = sorted(
    (file for file in (resources.files("xinfer.catalog") / "families").iterdir() if file.name.endswith(".toml")),
    key=lambda file: file.name,
)
WITHOUT_SIZE = {"chattts", "cosyvoice-300m-sft", "cosyvoice2-0.5b"}
"""Published as several parts that no one size describes."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the catalog needs no network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def family(text):
    return Catalog({"test": read_family(text.encode(), "test.toml")})


# Every entry.


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_is_as_the_schema_says(file):
    content = read_family(file.read_bytes(), file.name)
    assert content.models
    used = {size.shape or size.label for model in content.models for size in model.sizes}
    assert used == content.shapes.keys(), "a shape that no model has"


def test_reading_the_catalog_needs_no_network():
    assert builtin.__wrapped__().names() == MODELS


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_says_where_its_weights_are(name):
    for spec in builtin().find(name):
        if spec.format is Format.NONE or spec.source.startswith(BUILTIN):
            continue
        found = [hub_source(source) for source in (spec.source, *spec.mirrors)]
        assert all(found), spec
        assert len({source.hub for source in found}) == len(found)
        for source in found:
            assert REPOSITORY.fullmatch(source.repository)
            assert "{" not in str(source)
            assert source.files.endswith((".gguf", "/*")) or spec.format is not Format.GGUF


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_is_complete(name):
    entry = builtin().entry(name)
    assert entry.model.description
    assert entry.model.abilities
    assert name == name.lower()
    kinds_with_context = {Kind.LLM, Kind.EMBEDDING, Kind.RERANK, Kind.VISION_LANGUAGE}
    for spec in entry.specs:
        assert spec.weights_mib > 0 or spec.format is Format.NONE or name in WITHOUT_SIZE
        assert spec.context_length or spec.kind not in kinds_with_context
        assert spec.dimensions or spec.kind is not Kind.EMBEDDING
        assert all(smaller <= spec.dimensions for smaller in spec.matryoshka_dims)
    combinations = [(size_of(spec), spec.format, spec.quantization) for spec in entry.specs]
    assert len(set(combinations)) == len(combinations), "two sets of weights that nobody can tell apart"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("device", ["cpu", "accelerator"])
def test_every_entry_can_be_estimated(name, device):
    for spec in builtin().find(name):
        found = estimate(Deployment(model_uid="m", spec=spec, engine="e"), EngineMemory(), device)
        assert math.isfinite(found.needed_mib)
        assert found.needed_mib > 0
        shape = spec.shape
        if shape and shape.hidden:
            assert shape.attention_layers + shape.sliding_layers <= shape.layers
            assert found.weights_mib == pytest.approx(spec.weights_mib, rel=0.07)
            assert shape.heads % shape.kv_heads == 0
            assert spec.size_in_billions == pytest.approx(shape.parameters / 1e9, rel=0.35)


@pytest.mark.parametrize("name", MODELS)
def test_every_set_of_weights_can_be_chosen_by_its_words(name):
    specs = builtin().find(name)
    for spec in specs:
        chosen = select(
            specs,
            kind=spec.kind.value,
            size=size_of(spec) or None,
            weights_format=spec.format.value,
            quantization=spec.quantization,
        )
        assert chosen == [spec]


def test_names_and_aliases_are_unique_however_they_are_written():
    entries = [builtin().entry(name) for name in MODELS]
    words = [word for entry in entries for word in (entry.model.name, *entry.model.aliases)]
    assert len({re.sub("[._]", "-", word.lower()) for word in words}) == len(words)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("Qwen3", "qwen3"),
        ("BGE_Large_ZH", "bge-large-zh-v1.5"),
        ("deepseek-r1-distill-qwen", "deepseek-r1-distill-qwen"),
        ("Qwen2.5-VL", "qwen2.5-vl-instruct"),
        ("qwen2_5", "qwen2.5-instruct"),
        ("llama 3.3", "llama-3.3-instruct"),
        ("sdxl", "stable-diffusion-xl-base-1.0"),
        ("Kokoro", "kokoro-82m"),
        ("nobody", None),
        ("llama3.1", "llama-3.1-instruct"),
        ("gemma3", "gemma-3-it"),
        ("phi4", "phi-4"),
    ],
)
def test_models_are_found_as_people_type_them(word, name):
    found = builtin().find(word)
    assert (found[0].name if found else None) == name


def test_a_repository_names_its_models_too():
    found = builtin().in_repository("Qwen/Qwen3-0.6B")
    assert [(spec.name, spec.format, size_of(spec)) for spec in found] == [("qwen3", "safetensors", "0.6B")]
    assert {spec.quantization for spec in builtin().in_repository("unsloth/qwen3-8b-gguf")} >= {"Q4_K_M", "Q8_0"}
    assert builtin().in_repository("nobody/nothing") == ()


def test_a_family_lists_its_models():
    assert set(builtin().similar("gemma")) == {"gemma-2-it", "gemma-3-it", "embeddinggemma"}
    assert builtin().similar("bge-large") == ["bge-large-en-v1.5", "bge-large-zh-v1.5"]
    assert builtin().similar("") == []


# What the words of a launch choose.


def chosen(name, **words):
    return select(builtin().find(name), **words)


@pytest.mark.parametrize("size", ["0.6b", "0_6", 0.6, "0.6", "0.6B", "600M"])
def test_sizes_as_people_write_them(size):
    (spec,) = chosen("qwen3", size=size, weights_format="gguf", quantization="Q4_K_M")
    assert (spec.size_in_billions, spec.quantization) == (0.6, "Q4_K_M")
    assert spec.source == "hf:unsloth/Qwen3-0.6B-GGUF#Qwen3-0.6B-Q4_K_M.gguf"
    assert spec.mirrors == ("ms:unsloth/Qwen3-0.6B-GGUF#Qwen3-0.6B-Q4_K_M.gguf",)


def test_a_mixture_of_experts_is_named_by_both_sizes_or_by_all_of_it():
    for size in ("30b-a3b", "30B-A3B", 30):
        assert chosen("qwen3", size=size)[0].source == "hf:Qwen/Qwen3-30B-A3B"
    assert parsed_size("30b-a3b") == (30, 3)
    assert chosen("gpt-oss", size=20)[0].active_size_in_billions == 3.6


@pytest.mark.parametrize(
    ("words", "quantizations"),
    [
        ({"weights_format": "awq"}, ["awq-int4"]),
        ({"weights_format": "gptq", "quantization": "Int8", "size": "0.6b"}, ["gptq-int8"]),
        ({"weights_format": "pytorch", "quantization": "none"}, ["none"]),
        ({"weights_format": "fp8"}, ["fp8"]),
        ({"weights_format": "mlx", "quantization": "4bit"}, ["4bit"]),
        ({"weights_format": "ggufv2", "quantization": "q8_0"}, ["Q8_0"]),
    ],
)
def test_formats_as_xinference_names_them(words, quantizations):
    assert [spec.quantization for spec in chosen("qwen3", **words)] == quantizations


def test_types_as_xinference_names_them():
    assert chosen("qwen2.5-vl-instruct", kind="LLM")
    assert chosen("whisper-large-v3", kind="audio")
    assert chosen("kokoro", kind="Audio")
    with pytest.raises(InvalidRequest, match=r"'qwen3' .*no such model_type; there is: LLM"):
        chosen("qwen3", kind="audio")


@pytest.mark.parametrize(
    ("name", "size"),
    [("qwen3", "8B"), ("llama-3.1-instruct", "8B"), ("gpt-oss", "20B-A3.6B"), ("qwen3-coder", "30B-A3B")],
)
def test_the_default_size_is_the_largest_that_one_card_serves_well(name, size):
    specs = builtin().find(name)
    assert default_size(specs) == size
    assert {size_of(spec) for spec in chosen(name)} == {size}
    larger = [spec for spec in specs if spec.size_in_billions > select(specs)[0].size_in_billions]
    plain = {size_of(spec): spec for spec in reversed(larger)}
    assert all(spec.weights_mib > DEFAULT_SIZE_MIB for spec in plain.values())


def test_the_default_size_is_one_that_the_other_words_leave():
    assert {size_of(spec) for spec in chosen("qwen3", weights_format="gptq", quantization="int4")} == {"30B-A3B"}


@pytest.mark.parametrize(
    ("words", "message", "param"),
    [
        ({"size": 5}, "'qwen3' has no such model_size_in_billions; there is: 0.6B, 1.7B, 4B, 8B, 14B", None),
        ({"size": "huge"}, "must be a number such as .* not 'huge'", "model_size_in_billions"),
        ({"size": 8, "weights_format": "onnx"}, "'qwen3' of 8B has no such model_format; there is: gguf, mlx", None),
        ({"size": 8, "weights_format": "gguf", "quantization": "Q9"}, "'qwen3' of 8B in gguf has no such quant", None),
    ],
)
def test_what_there_is_not_lists_what_there_is(words, message, param):
    with pytest.raises(InvalidRequest, match=message) as refused:
        chosen("qwen3", **words)
    assert param is None or refused.value.param == param


# Sizes of weights that nobody has read.


def test_the_bytes_of_weights_follow_from_the_parameters():
    plain, fp8, *_ = chosen("qwen3", size=8)
    assert (plain.quantization, fp8.quantization) == ("none", "fp8")
    assert plain.shape.weight_bytes == {"BF16": 2 * 8_190_735_360}
    embeddings = 2 * 151_936 * 4096
    assert fp8.shape.weight_bytes == {"F8_E4M3": 8_190_735_360 - embeddings, "BF16": 2 * embeddings}
    (gguf,) = chosen("qwen3", size=8, quantization="Q8_0")
    assert gguf.weights_mib == pytest.approx(8_190_735_360 * 34 / 32 / 2**20, rel=0.01)
    assert described(gguf) == "qwen3 (8B, gguf, Q8_0)"


def test_a_catalog_shape_is_that_of_the_files():
    (spec,) = chosen("deepseek-v3", weights_format="safetensors")
    shape = spec.shape
    assert type(shape) is ModelShape
    assert (shape.layers, shape.attention_layers, shape.kv_lora_rank, shape.value_dim) == (61, 61, 512, 128)
    sliding = chosen("gemma-3-it", size="27b")[0].shape
    assert (sliding.attention_layers, sliding.sliding_layers, sliding.window) == (10, 52, 1024)


# Symbolic sources.


@pytest.mark.parametrize(
    "source",
    ["hf:Qwen/Qwen3-8B", "ms:Qwen/Qwen3-8B@v1.0", "hf:BAAI/bge-m3@refs/pr/38", "hf:a/b-GGUF@main#Q4_K_M/*.gguf"],
)
def test_a_source_on_a_hub_is_read_and_written(source):
    found = hub_source(source)
    assert str(found) == source
    assert found.hub in Hub
    with pytest.raises(InvalidRequest, match=f"not on this machine.*{found.page}.*--model-path"):
        resolve_source(source)


@pytest.mark.parametrize(
    "source", ["hf:", "hf:qwen", "hf:a/b/c", "ms:../etc/passwd", "hf:a b/c", "hf:a/b@", "hf:-a/b."]
)
def test_a_source_that_no_hub_has_is_refused(source):
    with pytest.raises(InvalidRequest, match="should be like hf:OWNER/NAME"):
        hub_source(source)


def test_other_sources_are_none_of_a_hub():
    for source in ("", "/models/a", "builtin:demo-chat", "hfx/b"):
        assert hub_source(source) is None


# Files that are not as they have to be.

GOOD = """
[shapes."8B"]
layers = 2
hidden = 8
parameters = 100

[[models]]
name = "m"
kind = "LLM"
sizes = [{ billions = 8 }]
[[models.variants]]
format = "gguf"
huggingface = "a/m-{size}"
files = "m-{size_lower}-{quantization}.gguf"
quantizations = ["Q8_0"]
sizes = ["8B"]
"""


def test_a_family_of_one_file():
    (spec,) = family(GOOD).find("M")
    assert (spec.source, spec.quantization, spec.family) == ("hf:a/m-8B#m-8b-Q8_0.gguf", "Q8_0", "test")


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ('sizes = ["8B"]', 'sizes = ["9B"]', "'m' has no size 9B"),
        ("billions = 8", "billions = 9", "no shape 9B for 'm'"),
        ("{quantization}", "{quality}", "placeholder that there is not: 'quality'"),
        ("Q8_0", "Q77", "size of gguf weights in Q77 is unknown"),
        ("layers", "layer", "unknown field `layer`"),
        ('kind = "LLM"', 'kind = "poem"', "Invalid enum value 'poem'"),
        ('format = "gguf"', 'format = "onnx"', "Invalid enum value 'onnx'"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(good, bad, message):
    assert good in GOOD
    with pytest.raises(ValueError, match=message):
        family(GOOD.replace(good, bad))


def test_kinds_without_operations_are_known_and_not_served():
    unserved = {kind for kind, ops in OPS_OF_KIND.items() if not ops}
    assert unserved <= {builtin().find(name)[0].kind for name in MODELS}
    assert msgspec.json.decode(msgspec.json.encode(builtin().find("whisper-tiny")[0]))["kind"] == "speech-recognition"
