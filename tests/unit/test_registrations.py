"""Registered models: what a document means, what is refused, what is hidden, and that it survives restarts."""

import asyncio
import tomllib

import msgspec
import pytest
from fakes.gguf_file import smallest_gguf

from xinfer.catalog import builtin
from xinfer.catalog.registered import RegisteredModels, completed, read_registration
from xinfer.catalog.roots import Roots
from xinfer.errors import Conflict, InvalidRequest, PathNotAllowed, StoreFailed, UnknownModel
from xinfer.ops import Kind
from xinfer.spec import Format
from xinfer.supervisor.registrations import Registrations, checked_registration
from xinfer.supervisor.store import Store

MINE = {
    "name": "mine",
    "kind": "LLM",
    "aliases": ["my-own"],
    "variants": [{"format": "safetensors", "source": "/data/mine"}],
}
XINFERENCE = {
    "version": 2,
    "model_name": "custom-qwen",
    "context_length": 32768,
    "model_lang": ["en", "zh"],
    "model_ability": ["generate", "chat", "tools"],
    "model_description": "Ours",
    "model_family": "qwen3",
    "chat_template": "{{ messages }}",
    "stop": ["<|im_end|>"],
    "stop_token_ids": [1],
    "model_specs": [
        {
            "model_format": "pytorch",
            "model_size_in_billions": "0_6",
            "quantization": "none",
            "model_id": None,
            "model_uri": "file:///data/custom",
        },
        {
            "model_format": "ggufv2",
            "model_size_in_billions": 7,
            "quantizations": ["Q4_K_M", "Q8_0"],
            "model_id": "me/custom-GGUF",
            "model_hub": "modelscope",
            "model_file_name_template": "custom-{quantization}.gguf",
        },
        {
            "model_format": "gptq",
            "model_size_in_billions": 7,
            "model_src": {
                "huggingface": {"model_id": "me/custom-{quantization}", "quantizations": ["Int4", "Int8"]},
            },
        },
    ],
}


def with_variant(**fields):
    return MINE | {"variants": [{"format": "safetensors", "source": "/data/mine"} | fields]}


def test_an_entry_of_a_family_is_a_registration():
    found = read_registration(MINE)
    assert (found.model.name, found.model.kind, found.version) == ("mine", Kind.LLM, 1)
    (spec,) = found.entry.specs
    assert (spec.source, spec.format, spec.family) == ("/data/mine", Format.SAFETENSORS, "registered")


def test_a_family_file_with_one_model_and_its_shapes_is_one_too():
    text = """
        [[models]]
        name = "sized"
        kind = "LLM"
        sizes = [{billions = 1.5}]
        [[models.variants]]
        format = "safetensors"
        huggingface = "me/sized-{size}"
        [shapes."1.5B"]
        layers = 2
        hidden = 64
        intermediate = 128
        heads = 2
        kv_heads = 2
        head_dim = 32
        vocabulary = 1000
        parameters = 200_000
    """
    (spec,) = read_registration(tomllib.loads(text)).entry.specs
    assert spec.source == "hf:me/sized-1.5B"
    assert spec.shape.layers == 2


def test_a_custom_model_of_xinference_means_the_same():
    found = read_registration(XINFERENCE)
    assert (found.model.name, found.model.kind, found.family) == ("custom-qwen", Kind.LLM, "qwen3")
    assert found.model.abilities == ("generate", "chat", "tools")
    assert [
        (spec.format.value, spec.quantization, spec.size_in_billions, spec.source) for spec in found.entry.specs
    ] == [
        ("safetensors", "none", 0.6, "/data/custom"),
        ("gguf", "Q4_K_M", 7.0, "ms:me/custom-GGUF#custom-Q4_K_M.gguf"),
        ("gguf", "Q8_0", 7.0, "ms:me/custom-GGUF#custom-Q8_0.gguf"),
        ("safetensors", "gptq-int4", 7.0, "hf:me/custom-Int4"),
        ("safetensors", "gptq-int8", 7.0, "hf:me/custom-Int8"),
    ]
    assert all(spec.context_length == 32768 for spec in found.entry.specs)
    assert found.notes == tuple(
        f"{field} is taken from the model's own files, or set at the launch"
        for field in ("chat_template", "stop", "stop_token_ids")
    )


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"dimensions": 768, "max_tokens": 512, "language": ["en"]}, Kind.EMBEDDING),
        ({"type": "normal", "language": ["en"]}, Kind.RERANK),
        ({"context_length": 512}, Kind.LLM),
        ({"model_ability": ["chat", "vision"], "context_length": 512}, Kind.VISION_LANGUAGE),
    ],
)
def test_its_fields_tell_what_a_custom_model_is(document, kind):
    found = read_registration({"model_name": "m", "model_uri": "/data/m"} | document)
    assert found.model.kind is kind
    assert found.entry.specs[0].source == "/data/m"


