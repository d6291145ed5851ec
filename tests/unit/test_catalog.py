"""The built-in catalog, and what is found in folders on disk."""

import json
import struct

import msgspec
import pytest
from fakes.gguf_file import smallest_gguf

from xinfer.catalog import builtin, introspect, located, resolve_source, shape_of
from xinfer.catalog.families import Catalog, read_family
from xinfer.catalog.sources import DEMO_FOLDER
from xinfer.errors import InvalidRequest
from xinfer.ops import Kind
from xinfer.spec import Format


def write_safetensors(path, shapes, missing_bytes=0):
    header = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, missing_bytes]} for name, shape in shapes.items()
    }
    header["__metadata__"] = {"format": "pt"}
    content = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content)


@pytest.fixture
def folder(tmp_path):
    """Makes a model folder from the content of its JSON files."""

    def make(config, *, weights=True, **files):
        path = tmp_path / "model"
        path.mkdir(exist_ok=True)
        for name, content in {"config": config, **files}.items():
            if content is not None:
                (path / f"{name}.json").write_text(json.dumps(content))
        if weights:
            write_safetensors(path / "model.safetensors", {"a": [1000, 2000], "b": [500_000]})
        return path

    return make


LLM = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "max_position_embeddings": 4096, "hidden_size": 8}


def refused(match, path):
    with pytest.raises(InvalidRequest, match=match):
        introspect(str(path))


# Built-in families.


def test_the_built_in_catalog_is_well_formed():
    names = builtin().names()
    assert {"demo-chat", "demo-embed", "demo-rerank", "echo", "echo-embed", "echo-rerank"} <= set(names)
    for name in names:
        for spec in builtin().find(name):
            assert spec.name == name
            assert (spec.format is Format.NONE) == (spec.source == "")


def test_demo_models_and_echo_are_what_their_names_say():
    chat = builtin().find("Demo-Chat")
    assert [spec.format for spec in chat] == [Format.SAFETENSORS, Format.GGUF]
    assert chat[0].kind is Kind.LLM
    assert "tools" in chat[0].abilities
    assert builtin().find("demo-embed")[0].kind is Kind.EMBEDDING
    assert builtin().find("demo-rerank")[0].kind is Kind.RERANK
    assert builtin().find("echo")[0].family == "echo"
    assert builtin().find("nobody") == ()


def test_a_broken_family_names_its_file_and_field():
    with pytest.raises(ValueError, match=r"bad\.toml: Object contains unknown field `colour`"):
        read_family(b'[[models]]\nname="x"\nkind="LLM"\nvariants=[]\ncolour="red"', "bad.toml")
    with pytest.raises(ValueError, match=r"bad\.toml"):
        read_family(b"[[models", "bad.toml")


def test_a_name_is_used_once():
    family = read_family(b'[[models]]\nname="x"\nkind="LLM"\n[[models.variants]]\nformat="none"', "f")
    alias = read_family(b'[[models]]\nname="y"\naliases=["X"]\nkind="LLM"\n[[models.variants]]\nformat="none"', "g")
    with pytest.raises(ValueError, match="used twice"):
        Catalog({"f": family, "g": alias})


# Sources.


def test_built_in_sources_stay_inside_the_package():
    with pytest.raises(InvalidRequest, match="no built-in model"):
        resolve_source("builtin:../families")
    with pytest.raises(InvalidRequest, match="not in this installation"):
        resolve_source("builtin:no-such-model")


def test_a_path_that_is_not_there_is_refused(tmp_path):
    assert resolve_source(str(tmp_path)) == tmp_path
    with pytest.raises(InvalidRequest, match="must exist on every worker"):
        resolve_source(str(tmp_path / "nothing"))


def test_engines_get_a_spec_with_a_path(tmp_path):
    file = tmp_path / "a.gguf"
    file.write_bytes(smallest_gguf())
    spec = introspect(str(file))
    assert located(spec).source == str(file)
    echo = builtin().find("echo")[0]
    assert located(echo) is echo
    file.unlink()
    with pytest.raises(InvalidRequest):
        located(spec)


# Folders.


def test_a_language_model(folder):
    spec = introspect(str(folder(LLM)))
    assert (spec.name, spec.kind, spec.family, spec.format) == ("model", Kind.LLM, "qwen3", Format.SAFETENSORS)
    assert (spec.context_length, spec.size_in_billions, spec.weights_mib) == (4096, 0.0025, 1)
    assert (spec.abilities, spec.dimensions) == (("generate",), None)


def test_abilities_come_from_the_chat_template(folder):
    path = folder(LLM, tokenizer_config={"chat_template": "{% if tools %}{{ tools }}{% endif %}"})
    assert introspect(str(path)).abilities == ("generate", "chat", "tools")
    (path / "chat_template.jinja").write_text("{{ messages }}{% if enable_thinking %}<think>{% endif %}")
    assert introspect(str(path)).abilities == ("generate", "chat", "reasoning")


