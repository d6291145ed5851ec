"""GGUF headers: whole ones by the reference writer, cut-off and foreign ones by hand, and what is made of them."""

import contextlib
import struct

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xinfer.catalog import introspect
from xinfer.catalog.gguf import MAX_KEPT_ITEMS, TENSOR_TYPES, read_gguf
from xinfer.catalog.introspect import GGUF_FILE_TYPES
from xinfer.catalog.shape import shape_of_gguf
from xinfer.catalog.sources import DEMO_FOLDER
from xinfer.errors import InvalidRequest
from xinfer.ops import Kind

DEMO = DEMO_FOLDER / "demo-chat" / "demo-chat.gguf"


@pytest.fixture
def write(tmp_path):
    """Makes a GGUF file of keys of an architecture, further keys, and tensors."""

    def make(architecture="llama", own=(), extra=(), tensors=None, name="model.gguf"):
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, architecture)
        for key, value in [
            *((f"{architecture}.{key}", value) for key, value in dict(own).items()),
            *dict(extra).items(),
        ]:
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            elif isinstance(value, list):
                writer.add_array(key, value)
            else:
                writer.add_uint32(key, value)
        for tensor, content in (tensors or {"token_embd.weight": np.zeros((4, 32), np.float16)}).items():
            writer.add_tensor(tensor, content)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


LLAMA = {
    "block_count": 32,
    "embedding_length": 4096,
    "feed_forward_length": 14336,
    "context_length": 8192,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
}


def refused(match, path, read=read_gguf):
    with pytest.raises(InvalidRequest, match=match) as caught:
        read(path)
    assert caught.value.param == "model_path"


# Whole files.


def test_the_header_is_what_the_reference_reader_says():
    ours, reference = read_gguf(DEMO), gguf.GGUFReader(DEMO)
    assert [(t.name, t.type, t.size, t.parameters) for t in ours.tensors] == [
        (t.name, t.tensor_type.name, t.n_bytes, t.n_elements) for t in reference.tensors
    ]
    for key, field in reference.fields.items():
        if not key.startswith("GGUF."):
            value, found = field.contents(), ours.metadata[key]
            if not isinstance(value, list):
                assert found == value
            else:
                assert found in (len(value), tuple(value))


def test_the_table_of_types_is_that_of_the_reference():
    for number, (name, per_block, block_bytes) in TENSOR_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (per_block, block_bytes))
    for number, name in GGUF_FILE_TYPES.items():
        assert gguf.LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_").removesuffix("_MOE") == name


def test_of_long_arrays_only_the_length_is_kept(write):
    words = [f"word {number}" for number in range(MAX_KEPT_ITEMS + 1)]
    scores = [float(number) for number in range(MAX_KEPT_ITEMS + 1)]
    file = read_gguf(
        write(extra={"tokenizer.ggml.tokens": words, "tokenizer.ggml.scores": scores, "a": [[1, 2], [3]], "b": [1, 2]})
    )
    found = file.metadata
    assert found["tokenizer.ggml.tokens"] == found["tokenizer.ggml.scores"] == MAX_KEPT_ITEMS + 1
    assert (found["a"], found["b"]) == (2, (1, 2))


def test_the_shape_of_a_llama(write):
    shape = shape_of_gguf(read_gguf(write(own=LLAMA, extra={"tokenizer.ggml.tokens": ["a", "b", "c"]})))
    assert (shape.layers, shape.attention_layers, shape.sliding_layers) == (32, 32, 0)
    assert (shape.heads, shape.kv_heads, shape.head_dim, shape.value_dim) == (32, 8, 128, 128)
    assert (shape.hidden, shape.intermediate, shape.vocabulary, shape.parameters) == (4096, 14336, 3, 128)
    assert shape.weight_bytes == {"F16": 256}


