"""What a launch says about a model: overrides, and Python code from its folder."""

import pytest

pytest.importorskip("transformers", reason="the engines' libraries make the toy models")

from fakes.models import LOOKALIKES, write_decoder, write_with_code

from xinfer import plugins
from xinfer.catalog import builtin, introspect
from xinfer.catalog.overrides import overridden, read_overrides, with_context
from xinfer.catalog.remote_code import asks_for_it
from xinfer.devices import Device
from xinfer.engines.base import RunsRemoteCode
from xinfer.engines.sglang.arguments import suggestions as for_sglang
from xinfer.engines.vllm.arguments import suggestions as for_vllm
from xinfer.errors import InvalidRequest
from xinfer.protocol import EngineOffer, LaunchRequest, WorkerHello
from xinfer.supervisor.registry import Registry

WORKER = WorkerHello(
    worker_id="w",
    incarnation="1",
    name="w",
    address="host:1",
    host_id="w",
    version="0",
    devices=(Device(device_id="cpu0", kind="cpu", memory_mib=8000, cores=4),),
    engines={name: EngineOffer(True) for name in ("transformers", "sentence_transformers", "vllm")},
)
ADVICE = "XINFER_TRUST_REMOTE_CODE=1"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("toy") / "toy", "qwen2")


def resolve(folder, *, allowed=False, **fields):
    registry = Registry(builtin(), plugins.engines(), remote_code=allowed)
    request = LaunchRequest(model_name="toy", model_path=str(folder), **fields)
    return registry.resolve(request, [WORKER], 0.0)


def refused(match, param, folder, **fields):
    with pytest.raises(InvalidRequest, match=match) as caught:
        resolve(folder, **fields)
    assert caught.value.param == param


# Overrides.


def test_every_field_that_can_be_overridden_is():
    words = {
        "family": "mine",
        "abilities": "chat, vision",
        "context_length": "8192",
        "dimensions": 3,
        "matryoshka_dims": [1, 2],
        "quantization": "fp8",
        "size_in_billions": "0.5",
    }
    (spec,) = overridden(builtin().find("echo")[:1], words)
    assert (spec.family, spec.abilities, spec.context_length, spec.dimensions) == ("mine", ("chat", "vision"), 8192, 3)
    assert (spec.matryoshka_dims, spec.quantization, spec.size_in_billions) == ((1, 2), "fp8", 0.5)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"colour": "red"}, "'colour' of a model cannot be overridden; these can: family, abilities"),
        ({"kind": "LLM"}, "with model_type"),
        ({"context_length": "long"}, "an override is not valid: .*context_length"),
        ({"context_length": 0}, "context_length"),
        ({"abilities": "fly"}, "there is no ability 'fly'; there are: audio, chat"),
    ],
)
def test_an_override_that_cannot_be_meant(words, reason):
    with pytest.raises(InvalidRequest, match=reason):
        read_overrides(words)


def test_the_context_length_reaches_the_engine_in_its_own_word(toy):
    found = resolve(toy, model_engine="transformers", overrides={"context_length": 64, "abilities": ["generate"]})
    assert (found.spec.context_length, found.spec.abilities) == (64, ("generate",))
    assert found.options == {"max_model_len": 64}
    said = resolve(toy, overrides={"context_length": 64}, options={"context_length": 32})
    assert said.options == {"context_length": 32}
    assert with_context({}, {}, ()) == {}
    with pytest.raises(InvalidRequest, match="no other context length"):
        with_context({}, {"context_length": 64}, ())


def test_a_model_type_turns_a_language_model_into_an_embedding_model(toy):
    assert resolve(toy, model_type="embedding").engine == "sentence_transformers"


def test_a_model_that_sees_is_served_as_one_that_writes(tmp_path):
    spec = introspect(str(LOOKALIKES["vision-language"](tmp_path / "seeing")))
    assert spec.ops == introspect(str(write_decoder(tmp_path / "writing", "base"))).ops
    for suggestions in (for_vllm, for_sglang):
        assert not {"runner", "is_embedding"} & set(suggestions(spec, "", {}, 1))


# Python code of models.


def test_code_of_a_model_needs_the_launch_and_the_setting(tmp_path):
    folder = write_with_code(tmp_path / "invented")
    needs = f"does not know the architecture of 'toy' .*--trust-remote-code true .*{ADVICE}"
    refused(needs, "trust_remote_code", folder, model_engine="transformers")
    refused(needs, "trust_remote_code", folder, model_engine="transformers", allowed=True)
    trusting = {"trust_remote_code": "true"}
    refused(ADVICE, "trust_remote_code", folder, model_engine="transformers", options=trusting)
    found = resolve(folder, model_engine="transformers", options=trusting, allowed=True)
    assert found.options == trusting


def test_the_setting_holds_for_engines_that_check_their_options_later(toy):
    for word in ("trust_remote_code", "trust-remote-code", "--trust-remote-code", "trust_remote"):
        refused(ADVICE, "trust_remote_code", toy, model_engine="vllm", options={word: True})


@pytest.mark.parametrize(
    ("options", "asks"),
    [
        ({}, False),
        ({"trust_remote_code": False}, False),
        ({"trust_remote_code": "false"}, False),
        ({"trust_remote_code": True}, True),
        ({"TRUST-REMOTE-CODE": "1"}, True),
        ({"tr": "yes"}, True),
        ({"speculative_trust_remote_code": True}, True),
        ({"truncate": True, "t": True}, False),
    ],
)
def test_in_which_words_it_is_asked_for(options, asks):
    assert asks_for_it(options) is asks


def test_a_library_that_knows_the_architecture_needs_no_code(toy, tmp_path):
    invented = introspect(str(write_with_code(tmp_path / "invented")))
    known = introspect(str(toy))
    for name in ("transformers", "sentence_transformers"):
        engine = plugins.engines()[name]
        assert issubclass(engine, RunsRemoteCode)
        assert engine.needs_remote_code(invented)
        assert not engine.needs_remote_code(known)
