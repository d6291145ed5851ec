"""Engines with incompatible needs, each in an environment of its own, on one worker. Everything is built offline."""

import importlib.metadata
import json
import os
import signal
import venv
from pathlib import Path

import pytest
from e2e.conftest import command_of
from fakes.packages.toys import write_library, write_toys
from fakes.packages.wheels import repack

UNUSED = ("scipy", "uv")
"""Needed by name, not by a replica of the toys: their requirements leave them out."""


@pytest.fixture(scope="module")
def site(tmp_path_factory, open_site):
    """A running xinfer-local whose own Python knows the toys' engines but has not their library."""
    root = tmp_path_factory.mktemp("environments")
    wheels, installed = root / "wheels", root / "installed"
    write_toys(wheels, installed)
    os.mkfifo(root / "gate")
    write_library(wheels, "0.5", body=f"open({str(root / 'gate')!r}).read()\n")  # its check ends only when it is ended
    repack(wheels, importlib.metadata.requires("xinfer"), without=UNUSED)
    configuration = root / "pip.conf"
    configuration.write_text(f"[global]\nno-index = true\nfind-links =\n    {wheels}\n")
    with open_site(root, device_period_s=0.2) as site:
        for name in [name for name in site.env if name.startswith(("PIP_", "UV_"))]:
            del site.env[name]
        site.env |= {
            "PYTHONPATH": str(installed),
            "PIP_CONFIG_FILE": str(configuration),
            "UV_CACHE_DIR": str(root / "cache"),
        }
        site.local()
        yield site


def ask(site, model):
    body = {"model": model, "messages": [{"role": "user", "content": "Which library?"}]}
    return site.call("POST", "/v1/chat/completions", json=body).raise_for_status().json()


def offer(site, engine):
    return next(iter(site.get("/v1/engines")[engine].values()))


def test_incompatible_engines_serve_at_once_after_their_environments_were_built(site):
    assert offer(site, "toy_one")["installable"]
    assert not offer(site, "toy_one")["ok"]
    site.launch(model_engine="toy_one", model_uid="one", gpumem=64)
    site.launch(model_engine="toy_two", model_uid="two", gpumem=64)
    site.launch(model_uid="plain", gpumem=64)
    first, second = ask(site, "one"), ask(site, "two")
    assert (first["library"], second["library"]) == ("1.0", "2.0")
    assert (
        Path(first["prefix"]).parent.parent == Path(second["prefix"]).parent.parent == site.root / "home/environments"
    )
    assert first["prefix"] != second["prefix"]
    assert ask(site, "plain")["choices"][0]["message"]["content"] == "Which library?", "the worker's own Python"


def test_an_environment_in_use_is_not_removed(site):
    refused = site.run("engine", "remove", "toy_one")
    assert refused.returncode == 1
    assert "one-0 runs in it" in refused.stderr
    listed = json.loads(site.run("engine", "list", "--json").stdout)
    users = {row["engine"]: (row["state"], row["used_by"]) for row in listed["environments"]}
    assert users == {"toy_one": ("in use", ["one-0"]), "toy_two": ("in use", ["two-0"])}


def test_a_worker_notices_what_is_removed_and_installed(site, wait):
    wait(lambda: offer(site, "toy_two")["environment"], "it is offered")
    site.terminate("two")
    assert site.run("engine", "remove", "toy_two").returncode == 0
    wait(lambda: not offer(site, "toy_two")["ok"], "it is gone")
    refused = site.call(
        "POST", "/v1/models", json={"model_name": "echo", "model_engine": "toy_two", "environment": "none"}
    )
    assert refused.status_code == 400
    installed = site.run("engine", "install", "toy_two")
    assert installed.returncode == 0, installed.stderr
    assert "toy_two 2.0 is ready" in installed.stdout
    wait(lambda: offer(site, "toy_two")["version"] == "2.0", "it is back")


def test_packages_of_a_launch_make_an_environment_of_its_own(site):
    site.launch(model_engine="toy_one", model_uid="newer", virtual_env_packages=["toylib==2.0"], gpumem=64)
    answer = ask(site, "newer")
    assert answer["library"] == "2.0", "another version of what the engine requires"
    assert ask(site, "one")["library"] == "1.0"
    site.launch(model_engine="toy_one", model_uid="by-path", python=f"{answer['prefix']}/bin/python", gpumem=64)
    assert ask(site, "by-path")["prefix"] == answer["prefix"]