@pytest.mark.parametrize(
    ("architecture", "more", "full", "sliding"),
    [
        ("gemma3", {"attention.sliding_window": 1024, "block_count": 34}, 5, 29),
        ("gemma2", {"attention.sliding_window": 4096, "block_count": 26}, 13, 13),
        ("phi3", {"attention.sliding_window": 2047}, 32, 0),
        ("new", {"attention.sliding_window": 128, "attention.sliding_window_pattern": 4}, 8, 24),
        (
            "new",
            {"attention.sliding_window": 128, "attention.sliding_window_pattern": [True] * 20 + [False] * 12},
            12,
            20,
        ),
        ("jamba", {"attention.head_count_kv": [0, 0, 0, 8] * 8}, 8, 0),
        ("qwen3next", {"full_attention_interval": 4}, 8, 0),
        ("mamba", {"attention.head_count_kv": 0, "ssm.state_size": 16}, 0, 0),
    ],
)
def test_layers_that_slide_and_layers_without_keys_and_values(write, architecture, more, full, sliding):
    shape = shape_of_gguf(read_gguf(write(architecture, {**LLAMA, **more})))
    assert (shape.attention_layers, shape.sliding_layers) == (full, sliding)


def test_latent_attention(write):
    own = {
        "block_count": 61,
        "embedding_length": 7168,
        "attention.head_count": 128,
        "attention.head_count_kv": 1,
        "attention.key_length": 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
        "attention.kv_lora_rank": 512,
        "rope.dimension_count": 64,
        "expert_used_count": 8,
        "expert_feed_forward_length": 2048,
    }
    shape = shape_of_gguf(read_gguf(write("deepseek2", own)))
    assert (shape.kv_lora_rank, shape.qk_rope_head_dim) == (512, 64)
    assert (shape.kv_heads, shape.head_dim, shape.value_dim, shape.intermediate) == (128, 192, 128, 16384)


# What it is a model of.


def test_a_language_model_with_a_template(write):
    extra = {"general.file_type": 15, "tokenizer.chat_template": "{% if tools %}{{ tools }}{% endif %}<think>"}
    spec = introspect(str(write(own=LLAMA, extra=extra, name="tiny-q4.gguf")))
    assert (spec.name, spec.kind, spec.family, spec.quantization) == ("tiny-q4", Kind.LLM, "llama", "Q4_K_M")
    assert (spec.context_length, spec.abilities) == (8192, ("generate", "chat", "tools", "reasoning"))
    assert spec.size_in_billions == 1.28e-07
    several = {"tokenizer.chat_template": "hi", "tokenizer.chat_template.tool_use": "{{ tools }}<tool_call>"}
    assert introspect(str(write(own=LLAMA, extra=several))).abilities == ("generate", "chat", "tools")
    assert spec.shape
    bare = introspect(str(write(own=LLAMA, name="bare.gguf")))
    assert (bare.abilities, bare.quantization) == (("generate",), "none")


def test_embedding_and_rerank_models_are_known_by_their_pooling(write):
    own = {"embedding_length": 384, "block_count": 6, "attention.causal": False}
    spec = introspect(str(write("bert", {**own, "pooling_type": 2})))
    assert (spec.kind, spec.dimensions, spec.abilities) == (Kind.EMBEDDING, 384, ("embed",))
    assert introspect(str(write("bert", {**own, "pooling_type": 4}))).kind is Kind.RERANK
    assert introspect(str(write("bert", own))).kind is Kind.EMBEDDING
    assert introspect(str(write("qwen3", {**own, "attention.causal": True}))).kind is Kind.LLM


def test_a_part_of_a_model_is_refused(write):
    refused(
        "of the type 'mmproj', which is no model by itself",
        write("clip", extra={"general.type": "mmproj"}),
        introspect_path,
    )


def test_a_model_with_a_file_that_reads_images_beside_it(write, tmp_path):
    model = write(own=LLAMA, extra={"tokenizer.chat_template": "hi"})
    alone = introspect(str(model))
    images = {"v.patch_embd.weight": np.zeros((2, 32), np.float32)}
    write("clip", extra={"general.type": "mmproj"}, tensors=images, name="mmproj-model-f32.gguf")
    for source in (model, tmp_path):
        spec = introspect(str(source))
        assert (spec.kind, spec.source) == (Kind.VISION_LANGUAGE, str(model))
        assert spec.abilities == ("generate", "chat", "vision")
        assert (spec.shape.weight_bytes, alone.shape.weight_bytes) == ({"F16": 256, "F32": 256}, {"F16": 256})
    embedder = write("bert", {**LLAMA, "pooling_type": 2}, name="embedder.gguf")
    assert introspect(str(embedder)).kind is Kind.EMBEDDING