def test_several_named_templates_count_together(folder):
    templates = [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": "{{ tools }}"}]
    assert "tools" in introspect(str(folder(LLM, tokenizer_config={"chat_template": templates}))).abilities


def test_a_quantized_multimodal_model_reads_its_text_part(folder):
    config = {
        "architectures": ["XForConditionalGeneration"],
        "text_config": {"max_position_embeddings": 77},
        "quantization_config": {"quant_method": "gptq", "bits": 4},
    }
    spec = introspect(str(folder(config)))
    assert (spec.kind, spec.context_length, spec.quantization) == (Kind.LLM, 77, "gptq-int4")


def test_an_embedding_model_with_modules(folder):
    config = {
        "architectures": ["BertModel"],
        "max_position_embeddings": 512,
        "hidden_size": 384,
        "matryoshka_dimensions": [64, 128],
    }
    modules = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        {"type": "sentence_transformers.models.Dense", "path": "2_Dense"},
        {"type": "sentence_transformers.models.Normalize", "path": "3_Normalize"},
    ]
    path = folder(config, modules=modules, sentence_bert_config={"max_seq_length": 256})
    for name, content in {"1_Pooling": {"word_embedding_dimension": 384}, "2_Dense": {"out_features": 128}}.items():
        (path / name).mkdir()
        (path / name / "config.json").write_text(json.dumps(content))
    spec = introspect(str(path), name="mine")
    assert (spec.name, spec.kind, spec.abilities) == ("mine", Kind.EMBEDDING, ("embed",))
    assert (spec.context_length, spec.dimensions, spec.matryoshka_dims) == (256, 128, (64, 128))


def test_an_embedding_model_without_modules(folder):
    spec = introspect(str(folder({"architectures": ["BertModel"], "hidden_size": 384})))
    assert (spec.kind, spec.dimensions) == (Kind.EMBEDDING, 384)


def test_a_cross_encoder(folder):
    config = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "max_position_embeddings": 514,
    }
    modules = [{"type": "sentence_transformers.base.modules.transformer.Transformer", "path": ""}]
    spec = introspect(str(folder(config, modules=modules, tokenizer_config={"model_max_length": 512})))
    assert (spec.kind, spec.context_length, spec.abilities) == (Kind.RERANK, 512, ("rerank",))


def test_a_gguf_file_alone_or_in_a_folder(tmp_path):
    file = tmp_path / "tiny-q4.gguf"
    file.write_bytes(smallest_gguf())
    assert introspect(str(file)).name == "tiny-q4"
    spec = introspect(str(tmp_path))
    assert (spec.format, spec.source) == (Format.GGUF, str(file))
    (tmp_path / "other.gguf").write_bytes(smallest_gguf())
    refused("2 GGUF files, name one of them", tmp_path)


def test_weights_that_are_there_twice_count_once(folder):
    path = folder(LLM)
    write_safetensors(path / "consolidated.safetensors", {"a": [1000, 2000]})
    assert introspect(str(path)).size_in_billions == 0.0025
    for part in ("model-00001-of-00002", "model-00002-of-00002"):
        write_safetensors(path / f"{part}.safetensors", {"a": [3_000_000]})
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert introspect(str(path)).size_in_billions == 0.006
    (path / "model-00002-of-00002.safetensors").unlink()
    refused("names model-00002-of-00002.safetensors, which is missing; download it again", path)
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')
    refused("is missing", path)
    (path / "model.safetensors.index.json").write_text("[]")
    refused("is no index of weights", path)


def test_the_shape_of_a_model_comes_from_its_config_and_its_weights(folder):
    config = {**LLM, "num_hidden_layers": 2, "num_attention_heads": 4, "torch_dtype": "bfloat16", "vocab_size": 9}
    shape = introspect(str(folder(config))).shape
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (2, 8, 4, 4, 2)
    assert (shape.dtype, shape.vocabulary, shape.parameters) == ("bfloat16", 9, 2_500_000)


def test_the_shape_of_a_model_of_the_catalog():
    plain, gguf = builtin().find("demo-chat")
    found = [shape_of(spec) for spec in (plain, gguf)]
    assert [(shape.layers, shape.kv_heads, shape.head_dim, shape.vocabulary) for shape in found] == [
        (3, 2, 128, 1024)
    ] * 2
    assert found[0].weight_bytes == {"BF16": 2 * found[0].parameters}
    assert found[1].weight_bytes.keys() == {"Q8_0", "F32"}
    assert found[0].parameters == found[1].parameters
    assert shape_of(builtin().find("echo")[0]) is None


def test_a_shape_that_nobody_can_read_here_is_none(tmp_path):
    spec = introspect(str(DEMO_FOLDER / "demo-embed"))
    for source in ("/nowhere", str(tmp_path)):
        assert shape_of(msgspec.structs.replace(spec, source=source)) is None


# Folders that cannot be served.


def test_reasons_a_user_can_act_on(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(r"no config\.json and no GGUF file", tmp_path / "empty")
    (tmp_path / "text.gguf").write_text("hello")
    refused("neither a model folder nor a GGUF file", tmp_path / "text.gguf")
    refused("cannot be told whether", folder({"architectures": ["WhisperThing"]}))
    refused("classifier of 3 classes", folder({"architectures": ["BertForSequenceClassification"], "num_labels": 3}))
    refused("is no JSON object", folder([1, 2]))


def test_weights_that_are_missing_pickled_or_cut_off(folder):
    path = folder(LLM, weights=False)
    refused(r"no \*\.safetensors files", path)
    (path / "pytorch_model.bin").write_bytes(b"")
    refused("is cut off or no file of PyTorch's", path)
    for content in (b"", b"x" * 4, struct.pack("<Q", 50) + b"{}", struct.pack("<Q", 1 << 60)):
        (path / "model.safetensors").write_bytes(content)
        refused("safetensors file", path)
    write_safetensors(path / "model.safetensors", {"a": [1]}, missing_bytes=4)
    refused("is cut off: .*download it again", path)