def test_a_launch_that_waits_for_its_environment_shows_it_and_can_be_cancelled(site, wait):
    words = {"virtual_env_packages": ["toylib==0.5"], "gpumem": 64, "replica": 2}
    site.launch(model_engine="toy_one", model_uid="slow", wait_ready=False, **words)

    def checking():
        progress = site.get("/v1/models/slow/progress")
        return "checking that toy_one works" in progress["stage"] and progress

    progress = wait(checking, "it is built as far as that")
    assert progress["stage"].startswith("building the environment of toy_one: ")
    assert [replica["state"] for replica in progress["replicas"]] == ["DOWNLOADING", "DOWNLOADING"]
    assert 0.5 < progress["progress"] < 1
    (build,) = [
        b for b in next(iter(site.get("/v1/engines/toy_one/install")["workers"].values())) if b["state"] == "building"
    ]
    site.call("POST", "/v1/models/slow/cancel").raise_for_status()
    wait(lambda: site.get("/v1/engines/toy_one/install")["done"], "nothing is built any more")
    wait(lambda: "slow" not in site.running_models(), "nothing of it is left")
    assert not (site.root / "home" / "environments" / build["environment"] / "venv").exists()


def test_an_environment_that_cannot_be_had_fails_the_launch_with_the_reason(site):
    body = {"model_name": "echo", "model_engine": "toy_one", "model_uid": "no", "virtual_env_packages": ["toylib==9"]}
    refused = site.call("POST", "/v1/models", json=body | {"gpumem": 64})
    assert refused.status_code == 500
    message = refused.json()["error"]["message"]
    assert "toylib==9" in message
    assert "build.log" in message


def test_a_python_that_cannot_run_it_fails_the_launch_with_the_reason(site):
    venv.create(site.root / "bare", with_pip=False)
    body = {"model_name": "echo", "model_engine": "toy_one", "model_uid": "bare", "gpumem": 64}
    refused = site.call("POST", "/v1/models", json=body | {"environment": str(site.root / "bare")})
    assert refused.status_code == 500
    message = refused.json()["error"]["message"]
    assert "/bare/bin/python cannot run toy_one: ModuleNotFoundError" in message
    assert "attempts" not in message, "it was never started as a replica"
    site.terminate("bare")


def test_an_operator_builds_on_every_worker(site, wait):
    begun = site.call("POST", "/v1/engines/toy_two/install", json={"packages": ["toylib==1.0"]})
    assert begun.status_code == 202
    wait(lambda: site.get("/v1/engines/toy_two/install")["done"], "it is built")
    site.call("POST", "/v1/engines/toy_one/install", json={}).raise_for_status()
    wait(lambda: site.get("/v1/engines/toy_one/install")["done"], "it is there, and in use")
    (builds,) = site.get("/v1/engines/toy_two/install")["workers"].values()
    assert (builds[-1]["state"], builds[-1]["progress"]) == ("ready", 1.0)
    assert site.call("POST", "/v1/engines/toy_two/install/cancel").status_code == 404
    unknown = site.call("POST", "/v1/engines/nobody/install", json={})
    assert unknown.status_code == 400
    assert "there is no engine 'nobody'" in unknown.json()["error"]["message"]


@pytest.mark.parametrize(
    ("words", "param"),
    [
        ({"environment": "here"}, "environment"),
        ({"python": "python3"}, "python"),
        ({"python": "/usr/bin/python3\0"}, "python"),
        ({"environment": "/opt/\0"}, "environment"),
        ({"virtual_env_packages": ["--index-url=x"]}, "virtual_env_packages"),
        ({"virtual_env_packages": ["toylib==latest"]}, "virtual_env_packages"),
        ({"virtual_env_packages": ["toylib"], "enable_virtual_env": False}, "virtual_env_packages"),
        ({"environment": "own", "enable_virtual_env": False}, "enable_virtual_env"),
        ({"model_engine": "echo", "environment": "own"}, "model_engine"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(site, words, param):
    refused = site.call("POST", "/v1/models", json={"model_name": "echo", **words})
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"] == param


def test_ctrl_c_of_the_server_ends_its_build_and_the_next_one_builds_it(site, wait):
    """The last one of this module: it ends the server, and starts it again."""
    site.call("POST", "/v1/engines/toy_two/install", json={"packages": ["toylib==0.5"]}).raise_for_status()

    def build():
        (builds,) = site.get("/v1/engines/toy_two/install")["workers"].values()
        return builds[-1]

    def checks():
        return [process for process in site.processes() if "xinfer.worker.environments.probe" in command_of(process)]

    wait(lambda: "checking" in build()["stage"] and checks(), "it is built as far as its check, which does not end")
    name = build()["environment"]
    folder = site.root / "home" / "environments" / name
    assert (folder / "venv").exists()
    program = site.programs[-1]
    program.send(signal.SIGINT)
    assert program.wait() == 0
    assert site.processes() == []
    assert not (folder / "venv").exists()
    assert not (folder / "environment.json").exists()

    site.local()
    site.call("POST", "/v1/engines/toy_two/install", json={"packages": ["toylib==0.5"]}).raise_for_status()
    (site.root / "gate").write_text("")  # now its check comes to an end
    wait(lambda: build()["state"] == "ready", "it is built")
    assert (build()["environment"], (folder / "environment.json").exists()) == (name, True)