def test_the_file_of_a_local_gguf_is_named_by_its_template():
    spec = {
        "model_format": "ggufv2",
        "quantization": "Q8_0",
        "model_uri": "/data",
        "model_file_name_template": "m-{quantization}.gguf",
    }
    found = read_registration({"model_name": "m", "context_length": 1, "model_specs": [spec]})
    assert found.entry.specs[0].source == "/data/m-Q8_0.gguf"


@pytest.mark.parametrize(
    ("document", "param", "match"),
    [
        ({}, None, "missing required field `name`"),
        (MINE | {"kind": "poem"}, "kind", "Invalid enum value 'poem'"),
        (MINE | {"colour": "red"}, None, "unknown field `colour`"),
        (MINE | {"variants": 3}, "variants", "Expected `array`"),
        (MINE | {"variants": []}, "variants", "has no variants"),
        (with_variant(format="zip"), "variants[0].format", "Invalid enum value 'zip'"),
        (with_variant(size_in_billions="7b"), "variants[0].size_in_billions", "Expected `float | null`"),
        (with_variant(source=""), "variants[0].source", "does not say where its weights are"),
        (with_variant(sizes=["7B"]), "variants", "has no size 7B"),
        (MINE | {"sizes": [{"billions": 7}]}, "variants", "there is no shape 7B"),
        ({"models": []}, "models", "'models' has 0"),
        (XINFERENCE | {"colour": 1}, "colour", "there is no such field"),
        (XINFERENCE | {"model_ability": "chat"}, "model_ability", "a list of words"),
        (XINFERENCE | {"model_specs": "x"}, "model_specs", "a list of objects"),
        (XINFERENCE | {"model_specs": [{"model_uri": "s3://bucket"}]}, "model_specs[0].model_uri", "s3:// is not read"),
        (XINFERENCE | {"model_specs": [{}]}, "model_specs[0].model_uri", "does not say where"),
        (XINFERENCE | {"model_specs": [{"colour": 1}]}, "model_specs[0].colour", "no such field"),
        (
            XINFERENCE | {"model_specs": [{"model_id": "a/b", "model_hub": "csghub"}]},
            "model_specs[0].model_hub",
            "csghub",
        ),
        (XINFERENCE | {"model_name": 3}, "model_name", "a text, not 3"),
    ],
)
def test_what_is_wrong_names_its_field(document, param, match):
    with pytest.raises(InvalidRequest, match=match) as refused:
        read_registration(document)
    assert refused.value.param == param


def test_a_registered_name_hides_a_built_in_one_by_all_of_its_names():
    registration = read_registration(MINE | {"name": "qwen3", "aliases": []})
    models = RegisteredModels(builtin()).with_one(registration)
    assert models.overrides("qwen3")
    assert [spec.source for spec in models.find("Qwen3")] == ["/data/mine"]
    for alias in builtin().entry("qwen3").model.aliases:
        assert models.find(alias) == models.find("qwen3")
    assert models.find("bge-m3") == builtin().find("bge-m3")
    assert models.names() == builtin().names()
    assert len(models.without("qwen3").find("qwen3")) > 1


def test_names_and_aliases_lead_to_a_registered_model():
    models = RegisteredModels(builtin()).with_one(read_registration(MINE))
    assert models.find("MY_own") == models.find("mine") != ()
    assert "mine" in models.names()
    assert models.similar("my-o") == ["mine"]
    with pytest.raises(Conflict, match="used twice"):
        models.with_one(read_registration(MINE | {"name": "other"}))


