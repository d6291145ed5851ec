"""The words of a launch about its Python."""

import pytest

from xinfer.errors import InvalidRequest
from xinfer.protocol import EngineOffer, LaunchRequest
from xinfer.spec import EnvironmentRequest
from xinfer.supervisor.environments import environment_request


def asked(**words: object) -> EnvironmentRequest:
    return environment_request(LaunchRequest(model_name="m", **words))  # type: ignore[arg-type]


def test_nothing_said_is_automatic_and_builds_nothing() -> None:
    assert asked() == EnvironmentRequest()


def test_a_named_engine_may_be_built() -> None:
    assert asked(model_engine="vllm") == EnvironmentRequest(build=True)


def test_the_words_of_xinference_mean_the_same() -> None:
    assert asked(enable_virtual_env=True) == asked(environment="own") == EnvironmentRequest(mode="own", build=True)
    assert asked(enable_virtual_env=False) == asked(environment="none") == EnvironmentRequest(mode="none")
    assert asked(virtual_env_packages=("b", "a ", "b")).packages == ("a", "b")


def test_a_virtual_environment_is_named_by_its_folder_or_its_python() -> None:
    assert (
        asked(environment="/opt/venv").python == asked(python="/opt/venv/bin/python").python == "/opt/venv/bin/python"
    )


@pytest.mark.parametrize(
    ("words", "param"),
    [
        ({"environment": "venv"}, "environment"),
        ({"python": "python3"}, "python"),
        ({"python": "/usr/bin/python3", "environment": "own"}, "python"),
        ({"python": "/usr/bin/python3", "virtual_env_packages": ("a",)}, "virtual_env_packages"),
        ({"environment": "none", "virtual_env_packages": ("a",)}, "virtual_env_packages"),
        ({"environment": "none", "enable_virtual_env": True}, "enable_virtual_env"),
        ({"virtual_env_packages": ("--pre",)}, "virtual_env_packages"),
    ],
)
def test_words_that_contradict_or_mean_nothing_are_refused(words: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(**words)
    assert refused.value.param == param


AUTO, BUILD = EnvironmentRequest(), EnvironmentRequest(build=True)
NONE, OWN = EnvironmentRequest(mode="none"), EnvironmentRequest(mode="own", build=True)
NAMED, PYTHON = EnvironmentRequest(packages=("a",), build=True), EnvironmentRequest(python="/x")


@pytest.mark.parametrize(
    ("offer", "served"),
    [
        (EngineOffer(True), [AUTO, BUILD, NONE, PYTHON]),
        (EngineOffer(True, installable=True), [AUTO, BUILD, NONE, OWN, NAMED, PYTHON]),
        (EngineOffer(True, environment="e-1", installable=True), [AUTO, BUILD, OWN, NAMED, PYTHON]),
        (EngineOffer(False, "not installed", installable=True), [BUILD, OWN, NAMED, PYTHON]),
        (EngineOffer(False, "not installed"), [PYTHON]),
    ],
)
def test_an_offer_serves_what_it_can(offer: EngineOffer, served: list[EnvironmentRequest]) -> None:
    assert [request for request in (AUTO, BUILD, NONE, OWN, NAMED, PYTHON) if offer.serves(request)] == served
