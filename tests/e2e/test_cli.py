"""The installed commands against a server that is really there: ``xinfer-local`` with the echo engine."""

import json
import signal
import subprocess
import sys

import pytest

COMMAND_S = 120


@pytest.fixture(scope="module")
def server(tmp_path_factory, open_site):
    with open_site(tmp_path_factory.mktemp("cli")) as site:
        site.local()
        yield site


def uids(server) -> list[str]:
    return [model["id"] for model in json.loads(server.run("list", "--json").stdout)["data"]]


def test_a_model_is_launched_shown_spoken_to_and_terminated(server):
    launched = server.run("launch", "echo", "-u", "parrot", "--replica", "2")
    assert launched.returncode == 0, launched.stderr
    assert "parrot is ready." in launched.stdout
    assert uids(server) == ["parrot"]

    status = server.run("status").stdout
    assert "parrot-0" in status
    assert "parrot-1" in status

    said = server.run("chat", stdin="Polly wants a cracker\n")
    assert (said.returncode, said.stdout) == (0, "Polly wants a cracker\n")
    continued = server.run("generate", "parrot", "--max-tokens", "2", stdin="one two three\n")
    assert (continued.returncode, continued.stdout.split()) == (0, ["one", "two"])

    assert server.run("terminate", "parrot").returncode == 0
    assert server.run("chat", "parrot", stdin="Hello\n").returncode == 1


def test_the_printed_python_lines_work_as_they_stand(server):
    launched = server.run("launch", "-n", "echo", "-u", "snippet")
    lines = launched.stdout.partition("pip install openai):\n")[2].splitlines()
    program = "\n".join(line.removeprefix("  ") for line in lines)
    done = subprocess.run(
        [sys.executable, "-c", program], env=server.env, capture_output=True, text=True, check=False, timeout=COMMAND_S
    )
    assert done.stdout == "Hello!\n", done.stderr
    server.run("terminate", "snippet")


def test_a_failing_engine_gives_its_own_reason(server):
    failed = server.run("launch", "echo", "-u", "broken", "--fail-load", "no such weights")
    assert failed.returncode == 1
    assert "broken could not be launched" in failed.stderr
    assert "no such weights" in failed.stderr
    assert "FAILED" in server.run("status").stdout
    assert server.run("terminate", "broken").returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["launch", "nothing-of-that-name"], "nothing-of-that-name"),
        (["launch", "echo", "--wings", "2"], "wings"),
        (["launch", "echo", "-en", "steam"], "steam"),
        (["launch", "echo", "--worker-ip", "10.9.9.9"], "10.9.9.9"),
        (["launch", "/nowhere/at-all"], "/nowhere/at-all"),
        (["terminate", "unheard-of"], "unheard-of"),
    ],
)
def test_what_cannot_be_is_refused_by_name(server, words, says):
    refused = server.run(*words)
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: ")
    assert says in refused.stderr


def test_a_cancelled_launch_is_gone(server):
    with server.start("launch", "echo", "-u", "late", "--load-delay-s", "600") as launching:
        seen = ""
        while "loading" not in seen and "STARTING" not in seen:
            seen = server.run("status").stdout.partition("Models")[2].partition("late")[2]
        launching.send_signal(signal.SIGINT)
        _, complaint = launching.communicate("y\n", timeout=COMMAND_S)
    assert launching.returncode == 1
    assert "The launch of late is cancelled." in complaint
    assert "late" not in uids(server)