def test_files_say_what_a_registration_does_not(tmp_path):
    (tmp_path / "m.gguf").write_bytes(smallest_gguf())
    document = with_variant(format="gguf", source=str(tmp_path / "m.gguf")) | {"context_length": 77}
    (spec,) = read_registration(document).entry.specs
    found = completed(spec)
    assert found.name == "mine"
    assert found.context_length == 77, "what was said stays"
    assert found.shape is not None
    (tmp_path / "m.gguf").unlink()
    assert completed(spec) == spec


def test_paths_must_lie_under_a_root(tmp_path):
    roots = Roots([tmp_path])
    with pytest.raises(PathNotAllowed) as refused:
        checked_registration(with_variant(source="/etc"), (Kind.LLM,), roots)
    assert refused.value.param == "variants[0].source"
    good = checked_registration(with_variant(source=str(tmp_path / "m")), (Kind.LLM,), roots)
    assert good.model.variants[0].source == str(tmp_path / "m")
    hub = with_variant(source="hf:me/mine")
    assert checked_registration(hub, (Kind.LLM,), roots).model.variants[0].source == "hf:me/mine"


def test_type_and_name_are_checked(tmp_path):
    roots = Roots([tmp_path])
    with pytest.raises(InvalidRequest, match="is a model of the type LLM, not rerank") as refused:
        checked_registration(MINE, (Kind.RERANK,), roots)
    assert refused.value.param == "model_type"
    with pytest.raises(InvalidRequest, match="no model_uid") as refused:
        checked_registration(MINE | {"name": "a/../b"}, (Kind.LLM,), roots)
    assert refused.value.param == "name"


def test_registrations_survive_a_restart(tmp_path):
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"

    async def first():
        store = Store(url)
        known = Registrations(builtin(), store, (await store.open()).registrations, lambda: 5.0)
        await known.register(read_registration(MINE), update=False)
        await known.register(read_registration(XINFERENCE), update=False)
        again = await known.register(read_registration(MINE | {"description": "new"}), update=True)
        assert (again.version, again.registered_at) == (2, 5.0)
        await known.unregister("custom-qwen")
        await store.close()

    async def second():
        store = Store(url)
        known = Registrations(builtin(), store, (await store.open()).registrations)
        await store.close()
        return known

    asyncio.run(first())
    known = asyncio.run(second())
    assert list(known.models.registrations) == ["mine"]
    found = known.registered("my-own")
    assert (found.version, found.model.description, found.registered_at) == (2, "new", 5.0)
    assert known.find("mine")[0].source == "/data/mine"
    assert known.find("custom-qwen") == ()


class Forgetful:
    """A store that cannot be written."""

    async def put_registration(self, registration):
        raise StoreFailed("the disk is full")

    async def remove_registration(self, name):
        raise StoreFailed("the disk is full")


def test_what_cannot_be_stored_is_not_known():
    known = Registrations(builtin(), Forgetful())

    async def scenario():
        with pytest.raises(StoreFailed):
            await known.register(read_registration(MINE), update=False)

    asyncio.run(scenario())
    assert known.find("mine") == ()
    known = Registrations(builtin(), Forgetful(), [read_registration(MINE)])

    async def again():
        with pytest.raises(StoreFailed):
            await known.unregister("mine")

    asyncio.run(again())
    assert known.find("mine") != ()


def test_what_is_refused_says_what_there_is(tmp_path):
    known = Registrations(builtin(), Forgetful(), [read_registration(MINE)])

    async def scenario():
        with pytest.raises(Conflict, match=r"'mine' is registered already .version 1.; update it"):
            await known.register(read_registration(MINE), update=False)
        with pytest.raises(UnknownModel, match="no model 'custom-qwen' is registered; there are: mine"):
            await known.register(read_registration(XINFERENCE), update=True)
        with pytest.raises(UnknownModel, match="it is in the built-in catalog, which is not changed"):
            await known.unregister("qwen3")

    asyncio.run(scenario())


def test_a_stored_one_that_clashes_or_cannot_be_read_is_left_out(tmp_path, caplog):
    twin = read_registration(MINE | {"name": "other"})
    known = Registrations(builtin(), Forgetful(), [read_registration(MINE), twin])
    assert list(known.models.registrations) == ["mine"]
    assert "other is not known" in caplog.text
    assert msgspec.json.decode(msgspec.json.encode(twin), type=type(twin)) == twin