def introspect_path(path):
    return introspect(str(path))


def test_a_model_in_several_parts_is_one_model(write, tmp_path):
    first = write(own=LLAMA, name="big-00001-of-00002.gguf")
    refused("big-00002-of-00002.gguf is missing", first)
    second = write(own={}, name="big-00002-of-00002.gguf", tensors={"b": np.zeros((2, 32), np.float32)})
    for part in (first, second):
        file = read_gguf(part)
        assert (file.files, len(file.tensors)) == ((first, second), 2)
        assert file.number("block_count") == 32
    spec = introspect(str(tmp_path))
    assert [spec.source, introspect(str(first)).source, introspect(str(second)).source] == [str(first)] * 3
    assert spec.shape
    assert spec.shape.weight_bytes == {"F16": 256, "F32": 256}


# Files that are not what they should be.


def header(*, version=3, tensors=0, pairs=b"", count=0):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + pairs


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "neither a model folder nor a GGUF file"),
        (b"GGU", "neither a model folder nor a GGUF file"),
        (b"hello, world", "neither a model folder nor a GGUF file"),
        (b"GGUF", "is cut off: 4 of at least 8 bytes; download it again"),
        (header(version=1), "is of GGUF version 1, and versions 2 and 3 can be read"),
        (b"GGUF" + struct.pack(">I", 3), "version 50331648 in the other byte order"),
        (header(count=2**60), "is cut off"),
        (header(tensors=2**60), "is cut off"),
        (header(count=1, pairs=text("k") + struct.pack("<IQ", 8, 2**40)), "is cut off"),
        (header(count=1, pairs=text("k") + struct.pack("<IIQ", 9, 4, 2**61)), "is cut off"),
        (header(count=1, pairs=text("k") + struct.pack("<I", 77) + bytes(8)), "has a value of the unknown type 77"),
        (
            header(count=1, pairs=text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9 + bytes(99)),
            "nested more than 4 deep",
        ),
        (
            header(count=1, pairs=text("general.alignment") + struct.pack("<II", 4, 0)),
            "aligned to 0 bytes",
        ),
        (header(tensors=1) + text("t") + struct.pack("<I", 9) + bytes(99), "has a tensor of 9 dimensions"),
        (header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 2**50, 0, 0), "is cut off"),
    ],
)
def test_what_is_no_gguf_file_says_so(tmp_path, content, match):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    refused(match, path)


def test_a_tensor_type_that_is_newer_than_us_counts_up_to_the_next_tensor(tmp_path):
    entries = text("new") + struct.pack("<IQIQ", 1, 7, 99, 0) + text("old") + struct.pack("<IQIQ", 1, 8, 0, 64)
    start = header(tensors=2) + entries
    path = tmp_path / "x.gguf"
    path.write_bytes(start + bytes(-len(start) % 32) + bytes(96))
    assert [(t.type, t.size) for t in read_gguf(path).tensors] == [("type 99", 64), ("F32", 32)]


def test_a_file_that_cannot_be_opened(tmp_path):
    refused("cannot be read: Is a directory", tmp_path)


def test_a_file_that_is_cut_off_anywhere_says_so(tmp_path):
    whole = DEMO.read_bytes()
    path = tmp_path / "cut.gguf"
    for length in {*range(4, 400, 7), 1000, 20_000, 34_400, 34_496, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(r"is cut off: \d+ of at least \d+ bytes; download it again", path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(4, 36_000), value=st.binary(min_size=1, max_size=8))
def test_damaged_headers_are_read_or_refused_and_nothing_else(tmp_path, at, value):
    content = bytearray(DEMO.read_bytes()[:36_500])
    content[at : at + len(value)] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    with contextlib.suppress(InvalidRequest):  # any other error fails the test
        shape_of_gguf(read_gguf(path))
